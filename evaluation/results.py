"""Turns stored reports into tables: docs/results.md, the README's table, and the rows of model cards.

    python -m code_rlm.evaluation.results            # writes docs/results.md in the current folder
    python -m code_rlm.evaluation.results --check    # exit 1 if it is not what the stored reports give

Only `rows_of` reads a report; all other functions take rows.
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
        """Returns the value, and the interval in brackets where there is one.

        Args:
            digits: Behind the point.
            percent: Whether to write percent, with one digit.
        """
        value = _number(self.value, digits, percent)
        if self.low is None or self.high is None:
            return value
        return f"{value} ({_number(self.low, digits, percent)} to {_number(self.high, digits, percent)})"


@dataclass(frozen=True)
class Row:
    """The part of a report that one metric of a task has.

    Attributes:
        task: Name of the task, or of the table's file.
        metric: Name of the metric.
        hardware: What the metric was measured on; empty where that is not known.
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
        """Returns name and value of the baseline with the best score, None where there is none."""
        known = [(name, values.get(score)) for name, values in self.baselines.items()]
        defined = [(name, value) for name, value in known if value is not None]
        if not defined:
            return None
        best = max if SCORES[score][1] else min
        return best(defined, key=lambda pair: pair[1])

    def is_behind(self, score: str) -> bool | None:
        """Whether the best baseline is better; None where there is nothing to compare."""
        best = self.best_baseline(score)
        own = self.scores[score].value
        if best is None or own is None:
            return None
        return own < best[1] if SCORES[score][1] else own > best[1]

    def is_certain(self, score: str) -> bool:
        """Whether the best baseline, its value taken as exact, lies outside the model's interval."""
        best = self.best_baseline(score)
        own = self.scores[score]
        if best is None or own.low is None or own.high is None:
            return True
        return not own.low <= best[1] <= own.high

    def verdict(self, score: str = "spearman") -> str:
        """Returns the comparison of the model with the best baseline in words."""
        behind = self.is_behind(score)
        best = self.best_baseline(score)
        if behind is None or best is None:
            return "nothing to compare with"
        name = best[0]
        name = BASELINES.get(name, name)
        if behind:
            return f"**{name} wins**" if self.is_certain(score) else f"{name} is better, within the interval"
        if self.is_certain(score):
            return "**the model is ahead of every baseline**"
        return f"the model is ahead, with {name} within the interval"


def rows_of(report: Mapping[str, Any]) -> list[Row]:
    """Returns the rows of a report of `evaluation.report`, in its order."""
    rows = []
    for task, metrics in report["tasks"].items():
        rows += [_row(task, metric, entry) for metric, entry in metrics.items()]
    return rows


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
    """Returns what a metric of a task was measured on; empty for other tables and where the source does not state it."""
    try:
        return TASKS[task].hardware_of(metric)
    except (KeyError, DataError):
        return ""


# ------------------------------------------------------------------------------------------------ pieces of pages


def _number(value: float | None, digits: int = 3, percent: bool = False) -> str:
    """Returns a number as text; a dash for None."""
    if value is None:
        return _NONE
    return f"{value:.1%}" if percent else f"{value:.{digits}f}"


def _whole_percent(value: float | None) -> str:
    """Returns a share as whole percent; a dash for None."""
    return _NONE if value is None else f"{value:.0%}"


def _line(cells: Iterable[str]) -> str:
    """Returns one line of a Markdown table; bars inside cells are escaped."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table; bars inside cells are escaped."""
    return [_line(header), "|" + "---|" * len(header), *(_line(row) for row in rows)]


def _counts(row: Row) -> str:
    return f"{row.n} ({row.groups})"


def _covered(row: Row, nominal: str) -> float | None:
    """Returns the share of rows inside an interval; None where the report has no such interval."""
    return row.coverage[nominal].value if nominal in row.coverage else None


def _bold(score: Score, digits: int = 2) -> str:
    """Returns a score in bold with its interval, if any, behind it."""
    value, *interval = score.text(digits).split(" ", 1)
    return " ".join([f"**{value}**", *interval])


def summary_table(rows: Iterable[Row]) -> list[str]:
    """Returns one line a metric: the model's scores with intervals, coverage, and the baselines' Spearman beside them."""
    header = ["task", "metric", "rows (groups)", "Spearman", "Kendall", "MAPE", "in 50% / 90% interval"]
    lines = []
    for row in rows:
        coverage = " / ".join(_whole_percent(_covered(row, nominal)) for nominal in ("0.5", "0.9"))
        scores = [
            _bold(row.scores["spearman"]),
            _number(row.scores["kendall"].value, 2),
            _whole_percent(row.scores["mape"].value),
        ]
        baselines = [_number(row.baselines.get(name, {}).get("spearman"), 2) for name in _SHORT]
        lines.append([row.task, row.metric, _counts(row), *scores, coverage, *baselines])
    return table([*header, *(BASELINES[name] for name in _SHORT)], lines)


def readme_table(rows: Iterable[tuple[str, Row]]) -> list[str]:
    """Returns the short table of the README, one line for each pair of words and row: rank, best baseline, coverage."""
    header = [
        "predicted",
        "data set",
        "rows (groups)",
        "Spearman",
        "best simple baseline",
        "true value in 90% interval",
    ]
    lines = []
    for words, row in rows:
        best = row.best_baseline("spearman")
        baseline = _NONE if best is None else f"{_number(best[1], 2)} {BASELINES.get(best[0], best[0])}"
        coverage = _whole_percent(_covered(row, "0.9"))
        score = _bold(row.scores["spearman"])
        lines.append([words, row.task, f"{row.n:,} ({row.groups:,})", score, baseline, coverage])
    return table(header, lines)


def score_table(rows: Iterable[Row]) -> list[str]:
    """Returns every score of the model with its interval, and what the metric was measured on."""
    titles = [title for title, _ in SCORES.values()]
    lines = []
    for row in rows:
        scores = [row.scores[name].text(percent=not larger) for name, (_, larger) in SCORES.items()]
        lines.append([row.task, row.metric, row.hardware or _NONE, _counts(row), *scores])
    return table(["task", "metric", "measured on", "rows (groups)", *titles], lines)


def _before_and_after(row: Row, own: str, given: str) -> str:
    """Returns what the model's own intervals give and, where there are calibrated ones, what these give."""
    return f"{own} → {given}" if row.calibrated else own


def coverage_table(rows: Sequence[Row]) -> list[str]:
    """Returns the share of rows inside the central intervals, own and calibrated, and the width of the 90% interval."""
    nominals = sorted({nominal for row in rows for nominal in row.coverage}, key=float)
    lines = []
    for row in rows:
        if not row.coverage:
            continue
        shares = []
        for nominal in nominals:
            own = _number(row.own_coverage.get(nominal), percent=True)
            shares.append(_before_and_after(row, own, _number(_covered(row, nominal), percent=True)))
        confidence = _NONE
        if "0.9" in row.coverage:
            low = _number(row.coverage["0.9"].low, percent=True)
            confidence = f"{low} to {_number(row.coverage['0.9'].high, percent=True)}"
        own_width = _number(row.own_width.get("0.9"), 2)
        width = _before_and_after(row, own_width, _number(row.width.get("0.9"), 2))
        lines.append([row.task, row.metric, _counts(row), *shares, confidence, width])
    named = [f"{float(nominal):.0%}" for nominal in nominals]
    return table(["task", "metric", "rows (groups)", *named, "90%: confidence", "width of 90%"], lines)


def baseline_table(rows: Iterable[Row]) -> list[str]:
    """Returns the scores of the model and of each baseline, and in words which is better in rank."""
    titles = [title for title, _ in SCORES.values()]
    lines = []
    for row in rows:
        if not row.baselines:
            continue
        own = {name: row.scores[name].value for name in SCORES}
        lines.append([row.task, row.metric, "**this model**", *_plain_scores(own), row.verdict()])
        for name, values in row.baselines.items():
            lines.append(["", "", BASELINES.get(name, name), *_plain_scores(values), ""])
    return table(["task", "metric", "predictor", *titles, "in rank (Spearman)"], lines)


def _plain_scores(values: Mapping[str, float | None]) -> list[str]:
    """Returns the scores of `SCORES` as text: those of which more is better as numbers, errors as percent."""
    return [_number(values.get(name), percent=not larger) for name, (_, larger) in SCORES.items()]


def language_table(rows: Iterable[Row]) -> list[str]:
    """Returns the mean rank agreement inside one language, of model and baselines; no lines where no row has several."""
    several = [row for row in rows if row.within_languages is not None]
    if not several:
        return []
    names = list(dict.fromkeys(name for row in several for name in row.baselines))
    lines = []
    for row in several:
        baselines = [_number(row.baselines.get(name, {}).get("within_languages")) for name in names]
        lines.append([row.task, row.metric, (row.within_languages or Score(None)).text(), *baselines])
    return table(["task", "metric", "**this model**", *(BASELINES.get(name, name) for name in names)], lines)


def paper_table(rows: Iterable[Row]) -> list[str]:
    """Returns the paper's figures beside ours, their place in the paper, and what keeps the two apart."""
    lines = []
    for row in rows:
        for figure in row.paper:
            own = row.scores[figure.score].text()
            title = SCORES[figure.score][0]
            lines.append([row.task, row.metric, title, own, _number(figure.value), figure.where, figure.comparable])
    return table(["task", "metric", "score", "here", "paper", "where in the paper", "can they be compared?"], lines)


def who_wins(rows: Sequence[Row]) -> list[str]:
    """Returns in words, for rank and for relative error, the rows in which a baseline is better than the model."""
    lines = []
    for score, what in (("spearman", "rank (Spearman)"), ("mape", "relative error (MAPE)")):
        compared = [row for row in rows if row.is_behind(score) is not None]
        if not compared:
            continue
        behind = [row for row in compared if row.is_behind(score)]
        end = ":" if behind else "."
        lines.append(f"- **In {what}** a simple baseline is better in {len(behind)} of {len(compared)} rows{end}")
        lines += [_behind_in_words(row, score) for row in behind]
    return lines


def _behind_in_words(row: Row, score: str) -> str:
    """Returns the line of a row whose best baseline is better than the model."""
    name, value = row.best_baseline(score) or ("", None)
    percent = not SCORES[score][1]
    certain = "" if row.is_certain(score) else "; within the interval"
    own = row.scores[score].text(percent=percent)
    baseline = f"{BASELINES.get(name, name)} {_number(value, percent=percent)}"
    return f"  - {row.task}, {row.metric}: {baseline}, the model {own}{certain}."


def coverage_words(rows: Sequence[Row], nominal: str = "0.9") -> list[str]:
    """Returns in words which intervals miss their nominal coverage, and which were not calibrated.

    Args:
        rows: Of a report.
        nominal: The coverage of the intervals, as reports write it.
    """
    promised = float(nominal)
    lines = []
    off = [row for row in rows if nominal in row.coverage and _misses(row.coverage[nominal], promised)]
    if off:
        named = ", ".join(f"{row.task} {row.metric} ({row.coverage[nominal].value:.1%})" for row in off)
        lines.append(f"- The confidence interval of the coverage leaves {promised:.0%} out for: {named}.")
    if own := [row for row in rows if row.coverage and not row.calibrated]:
        named = ", ".join(f"{row.task} {row.metric}" for row in own)
        lines.append(f"- The model's own intervals, not calibrated: {named}.")
    return lines


def _misses(score: Score, promised: float) -> bool:
    """Whether the confidence interval of a coverage leaves out the nominal one."""
    return score.low is not None and score.high is not None and not score.low <= promised <= score.high


# ------------------------------------------------------------------------------------------------ the page


def stored_reports(root: str | Path = ".") -> dict[str, dict[str, Any]]:
    """Returns the reports of `REPORTS` below a folder by path, that of the shipped weights first."""
    root = Path(root)
    paths = [path for pattern in REPORTS for path in sorted(root.glob(pattern))]
    return {path.relative_to(root).as_posix(): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns docs/results.md, made of reports by path."""
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
    """Yields the lines of one report."""
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
    """Returns the lines behind an empty one; nothing where there are none."""
    return ["", *lines] if lines else []


def main(argv: list[str] | None = None) -> int:
    """Runs the command line in the repository's root; returns the exit status."""
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


__all__ = ["REPORTS", "Row", "Score", "page", "readme_table", "rows_of", "stored_reports", "summary_table"]

if __name__ == "__main__":
    sys.exit(main())
