"""Generates, measures and exports the data set polyglot_memory, one step a command.

    python -m code_rlm_data.generator generate --problems 160 --variants 7 --out programs.parquet
    python -m code_rlm_data.generator measure programs.parquet --out measured --hours 2
    python -m code_rlm_data.generator remeasure programs.parquet --measured measured --out noise --programs 20
    python -m code_rlm_data.generator export measured --noise noise --out data/code_rlm_data/polyglot_memory
    python -m code_rlm_data.generator estimate --seed 1 --problems 40000 --out polyglot_estimates.parquet
    python -m code_rlm_data.generator predict-costs polyglot_estimates.parquet

`generate` without a command is the same as the first line: `python -m code_rlm_data.generator --seed 0 --out FILE`.
Measuring is resumed when its command is given again. `estimate` runs nothing: it writes programs of other problems to
pretrain on, and `predict-costs` adds the memory and time that a cost model predicts, which is fitted to measured programs.
`install_toolchains.sh` installs what measuring needs.
"""

from __future__ import annotations

import argparse
import sys

from code_rlm.errors_rlm import RLMError
from code_rlm_data.generator import cost_model, dataset, estimates
from code_rlm_data.generator.emitters import EMITTERS

COMMANDS = ("generate", "measure", "remeasure", "export", "estimate", "predict-costs")


def build_parser() -> argparse.ArgumentParser:
    """Returns the argument parser of all commands."""
    parser = argparse.ArgumentParser(
        "python -m code_rlm_data.generator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    generate = commands.add_parser("generate", help="write programs with their expected answers to a table")
    generate.add_argument("--seed", type=int, default=0, help="decides everything [0]")
    generate.add_argument("--problems", type=int, default=160, help="skeletons, each a group [160]")
    generate.add_argument("--variants", type=int, default=7, help="variants of a problem in each language [7]")
    generate.add_argument("--languages", nargs="+", default=list(EMITTERS), metavar="NAME", help="by default all")
    generate.add_argument("--most-ms", type=float, default=260.0, help="estimated CPU time of a program [260]")
    generate.add_argument("--most-mb", type=float, default=280.0, help="estimated memory of a program [280]")
    generate.add_argument("--out", required=True, metavar="FILE", help="parquet table to write")

    dataset.add_measuring(commands)

    estimate = commands.add_parser("estimate", help="write programs of other problems with estimates, to pretrain on")
    estimate.add_argument("--seed", type=int, default=1, help="any but that of the measured problems [1]")
    estimate.add_argument("--problems", type=int, default=40_000, help="problems to write [40000]")
    estimate.add_argument("--each", type=int, default=2, help="languages that each is written in [2]")
    estimate.add_argument("--languages", nargs="+", default=list(EMITTERS), metavar="NAME", help="by default all")
    estimate.add_argument(
        "--stages", type=int, nargs="+", default=[1, 2, 3], help="families a problem may have [1 2 3]"
    )
    estimate.add_argument("--out", required=True, metavar="FILE", help="parquet table to write")

    costs = commands.add_parser(
        "predict-costs", help="add the memory and time that a cost model predicts to tables of estimate"
    )
    costs.add_argument("tables", nargs="+", metavar="FILE", help="tables that estimate wrote; they are replaced")
    costs.add_argument("--data-root", metavar="FOLDER", help="of the measured table [the one that ships]")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0].startswith("--") and argv[0] not in ("--help", "-h"):
        argv.insert(0, "generate")
    args = build_parser().parse_args(argv)
    try:
        if args.command == "generate":
            print(dataset.generate(args))
        elif args.command == "estimate":
            print(
                estimates.write(
                    args.out,
                    seed=args.seed,
                    problems=args.problems,
                    each=args.each,
                    languages=tuple(args.languages),
                    stages=tuple(args.stages),
                )
            )
        elif args.command == "predict-costs":
            print(cost_model.predict_costs(args.tables, args.data_root))
        else:
            print(dataset.run_measuring(args))
    except RLMError as error:
        print(f"generator: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
