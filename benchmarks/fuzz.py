"""Fuzzes every reader: mutated programs, assembly, ONNX files and texts, context lines; counts what is read and refused.

    python benchmarks/fuzz.py --count 100000 --seed 0

A reader may refuse an input with an error of the package. Any other exception, and a reader that takes longer than
`SLOW_S` seconds, is a fault: the input is printed and the exit status is 1.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from benchmarks.size_templates import KINDS, TEMPLATES, program
from code_rlm.assembly_rlm import parse_assembly
from code_rlm.errors_rlm import RLMError
from code_rlm.familiarity_rlm import observe
from code_rlm.onnx_costs_rlm import network_costs
from code_rlm.onnx_text_rlm import graph_cost, onnx_to_text
from code_rlm.processing_rlm import context_lines, expand_input
from code_rlm.program_costs_rlm import program_costs
from code_rlm.source_rlm import allocated_bytes, canonical_source, constants, with_kernel_sizes

SLOW_S = 10.0
MOST_CHARACTERS = 20_000
ROOT = Path(__file__).parents[1]
_ALPHABET = "0123456789abcxyzABC_ \t\n\"'`\\/#;:,.()[]{}<>+-*=!&|^%$@~?\u00e9\u4e2d\U0001f600"
_WORDS = (
    "for while if def fn let var int long new return range vector malloc map [0] * n .. ..= :: -> <- => << >> ** // /* */ ''' "
    '""" 1e9 0x7fffffffffffffff 1_000 1e400 -1 0 rep movsb ymm zmm qword ptr [rax+rcx*8-8] %rax $1 .L1: .text loop'
).split(" ")


def mutated(text: str, other: str, rng: random.Random) -> str:
    """A text after one to eight random edits, a short one after fewer; some take parts of another one."""
    for _ in range(rng.randint(1, min(1 + len(text) // 40, 8))):
        first, last = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        last = min(last, first + rng.choice((1, 3, 20, 200)))
        edit = rng.randrange(7)
        if edit == 0:
            text = text[:first] + text[last:]
        elif edit == 1:
            text = text[:first] + "".join(rng.choices(_ALPHABET, k=rng.randint(1, 8))) + text[first:]
        elif edit == 2:
            text = text[:first] + rng.choice(_WORDS) + text[last:]
        elif edit == 3:
            text = text[:last] + text[first:last] * rng.randint(1, 30) + text[last:]
        elif edit == 4:
            start = rng.randint(0, len(other))
            text = text[:first] + other[start : start + rng.randint(1, 300)] + text[last:]
        elif edit == 5:
            text = text[:first] + str(rng.choice((0, 1, 7, 10**6, 2**63, 10**30, -5))) + text[last:]
        else:
            text = text[:first] + rng.choice("([{<\"'") * rng.randint(1, 50) + text[first:]
    return text[:MOST_CHARACTERS]


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes after one to three random edits."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(changed))
        if rng.random() < 0.7:
            changed[at] = rng.randrange(256)
        elif rng.random() < 0.5:
            del changed[at : at + rng.randint(1, 16)]
        else:
            changed[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        if not changed:
            break
    return bytes(changed)


def read_program(text: str, language: str) -> None:
    """Every reader of programs."""
    program_costs(text, language)
    canonical_source(text, language)
    constants(text, language)
    allocated_bytes(text, language)
    observe(text, language, (), ())


def read_assembly(text: str) -> None:
    """The front end of assembly, with bounds."""
    parse_assembly(text)
    expand_input({"text": text, "language": "x86asm"})


def read_graph(data: bytes) -> None:
    """An ONNX file, its text and its costs."""
    model = onnx.load_model_from_string(data)
    network_costs(onnx_to_text(model))
    graph_cost(model)


def read_kernel(text: str, context: str) -> None:
    """A Triton file with context lines."""
    with_kernel_sizes(context_lines([context]), text)


class Fuzzer:
    """Draws inputs of all kinds.

    Args:
        seed: Of the random numbers.
    """

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.programs = [(program(language, kind, "1000"), language) for language in TEMPLATES for kind in KINDS]
        files = sorted((ROOT / "benchmarks" / "everyday").rglob("*.*"))
        self.texts = [path.read_text(encoding="utf-8") for path in files] + [text for text, _ in self.programs]
        self.blocks = [(ROOT / "examples" / "dot_product.s").read_text(encoding="utf-8"), *_BLOCKS]
        self.kernel = (ROOT / "examples" / "softmax_triton.py").read_text(encoding="utf-8") + _KERNEL_TEST
        self.graphs = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.onnx"))] + [_small_graph()]
        self.graph_texts = [onnx_to_text(onnx.load_model_from_string(data)) for data in self.graphs]

    def draw(self) -> tuple[str, Callable[[], None], object]:
        """The kind of an input, what reads it, and the input."""
        rng, other = self.rng, self.rng.choice(self.texts)
        kind = rng.choices(("program", "assembly", "graph", "graph text", "kernel", "any"), (45, 25, 12, 8, 5, 5))[0]
        if kind == "program":
            text, language = rng.choice(self.programs)
            text = mutated(rng.choice((text, other)), other, rng)
            return kind, lambda: read_program(text, language), (language, text)
        if kind == "assembly":
            block = mutated(rng.choice(self.blocks), rng.choice((other, *self.blocks)), rng)
            return kind, lambda: read_assembly(block), block
        if kind == "graph":
            data = mutated_bytes(rng.choice(self.graphs[-1:] * 9 + self.graphs), rng)
            return kind, lambda: read_graph(data), data
        if kind == "graph text":
            graph = mutated(rng.choice(self.graph_texts), other, rng)
            return kind, lambda: (network_costs(graph), observe(graph, "onnx", (), ()))[0], graph
        if kind == "kernel":
            kernel = mutated(self.kernel, other, rng)
            context = mutated("input_size: [[4096, 16], [16]]", "(4096, 16) x 2\u00d74", rng)
            return kind, lambda: read_kernel(kernel, context), (kernel, context)
        text = "".join(rng.choices(_ALPHABET, k=rng.randint(0, 200)))
        return kind, lambda: expand_input({"text": text}), text


_BLOCKS = (
    "add rcx, 8\nvfmadd231ps ymm0, ymm1, ymm2\ncmp rcx, rdx\n",
    "imulq %rbx, %rax\naddq -8(%rdi,%rcx,8), %rax # a\n",
    "  401000:\t48 0f af c3          \timul   rax,rbx\n  401004:\t48 01 c8             \tadd    rax,rcx\n",
    "f:\n.L3:\n\tmovsd xmm1, QWORD PTR -8[rdi]\n\tadd rdi, 8\n\tmulsd xmm1, xmm0\n\tcmp rdi, rax\n\tjne .L3\n\tret\n",
)
_KERNEL_TEST = (
    '\n\ndef main():\n    rows, cols = 4096, 1 << 12\n    x = torch.randn((rows, cols), device="cuda")\n    run(x)\n'
)


def _small_graph() -> bytes:
    """A graph of a few operators."""
    helper = onnx.helper
    floats = onnx.TensorProto.FLOAT
    weight = helper.make_tensor("w", floats, [4, 3, 3, 3], [0.5] * 108)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["y"]),
    ]
    given = [helper.make_tensor_value_info("x", floats, [1, 3, 8, 8])]
    made = [helper.make_tensor_value_info("y", floats, [1, 4])]
    graph = helper.make_graph(nodes, "g", given, made, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def fuzz(count: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Reads so many inputs.

    Returns:
        How many of each kind were read and refused, and a description of each fault.
    """
    fuzzer = Fuzzer(seed)
    outcomes: Counter[tuple[str, str]] = Counter()
    faults: list[str] = []
    for number in range(count):
        kind, read, given = fuzzer.draw()
        began = time.process_time()
        try:
            read()
            outcome = "read"
        except (RLMError, DecodeError):
            outcome = "refused"
        except Exception as error:
            outcome = "fault"
            faults.append(f"input {number} ({kind}): {error!r} at {given!r:.2000}")
        if (took := time.process_time() - began) > SLOW_S:
            outcome = "slow"
            faults.append(f"input {number} ({kind}): {took:.0f} s at {given!r:.2000}")
        outcomes[kind, outcome] += 1
    return outcomes, faults


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="inputs [100000]")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers [0]")
    args = parser.parse_args()
    outcomes, faults = fuzz(args.count, args.seed)
    for (kind, outcome), found in sorted(outcomes.items()):
        print(f"{kind:12} {outcome:8} {found:8,}")
    print(*faults[:20], sep="\n")
    print(f"{sum(outcomes.values()):,} inputs, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
