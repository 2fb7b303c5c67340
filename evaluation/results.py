"""From stored reports to tables: docs/results.md, the README's table, and the rows that model cards show.

    python -m code_rlm.evaluation.results            # writes docs/results.md in the current folder
    python -m code_rlm.evaluation.results --check    # exit 1 if it is not what the stored reports give

`rows_of` is the one place that reads a report; everything else writes rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from code_rlm.data.readers import TASKS
from code_rlm.data.schema import DataError
from code_rlm.evaluation.paper import FIGURES, SOURCE, PaperFigure

# Where reports lie, as patterns below the repository's root; the first is that of the shipped weights.
REPORTS = ("checkpoints/default/report.json", "docs/reports/*.json", "benchmarks/results/*report*.json")
PAGE = Path("docs/results.md")
# Score to what it is called, and whether more is better.
SCORES = {
    "spearman": ("Spearman", True),
    "kendall": ("Kendall", True),
    "mape": ("MAPE", False),
    "median_ape": ("median APE", False),
}
BASELINES = {
    "constant": "constant",
    "length_only": "length only",
    "context_only": "context only",
    "tfidf_ridge": "TF-IDF + ridge",
    "gradient_boosting": "boosted trees",
    "flops": "FLOPs",
    "params": "parameters",
}
# Columns of baselines in short tables.
_SHORT = ("length_only", "tfidf_ridge", "gradient_boosting", "context_only")
_NONE = "–"


@dataclass(frozen=True)
class Score:
    """A score with its confidence interval; None for what the rows do not define."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def text(self, digits: int = 3, percent: bool = False) -> str:
        """The value, and the interval in brackets where there is one."""
        ends = [_number(end, digits, percent) for end in (self.value, self.low, self.high)]
        return ends[0] if self.low is None or self.high is None else f"{ends[0]} ({ends[1]} to {ends[2]})"


@dataclass(frozen=True)
class Row:
    """What a report says of one task and metric.

    Attributes:
        task: Name of the task, or of the table's file.
        metric: Name of the metric.
        hardware: What the metric was measured on; empty where the table does not tell.
        n: Rows scored.
        groups: Groups among them.
        scores: Those of `SCORES`.
        coverage: Nominal coverage, such as "0.9", to the share of rows inside the interval as it is given to users.
        own_coverage: The same of the model's own intervals; those of `coverage` where nothing was calibrated.
        width, own_width: Median of width over |target|, by nominal coverage.
        calibrated: Whether `coverage` is that of calibrated intervals.
        baselines: Name to score to value.
        within_languages: Mean over languages of the Spearman correlation inside each; None where there is one language.
        paper: The paper's figures beside it.
        truncated_share: Share of rows of which the model saw only a part.
        excluded: Rows left out, by reason.
    """

    task: str
    metric: str
    hardware: str
    n: int
    groups: int
    scores: Mapping[str, Score]
    coverage: Mapping[str, Score]
    own_coverage: Mapping[str, float]
    width: Mapping[str, float | None]
    own_width: Mapping[str, float | None]
    calibrated: bool
    baselines: Mapping[str, Mapping[str, float | None]]
    within_languages: Score | None = None
    paper: Sequence[PaperFigure] = ()
    truncated_share: float = 0.0
    excluded: Mapping[str, int] = field(default_factory=dict)

    def best_baseline(self, score: str) -> tuple[str, float] | None:
        """Name and value of the baseline with the best score, None where there is none."""
        larger = SCORES[score][1]
        found = {name: values[score] for name, values in self.baselines.items() if values.get(score) is not None}
        if not found:
            return None
        name = (max if larger else min)(found, key=found.__getitem__)
        return name, found[name]

    def is_behind(self, score: str) -> bool | None:
        """Whether the best baseline is better; None where there is nothing to compare."""
        best, own = self.best_baseline(score), self.scores[score].value
        if best is None or own is None:
            return None
        return own < best[1] if SCORES[score][1] else own > best[1]

    def is_certain(self, score: str) -> bool:
        """Whether the best baseline, its value taken as exact, lies outside the model's interval."""
        best, own = self.best_baseline(score), self.scores[score]
        return best is None or own.low is None or own.high is None or not own.low <= best[1] <= own.high

    def verdict(self, score: str = "spearman") -> str:
        """The model beside the best baseline in words."""
        behind = self.is_behind(score)
        if behind is None:
            return "nothing to compare with"
        name = self.best_baseline(score)[0]
        name = BASELINES.get(name, name)
        if behind:
            return f"**{name} wins**" if self.is_certain(score) else f"{name} is better, within the interval"
        if self.is_certain(score):
            return "**the model is ahead of every baseline**"
        return f"the model is ahead, with {name} within the interval"


def rows_of(report: Mapping[str, Any]) -> list[Row]:
    """The rows of a report of `evaluation.report`, in its order."""
    return [_row(task, metric, entry) for task, metrics in report["tasks"].items() for metric, entry in metrics.items()]


def _row(task: str, metric: str, entry: Mapping[str, Any]) -> Row:
    ends = entry.get("coverage_interval", {})
    coverage = {nominal: Score(value, *ends.get(nominal, ())) for nominal, value in entry["coverage"].items()}
    own = entry.get("uncalibrated", entry)
    return Row(
        task=task,
        metric=metric,
        hardware=hardware_of(task, metric),
        n=entry["n"],
        groups=entry["groups"],
        scores={name: Score(**entry[name]) for name in SCORES},
        coverage=coverage,
        own_coverage=own["coverage"],
        width=entry.get("width", {}),
        own_width=own.get("width", {}),
        calibrated=entry.get("calibrated", False),
        baselines=entry["baselines"],
        within_languages=Score(**entry["within_languages"]) if "within_languages" in entry else None,
        paper=[each for each in FIGURES if each.about(task, metric)],
        truncated_share=entry.get("truncated_share", 0.0),
        excluded=entry.get("excluded", {}),
    )


def hardware_of(task: str, metric: str) -> str:
    """What a metric of a task was measured on; empty for tables of one's own and where the source does not tell."""
    try:
        return TASKS[task].hardware_of(metric)
    except (KeyError, DataError):
        return ""


# ------------------------------------------------------------------------------------------------ pieces of pages


def _number(value: float | None, digits: int = 3, percent: bool = False) -> str:
    if value is None:
        return _NONE
    return f"{value:.1%}" if percent else f"{value:.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; bars inside cells are escaped."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *map(line, rows)]


def summary_table(rows: Iterable[Row]) -> list[str]:
    """One line a metric: the model's scores with intervals, coverage, and the baselines' Spearman beside them."""
    header = ["task", "metric", "rows (groups)", "Spearman", "Kendall", "MAPE", "in 50% / 90% interval"]
    return table(
        [*header, *(BASELINES[name] for name in _SHORT)],
        [
            [
                *(row.task, row.metric, f"{row.n} ({row.groups})"),
                "**{}** ({} to {})".format(
                    *(_number(getattr(row.scores["spearman"], end), 2) for end in ("value", "low", "high"))
                ),
                _number(row.scores["kendall"].value, 2),
                _NONE if row.scores["mape"].value is None else f"{row.scores['mape'].value:.0%}",
                " / ".join(
                    f"{row.coverage[nominal].value:.0%}" if nominal in row.coverage else _NONE
                    for nominal in ("0.5", "0.9")
                ),
                *(_number(row.baselines.get(name, {}).get("spearman"), 2) for name in _SHORT),
            ]
            for row in rows
        ],
    )


def score_table(rows: Iterable[Row]) -> list[str]:
    """Every score of the model with its interval, and what the metric was measured on."""
    return table(
        ["task", "metric", "measured on", "rows (groups)", *(title for title, _ in SCORES.values())],
        [
            [
                *(row.task, row.metric, row.hardware or _NONE, f"{row.n} ({row.groups})"),
                *(row.scores[name].text(percent=not larger) for name, (_, larger) in SCORES.items()),
            ]
            for row in rows
        ],
    )


def coverage_table(rows: Sequence[Row]) -> list[str]:
    """Share of rows inside the central intervals, the model's own and calibrated, and what the width of 90% becomes."""
    nominals = sorted({nominal for row in rows for nominal in row.coverage}, key=float)

    def cell(row: Row, nominal: str) -> str:
        own, given = row.own_coverage.get(nominal), row.coverage.get(nominal, Score(None)).value
        return (
            f"{_number(own, percent=True)} → {_number(given, percent=True)}"
            if row.calibrated
            else _number(own, percent=True)
        )

    def width(row: Row) -> str:
        own, given = row.own_width.get("0.9"), row.width.get("0.9")
        return f"{_number(own, 2)} → {_number(given, 2)}" if row.calibrated else _number(own, 2)

    return table(
        ["task", "metric", "rows (groups)", *(f"{float(n):.0%}" for n in nominals), "90%: confidence", "width of 90%"],
        [
            [
                *(row.task, row.metric, f"{row.n} ({row.groups})"),
                *(cell(row, nominal) for nominal in nominals),
                "{} to {}".format(
                    *(_number(getattr(row.coverage["0.9"], end), percent=True) for end in ("low", "high"))
                )
                if "0.9" in row.coverage
                else _NONE,
                width(row),
            ]
            for row in rows
            if row.coverage
        ],
    )


def baseline_table(rows: Iterable[Row]) -> list[str]:
    """Spearman, Kendall and MAPE of the model and of each baseline, and in words who is ahead in rank."""
    return table(
        ["task", "metric", "predictor", "Spearman", "Kendall", "MAPE", "median APE", "in rank (Spearman)"],
        [
            [
                *((row.task, row.metric) if not number else ("", "")),
                "**this model**" if not number else BASELINES.get(name, name),
                *(_number(values.get(score), percent=not larger) for score, (_, larger) in SCORES.items()),
                row.verdict() if not number else "",
            ]
            for row in rows
            if row.baselines
            for number, (name, values) in enumerate(
                {"": {name: row.scores[name].value for name in SCORES}, **row.baselines}.items()
            )
        ],
    )


def language_table(rows: Iterable[Row]) -> list[str]:
    """Rank agreement inside one language, in the mean, of the model and of each baseline; no lines where no row has several."""
    rows = [row for row in rows if row.within_languages is not None]
    names = list(dict.fromkeys(name for row in rows for name in row.baselines))
    return rows and table(
        ["task", "metric", "**this model**", *(BASELINES.get(name, name) for name in names)],
        [
            [
                *(row.task, row.metric, row.within_languages.text()),
                *(_number(row.baselines.get(name, {}).get("within_languages")) for name in names),
            ]
            for row in rows
        ],
    )


def paper_table(rows: Iterable[Row]) -> list[str]:
    """The paper's figures beside ours, from where, and what keeps the two apart."""
    return table(
        ["task", "metric", "score", "here", "paper", "where in the paper", "can they be compared?"],
        [
            [
                *(row.task, row.metric, SCORES[each.score][0], row.scores[each.score].text()),
                *(_number(each.value), each.where, each.comparable),
            ]
            for row in rows
            for each in row.paper
        ],
    )


def who_wins(rows: Sequence[Row]) -> list[str]:
    """In words, for rank and for relative error: where a baseline is ahead, and where the model is."""
    lines = []
    for score, what in (("spearman", "rank (Spearman)"), ("mape", "relative error (MAPE)")):
        compared = [row for row in rows if row.is_behind(score) is not None]
        if not compared:
            continue
        behind = [row for row in compared if row.is_behind(score)]
        lines.append(
            f"- **In {what}** a simple baseline is better in {len(behind)} of {len(compared)} rows"
            + (":" if behind else ".")
        )
        for row in behind:
            name, value = row.best_baseline(score)
            percent = not SCORES[score][1]
            certain = "" if row.is_certain(score) else "; within the interval"
            lines.append(
                f"  - {row.task}, {row.metric}: {BASELINES.get(name, name)} {_number(value, percent=percent)}, the model "
                f"{row.scores[score].text(percent=percent)}{certain}."
            )
    return lines


def coverage_words(rows: Sequence[Row], nominal: str = "0.9") -> list[str]:
    """Intervals whose coverage is surely not what they promise, and those that nothing calibrated."""
    promised, lines = float(nominal), []
    off = [row for row in rows if nominal in row.coverage and _misses(row.coverage[nominal], promised)]
    if off:
        named = ", ".join(f"{row.task} {row.metric} ({row.coverage[nominal].value:.1%})" for row in off)
        lines.append(f"- The confidence interval of the coverage leaves {promised:.0%} out for: {named}.")
    if own := [row for row in rows if row.coverage and not row.calibrated]:
        named = ", ".join(f"{row.task} {row.metric}" for row in own)
        lines.append(f"- The model's own intervals, not calibrated: {named}.")
    return lines


def _misses(score: Score, promised: float) -> bool:
    return score.low is not None and score.high is not None and not score.low <= promised <= score.high


# ------------------------------------------------------------------------------------------------ the page


def stored_reports(root: str | Path = ".") -> dict[str, dict[str, Any]]:
    """The reports of `REPORTS` below a folder: path to report, the shipped weights' first."""
    root = Path(root)
    paths = [path for pattern in REPORTS for path in sorted(root.glob(pattern))]
    return {path.relative_to(root).as_posix(): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/results.md from path and report of each."""
    lines = [
        "# Results",
        "",
        f"Written by `python -m code_rlm.evaluation.results` from {', '.join(f'`{name}`' for name in reports)}. Nothing was "
        "typed but the paper's figures, which stand in `evaluation/paper.py`.",
        "",
        "- Rows are split by group: no program, kernel, problem or architecture of the scored rows was trained on.",
        "- In brackets: bootstrap confidence intervals over whole groups. A baseline's value is taken as exact.",
        "- Baselines (`evaluation/baselines.py`) were fitted in the same run on rows of the same training split.",
        "- Coverage counts a value as the number format writes it. Before → after calibration; where only one number stands, "
        "nothing was calibrated. Width is the median of width over |true value|.",
    ]
    for name, report in reports.items():
        lines += ["", *_section(name, report)]
    return "\n".join(lines) + "\n"


def _section(name: str, report: Mapping[str, Any]) -> Iterator[str]:
    rows = rows_of(report)
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    yield f"## {report['model']}"
    yield ""
    yield (
        f"`{name}`: {report['date']}, {report.get('split', 'test')} split, seed {report['seed']}, {report['level']:.0%} "
        f"intervals from {report['resamples']} resamples; run on {report['hardware']}; {versions}."
    )
    fitted = ", ".join(f"{task} {count:,}" for task, count in report.get("rows_baselines_were_fitted_on", {}).items())
    if fitted:
        yield f"Rows that baselines were fitted on: {fitted}."
    yield from ("", "### Scores", "", *score_table(rows))
    yield from ("", "### Intervals", "", *coverage_table(rows))
    yield from _block(coverage_words(rows))
    yield from ("", "### Beside simple baselines", "", *who_wins(rows), "", *baseline_table(rows))
    if inside := language_table(rows):
        yield from (
            "",
            "### Inside one language",
            "",
            "Mean of Spearman's rho inside each language that has more than 8 rows.",
            "",
            *inside,
        )
    if any(row.paper for row in rows):
        yield from ("", "### Beside the paper", "", f"Figures of {SOURCE}.", "", *paper_table(rows))
    notes = [f"- {note}" for note in report.get("notes", ())]
    for row in rows:
        if row.truncated_share:
            notes.append(
                f"- {row.task}, {row.metric}: {row.truncated_share:.1%} of the rows were longer than the model reads."
            )
        for reason, count in row.excluded.items():
            notes.append(f"- {row.task}, {row.metric}: {count} rows left out ({reason.replace('_', ' ')}).")
    yield from ("", "### Notes", *_block(notes)) if notes else ()


def _block(lines: Sequence[str]) -> list[str]:
    return ["", *lines] if lines else []


def main(argv: list[str] | None = None) -> int:
    """Command line; run in the repository's root."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 if the page is not up to date")
    args = parser.parse_args(argv)
    reports = stored_reports()
    if not reports:
        print(f"no report here; run it in the repository's root, where {REPORTS[0]} is", file=sys.stderr)
        return 2
    text = page(reports)
    if args.check:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


__all__ = ["REPORTS", "Row", "Score", "page", "rows_of", "stored_reports", "summary_table"]

if __name__ == "__main__":
    sys.exit(main())
