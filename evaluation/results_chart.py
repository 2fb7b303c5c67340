"""The picture of the results: rank correlations with their intervals beside the best simple baseline's, as an SVG.

It is written as text, without a plotting library, so that the same report gives the same file on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from code_rlm.evaluation.results import BASELINES, Row

# Okabe and Ito's colours, which people with any colour vision can distinguish.
MODEL, BASELINE, TEXT, LIGHT, GRID = "#0072B2", "#D55E00", "#222222", "#666666", "#DDDDDD"
_WIDTH, _ROW, _TOP, _BOTTOM = 920, 30, 74, 40
_LEFT, _RIGHT = 300, 690  # ends of the axis from 0 to 1
_NOTES = 710  # where the columns to the right of the axis begin
_FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Mark:
    """One line of the picture.

    Attributes:
        label: What is predicted, in words.
        detail: Data set and rows.
        value, low, high: Spearman correlation of the model and its interval.
        baseline: Name of the best simple baseline; empty without one.
        baseline_value: Its Spearman correlation.
    """

    label: str
    detail: str
    value: float
    low: float
    high: float
    baseline: str = ""
    baseline_value: float = 0.0

    @classmethod
    def of(cls, label: str, row: Row) -> Mark:
        """Returns the mark of a report's row.

        Args:
            label: What is predicted, in words.
            row: Of the report.

        Raises:
            ValueError: The row has no rank correlation.
        """
        score = row.scores["spearman"]
        if score.value is None:
            raise ValueError(f"{row.task}, {row.metric} has no rank correlation to draw.")
        low = score.value if score.low is None else score.low
        high = score.value if score.high is None else score.high
        name, value = row.best_baseline("spearman") or ("", 0.0)
        return cls(label, f"{row.task}, {row.n:,} rows", score.value, low, high, BASELINES.get(name, name), value)


def chart(marks: Sequence[Mark], title: str) -> str:
    """Returns the SVG of some marks, one line each, from top to bottom."""
    height = _TOP + _ROW * len(marks) + _BOTTOM
    description = "; ".join(f"{mark.label} {mark.value:.2f}" for mark in marks)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" font-family="{_FONT}">',
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(description)}</desc>",
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#FFFFFF"/>',
        _text(20, 28, title, size=16, weight=600),
        *_legend(),
        *_axis(height),
    ]
    for number, mark in enumerate(marks):
        lines += _line(mark, _TOP + _ROW * number + _ROW / 2)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _legend() -> list[str]:
    """Returns what the two marks mean, and the heads of the columns."""
    return [
        _interval(22, 46, 52, MODEL),
        _circle(34, 52, MODEL),
        _text(54, 56, "this model, 95% interval", size=12, color=LIGHT),
        _ring(222, 52),
        _text(234, 56, "best simple baseline", size=12, color=LIGHT),
        _text(_NOTES, 56, "model", size=12, color=LIGHT),
        _text(_NOTES + 52, 56, "baseline", size=12, color=LIGHT),
    ]


def _axis(height: int) -> list[str]:
    """Returns grid lines and tick labels from 0 to 1."""
    bottom = height - _BOTTOM
    lines = []
    for step in range(6):
        at = _position(step / 5)
        lines.append(f'<line x1="{at:g}" y1="{_TOP}" x2="{at:g}" y2="{bottom}" stroke="{GRID}"/>')
        lines.append(_text(at, bottom + 16, f"{step / 5:.1f}", size=11, color=LIGHT, anchor="middle"))
    middle = (_LEFT + _RIGHT) / 2
    return [*lines, _text(middle, bottom + 32, "Spearman correlation", size=11, color=LIGHT, anchor="middle")]


def _line(mark: Mark, at: float) -> list[str]:
    """Returns a mark's label, its points on the axis and its numbers, at a height."""
    lines = [
        _text(_LEFT - 14, at - 1, mark.label, size=12.5, anchor="end"),
        _text(_LEFT - 14, at + 11, mark.detail, size=9.5, color=LIGHT, anchor="end"),
    ]
    if mark.baseline:
        lines.append(_ring(_position(mark.baseline_value), at))
        lines.append(_text(_NOTES + 52, at + 4, f"{mark.baseline_value:.2f}  {mark.baseline}", size=12, color=LIGHT))
    lines.append(_interval(_position(mark.low), _position(mark.high), at, MODEL))
    lines.append(_circle(_position(mark.value), at, MODEL))
    lines.append(_text(_NOTES, at + 4, f"{mark.value:.2f}", size=12.5, color=MODEL, weight=600))
    return lines


def _position(value: float) -> float:
    """Returns where a correlation stands on the axis; negative ones stand at its beginning."""
    return round(_LEFT + (_RIGHT - _LEFT) * min(max(value, 0.0), 1.0), 1)


def _interval(first: float, last: float, at: float, color: str) -> str:
    return f'<line x1="{first:g}" y1="{at:g}" x2="{last:g}" y2="{at:g}" stroke="{color}" stroke-width="2.5"/>'


def _circle(x: float, y: float, color: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="5" fill="{color}"/>'


def _ring(x: float, y: float) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="4.5" fill="#FFFFFF" stroke="{BASELINE}" stroke-width="2"/>'


def _text(
    x: float, y: float, words: str, *, size: float, color: str = TEXT, anchor: str = "start", weight: int = 400
) -> str:
    style = f'font-size="{size:g}" font-weight="{weight}" fill="{color}" text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>'


__all__ = ["Mark", "chart"]
