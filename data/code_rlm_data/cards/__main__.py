"""Writes a task as a folder that `load_dataset` reads and the hub shows: parquet in the schema, and its card.

    python -m code_rlm_data.cards --task bhive_zen4 --data-root DATA --out bhive_zen4
    python -m code_rlm_data.cards --task nasbench201 --data-root DATA --out data/code_rlm_data/cards/nasbench201 --card-only
    python -m code_rlm_data.cards --index data/README.md

Then `datasets.load_dataset("bhive_zen4")`, or `.push_to_hub("you/bhive_zen4")` of what it returns, and the README.md beside it
uploaded to the same repository. `--index` writes the table of the committed cards into a file, between its marks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from code_rlm.data.readers import TASKS, count_rows, iter_task
from code_rlm.data.schema import DataError
from code_rlm.errors_rlm import RLMError
from code_rlm_data.cards.export import check_card, export_rows
from code_rlm_data.cards.facts import FACTS

CARDS = Path(__file__).parent
START = "<!-- cards -->"
END = "<!-- end -->"


def build_parser() -> argparse.ArgumentParser:
    """Returns the argument parser."""
    parser = argparse.ArgumentParser(
        "python -m code_rlm_data.cards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", choices=[name for name in TASKS if name in FACTS], help="task to write")
    what.add_argument("--index", metavar="FILE", help="file whose table of data sets is brought up to date")
    parser.add_argument("--data-root", help="folder of the tables; by default CODE_RLM_DATA")
    parser.add_argument("--out", metavar="FOLDER", help="folder to write")
    parser.add_argument("--limit", type=int, help="at most this many rows, drawn by a hash")
    parser.add_argument("--all-metrics", action="store_true", help="computed and secondary metrics too")
    parser.add_argument("--card-only", action="store_true", help="write the card and no rows")
    return parser


def export_task(
    name: str,
    data_root: str | None,
    out: str | Path,
    *,
    limit: int | None = None,
    all_metrics: bool = False,
    card_only: bool = False,
) -> str:
    """Writes a task's folder; returns what was written, in words.

    Rows whose text cannot be built are left out, logged one by one, and counted in the card.
    """
    task = TASKS[name]
    metrics = [*task.metrics, *task.extra_metrics] if all_metrics else None
    offered = count_rows(name, data_root)
    card = export_rows(
        iter_task(name, data_root, metrics=metrics, limit=limit, on_error="skip"),
        out,
        FACTS[name],
        name=name,
        description=task.description,
        offered=offered if limit is None else min(limit, offered),
        card_only=card_only,
    )
    own = card.data.to_dict()["code_rlm"]
    return f"{out}: {own['rows']} rows, {own['groups']} groups, {len(own['metrics'])} metrics"


def index() -> str:
    """Returns the table of the committed cards: a line for each, counted from its YAML."""
    lines = ["| task | rows | groups | languages | metrics | licence |", "|---|---|---|---|---|---|"]
    for name in TASKS:
        path = CARDS / name / "README.md"
        shipped = CARDS.parent / TASKS[name].file / "README.md"
        path = shipped if shipped.is_file() else path
        if not path.is_file():
            continue
        data = check_card(path).data.to_dict()
        own = data["code_rlm"]
        languages = own["languages"] if len(own["languages"]) < 4 else [f"{len(own['languages'])} languages"]
        names = dict.fromkeys(
            f"`{metric}`" if "@" not in metric else f"`{metric.split('@')[0]}@...`" for metric in own["metrics"]
        )
        link = f"[`{name}`]({path.relative_to(CARDS.parents[1]).as_posix()})"
        cells = [
            link,
            f"{own['rows']:,}",
            f"{own['groups']:,}",
            ", ".join(languages),
            ", ".join(names),
            data["license"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_index(path: Path) -> None:
    """Puts the table of the cards between the marks of a file.

    Raises:
        DataError: The file is not there, or lacks the marks.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise DataError(f"{path}: no lines {START} and {END} to write the table between")
    path.write_text(f"{before}{start}\n{index()}\n{end}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.task and not args.out:
        parser.error("--task needs --out FOLDER")
    try:
        if args.index:
            write_index(Path(args.index))
        else:
            options = {"limit": args.limit, "all_metrics": args.all_metrics, "card_only": args.card_only}
            print(export_task(args.task, args.data_root, args.out, **options))
    except RLMError as error:
        print(f"cards: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
