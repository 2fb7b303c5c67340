"""Triton source that Inductor writes for random small PyTorch modules, with the latency of a call where there is a GPU.

    python -m code_rlm_data.inductor --modules 300 --variants 4 --out DATA/inductor_triton  # needs 'code-rlm-data[triton]'
    python -m code_rlm_data.inductor --modules 3 --print                                      # look at some

The seed decides the modules: a module is a chain of layers and functions (its group), a variant gives it sizes. With a CUDA GPU
the source is for that GPU, and each module is run by a process of its own and timed by `triton.testing.do_bench`. Without one
Inductor gets the description of a device that is not there, and writes source for compute capability 9.0. Every
kernel is then compiled down to machine code (Triton and its assembler need no GPU), nothing is run, and the rows have outcomes
but no numbers. The folder is read by the task `inductor_triton`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from code_rlm.data.readers import TASKS
from code_rlm.data.schema import DataError, Example
from code_rlm.errors_rlm import RLMError
from code_rlm_data.cards import FACTS, export_rows
from code_rlm_data.inductor.bench import Bench
from code_rlm_data.inductor.modules import draw, size
from code_rlm_data.inductor.source import ABSENT_HARDWARE, compile_kernels, source_of, target


def examples(seed: int, modules: int, variants: int, failures: Counter[str]) -> Iterator[Example]:
    """Yields a row for each variant of each module, and counts in `failures` what went wrong, in words.

    A module that Inductor cannot write source for has no text, hence no row; `failures` counts it.
    """
    with target() as device:
        there = torch.cuda.is_available()
        bench = Bench()
        import triton

        versions = f"torch {torch.__version__}; triton {triton.__version__}"
        hardware = torch.cuda.get_device_name() if there else ABSENT_HARDWARE
        try:
            for number in range(modules):
                spec = draw(seed, number)
                for variant in range(variants):
                    try:
                        sized = size(spec, seed, variant)
                        text = source_of(sized, spec.dtype, device)
                    except Exception as error:  # of Inductor, of any kind; the row would have no text
                        failures[f"no source: {_first_line(f'{type(error).__name__}: {error}')}"] += 1
                        continue
                    outcome, message = compile_kernels(text)
                    value = None
                    if there and outcome == "ok":
                        outcome, value, message = bench(text)
                    if outcome != "ok":
                        failures[f"{outcome}: {_first_line(message)}"] += 1
                    yield Example(
                        text=text,
                        language="triton",
                        metrics=["latency_ms"],
                        values=[value],
                        context=["input_size: " + ", ".join("x".join(map(str, shape)) for shape in sized.shapes)],
                        group=spec.group,
                        source="inductor_triton",
                        outcome=outcome,
                        hardware=hardware,
                        versions=versions,
                    )
        finally:
            bench.close()


def _first_line(text: str) -> str:
    """Returns the start of a message, so that like ones are counted together."""
    return text.partition("\n")[0][:100]


def generate(out: str, seed: int, modules: int, variants: int) -> str:
    """Writes the data set and its card; returns what it holds, in words."""
    failures: Counter[str] = Counter()
    total = modules * variants
    task = TASKS["inductor_triton"]
    began = time.monotonic()
    quiet = not sys.stderr.isatty()

    def shown() -> Iterator[Example]:
        last = began
        for done, example in enumerate(
            tqdm(examples(seed, modules, variants, failures), "modules", total, disable=quiet), 1
        ):
            if quiet and time.monotonic() - last > 30:
                last = time.monotonic()
                print(f"{done} of {total} modules", file=sys.stderr, flush=True)
            yield example

    command = f"python -m code_rlm_data.inductor --seed {seed} --modules {modules} --variants {variants} --out FOLDER"
    card = export_rows(
        shown(),
        out,
        replace(FACTS[task.name], remake=command),
        name=task.name,
        description=task.description,
        offered=total,
        left_because="Inductor writes no source for them",
        sections=lambda: {"What went wrong": "\n".join(f"- {count}: {what}" for what, count in failures.most_common())},
    )
    rows = card.data.to_dict()["code_rlm"]["rows"]
    return f"{out}: {rows} of {total} modules in {time.monotonic() - began:.0f} s" + "".join(
        f"\n  {count} {what}" for what, count in failures.most_common()
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m code_rlm_data.inductor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the modules and their sizes [0]")
    parser.add_argument("--modules", type=int, default=300, help="modules without sizes, each a group [300]")
    parser.add_argument("--variants", type=int, default=4, help="sizes of each [4]")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", metavar="FOLDER", help="folder of the data set")
    what.add_argument("--print", action="store_true", help="print the sources and write nothing")
    args = parser.parse_args(argv)
    try:
        if args.modules < 1 or args.variants < 1:
            raise DataError(f"--modules and --variants must be at least 1, got {args.modules} and {args.variants}")
        if args.print:
            for example in examples(args.seed, args.modules, args.variants, Counter()):
                print(
                    f"# {example.group}: {example.context[0]}: {example.outcome} {example.values[0] or ''}\n{example.text}"
                )
        else:
            print(generate(args.out, args.seed, args.modules, args.variants))
    except RLMError as error:
        print(f"inductor: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
