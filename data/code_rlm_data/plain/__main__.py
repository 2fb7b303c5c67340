"""Writes, measures and exports the data set polyglot_range, one step a command.

    python -m code_rlm_data.plain generate --seed 0 --each 300 --out programs.parquet
    python -m code_rlm_data.plain measure programs.parquet --out measured --hours 2 --core 0
    python -m code_rlm_data.plain remeasure programs.parquet --measured measured --out noise --programs-each 20
    python -m code_rlm_data.plain export measured --noise noise --out data/code_rlm_data/polyglot_range

Measuring is resumed when its command is given again. `data/code_rlm_data/generator/install_toolchains.sh` installs what it
needs. The programs are small files of everyday style whose sizes reach from idle to 3 GB and from a millisecond to 12 s.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from code_rlm.errors_rlm import RLMError
from code_rlm_data.generator import dataset
from code_rlm_data.measure import Limits
from code_rlm_data.plain.generate import samples
from code_rlm_data.plain.templates import languages

LIMITS = Limits(wall_s=40.0, cpu_s=20.0, memory_bytes=4 << 30)
TASK = "polyglot_range"
PLAN = dataset.Plan(TASK, LIMITS)


def generate(out: str, *, seed: int, each: int, names: Sequence[str]) -> str:
    """Writes the table of programs that `measure` reads.

    Args:
        out: Parquet file.
        seed: Decides everything.
        each: Programs of a language.
        names: Languages.

    Returns:
        What the table holds, in words.
    """
    rows = [
        {
            "name": made.name,
            "text": made.text,
            "language": made.language,
            "group": made.group,
            "size": made.sizes.n,
            "estimated_bytes": made.sizes.bytes,
            "estimated_ms": made.sizes.ns / 1e6,
        }
        for made in samples(seed, each, names)
    ]
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    counts = Counter(row["language"] for row in rows)
    return f"{path}: {len(rows)} programs; " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def build_parser() -> argparse.ArgumentParser:
    """Returns the argument parser of all commands."""
    parser = argparse.ArgumentParser(
        "python -m code_rlm_data.plain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    making = commands.add_parser("generate", help="write programs to a table")
    making.add_argument("--seed", type=int, default=0, help="decides everything [0]")
    making.add_argument("--each", type=int, default=300, help="programs of each language [300]")
    making.add_argument("--languages", nargs="+", default=languages(), metavar="NAME", help="by default all")
    making.add_argument("--out", required=True, metavar="FILE", help="parquet table to write")
    dataset.add_measuring(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    args = build_parser().parse_args(argv)
    try:
        if args.command == "generate":
            print(generate(args.out, seed=args.seed, each=args.each, names=args.languages))
        else:
            print(dataset.run_measuring(args, PLAN))
    except RLMError as error:
        print(f"plain: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
