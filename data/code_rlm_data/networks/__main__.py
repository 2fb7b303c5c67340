"""Draws ONNX networks and measures them with onnxruntime on one CPU core.

    python -m code_rlm_data.networks measure --out FOLDER --seeds 0 3000 --core 1   # needs 'code-rlm-data[onnx]'
    python -m code_rlm_data.networks export --run FOLDER --out DATA/networks_cpu

The seed decides a network. `measure` keeps its results in FOLDER and goes on where it ended; measure some of the seeds once
more into another folder, and `export --again` reports how far the numbers differ. The data set is read by the task
`networks_cpu`.
"""

from __future__ import annotations

import argparse
import sys

from code_rlm.errors_rlm import RLMError
from code_rlm_data.networks.dataset import export


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m code_rlm_data.networks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure", help="draw and measure networks; goes on where a run ended")
    measure.add_argument("--out", required=True, metavar="FOLDER")
    measure.add_argument("--seeds", type=int, nargs=2, default=(0, 3000), metavar=("FIRST", "END"))
    measure.add_argument("--core", type=int, help="core that models run on")
    measure.add_argument("--nice", type=int, default=0, help="added to the niceness of the measuring process")
    measure.add_argument("--minutes", type=float, default=1e9, help="stop after this many minutes")
    write = commands.add_parser("export", help="write what was measured as a data set with a card")
    write.add_argument("--run", required=True, metavar="FOLDER", help="that `measure` wrote")
    write.add_argument("--again", metavar="FOLDER", help="of a second measurement of some of the seeds")
    write.add_argument("--out", required=True, metavar="FOLDER")
    args = parser.parse_args(argv)
    try:
        if args.command == "export":
            print(export(args.run, args.out, args.again))
            return 0
        from code_rlm_data.networks.stage import run

        count = run(args.out, range(*args.seeds), core=args.core, niceness=args.nice, minutes=args.minutes)
    except RLMError as error:
        print(f"networks: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {count} networks measured")
    return 0


if __name__ == "__main__":
    sys.exit(main())
