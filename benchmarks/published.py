"""The paper's published weights: what converting and answering cost, on random weights of exactly their layout and size.

    python benchmarks/published.py --folder /tmp/published           # 181,458,944 parameters, 726 MB
    python benchmarks/published.py --folder /tmp/published --source akhauriyash/RLM-GemmaS-Code-v0    # the real ones

Conversion runs in a process of its own, whose peak resident memory is read before and after. Then one input; all times contain
the encoder pass and are medians over rounds in which the ways take turns:

- `encoder`: the bare encoder pass, which every way needs
- `median + interval`: exact 5%, 50% and 95% quantiles, `model.predict`
- `64 samples`: `model.sample`, draws on the query axis of one memory
- `generate xN`: N draws by transformers' `generate` as the authors take them (top_p .95), the memory copied for each
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from code_rlm import RLMForConditionalGeneration
from code_rlm.loading import load

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

CONVERT = """
import sys, time
from pathlib import Path
from code_rlm.hub.convert import convert

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

before, began = peak(), time.perf_counter()
done = convert(sys.argv[1], sys.argv[2])
print(done.parameters, done.source_bytes, time.perf_counter() - began, before, peak())
"""
BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import published_layout as layout
texts = [p.read_text() for p in sorted(Path(sys.argv[3]).glob("*.py"))]
model = layout.stock_model(layout.SMALL, layout.IEEE)
layout.write(Path(sys.argv[1]), model, layout.text_tokenizer(texts, 4096), layout.IEEE)
"""


def convert(source: str, out: Path, threads: int) -> None:
    """Converts in a fresh process and prints what it took."""
    command = [sys.executable, "-c", CONVERT, source, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=_environment(threads))
    parameters, size, seconds, before, peak = map(float, done.stdout.split()[-5:])
    print(f"{parameters:,.0f} parameters in {size:,.0f} bytes, {threads} threads\n")
    print("| conversion | s | peak MB | before the call | peak / file |\n|---|---|---|---|---|")
    print(f"| | {seconds:.1f} | {peak / 1e6:.0f} | {before / 1e6:.0f} | {peak / size:.2f} |\n", flush=True)


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}


def ways(
    model: RLMForConditionalGeneration, inputs: dict[str, torch.Tensor], draws: list[int]
) -> dict[str, Callable[[], Any]]:
    """Returns the ways to answer: name to a call without arguments."""

    def drawing(n: int) -> Callable[[], torch.Tensor]:
        return lambda: model.generate(
            **inputs, do_sample=True, top_p=0.95, top_k=0, num_return_sequences=n, num_objectives=1
        )

    def encoder() -> Any:
        with torch.inference_mode():
            return model.encode_memory(**inputs)

    return {
        "encoder": encoder,
        "median + interval": lambda: model.predict(inputs, (0.05, 0.5, 0.95)),
        "64 samples": lambda: model.sample(inputs, 64, top_p=0.95),
        **{f"generate x{n}": drawing(n) for n in draws},
    }


def measure(
    model: RLMForConditionalGeneration, length: int, draws: list[int], rounds: int, clock: Callable[[], float]
) -> list[tuple[str, float]]:
    """Returns median seconds of each way for one input of so many tokens."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(4, 4096, (1, length), generator=generator)
    calls = ways(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, draws)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(rounds + 1):
        for name, call in calls.items():
            if not round_number and name.startswith("generate"):
                continue  # the first round warms up, which the cheaper ways do for these
            began = clock()
            call()
            if round_number:
                times[name].append(clock() - began)
    return [(name, statistics.median(seconds)) for name, seconds in times.items()]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the checkpoints are written, 1.5 GB")
    parser.add_argument("--source", help="folder or hub id of a published checkpoint instead of random weights")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--draws", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count this process's CPU time, not wall time: for a machine that does other work meanwhile, with one thread",
    )
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source, converted = args.source or str(args.folder / "random"), args.folder / "converted"
    if not args.source and not (args.folder / "random" / "config.json").exists():
        command = [sys.executable, "-c", BUILD, source, str(ROOT / "tests"), str(ROOT)]
        subprocess.run(command, check=True, env=_environment(args.threads))
    if not converted.exists():
        convert(source, converted, args.threads)
    clock, rows = time.process_time if args.cpu_time else time.perf_counter, []
    print("| dtype | tokens | way | ms | x encoder |\n|---|---|---|---|---|")
    for dtype in args.dtypes:
        model = load(converted, dtype=getattr(torch, dtype))[0].eval()
        for length in args.lengths:
            found = measure(model, length, args.draws, args.rounds, clock)
            for name, seconds in found:
                row = {
                    "dtype": dtype,
                    "tokens": length,
                    "way": name,
                    "ms": 1e3 * seconds,
                    "ratio": seconds / found[0][1],
                }
                rows.append(row)
                print(f"| {dtype} | {length} | {name} | {row['ms']:.0f} | {row['ratio']:.2f} |", flush=True)
        del model
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
