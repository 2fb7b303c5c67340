"""`code-rlm explain`: which lines, blocks, instructions or operators carry a number, as a heat map, a table, JSON or HTML.

code-rlm explain solution.py --metric peak_rss_bytes
code-rlm explain model.onnx --metric latency_ms@pixel3 --html model.html
code-rlm explain loop.s --metric cycles --format json
"""

import argparse
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from transformers.utils import logging

from code_rlm.console import quantity, write_csv, write_table
from code_rlm.errors_rlm import InputError
from code_rlm.familiarity_rlm import UNFAMILIAR
from code_rlm.loading import pipeline
from code_rlm.predict import find_inputs, parse_pairs, parse_shapes
from code_rlm.processing_rlm import expand_input

COLUMNS = ("file", "metric", "unit", "name", "first_line", "last_line", "value", "value_without", "effect", "weight")
_RED, _BLUE = (214, 69, 65), (58, 110, 165)  # raises the number, lowers it


def explain(args: argparse.Namespace, out: TextIO) -> int:
    """Runs the command; returns 0.

    Raises:
        RLMError: An input or a metric that cannot be explained.
    """
    context = parse_pairs(args.context, "--context")
    paths = [path for path, _ in find_inputs(args.files)]
    if "-" in paths:
        raise InputError("explain reads files, not standard input.")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipe = pipeline(args.model)
    options = {"batch_size": args.batch_size, "calibrated": not args.uncalibrated, "context": context}
    found = []
    for path in paths:
        for item in expand_input(Path(path), language=args.language, input_shapes=parse_shapes(args.input_shape)):
            found.append(pipe.explain(item, args.metric, args.unit, args.most, **options))
    if args.html:
        Path(args.html).write_text(html_page(found), encoding="utf-8")
    style = args.format or ("table" if out.isatty() else "json")
    if style == "json":
        json.dump(found, out, indent=1, allow_nan=False)
        out.write("\n")
    elif style == "csv":
        write_csv([row for each in found for row in _rows(each)], COLUMNS, out)
    else:
        for each in found:
            write_explanation(each, out)
    return 0


def _rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns one row for each part."""
    shared = {"file": found["source"], "metric": found["metric"], "unit": found["unit"], "value": found["value"]}
    return [
        {**shared, **part, "first_line": part["lines"][0], "last_line": part["lines"][-1]} for part in found["parts"]
    ]


def write_explanation(found: Mapping[str, Any], out: TextIO) -> None:
    """Writes one explanation for people: the text with the effect of each line on a terminal in colour, then its parts.

    Args:
        found: As `CodeRegressionPipeline.explain` returns it.
        out: Where to.
    """
    out.write(f"{found['source']}: {found['metric']} {quantity(found['value'], found['unit'])}\n")
    answer = found["answer"]
    if answer.get("familiarity") is not None and answer["familiarity"] < UNFAMILIAR:
        out.write(f"unlike the training rows: {'; '.join(answer['reasons']) or 'no single reason'}\n")
    if answer["truncated_tokens"]:
        out.write(f"{answer['truncated_tokens']} tokens of the middle left out: their lines have no effect\n")
    strongest = _strongest(found["parts"])
    weights = _line_weights(found)
    if out.isatty():
        _write_colours(found["text"], weights, strongest, out)
    parts = sorted(found["parts"], key=lambda part: -abs(part["weight"]))
    head = ("effect", "without it", "lines", "part")
    write_table(head, [_cells(part, found) for part in parts[:20]], out)
    if len(parts) > 20:
        out.write(f"and {len(parts) - 20} parts of less effect; --format json has all\n")


def _cells(part: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, ...]:
    if part["effect"] is None:
        return "no number", "", _line_range(part), _shortened(part["name"])
    sign = "-" if part["effect"] < 0 else "+"
    share = f" ({part['effect'] / found['value']:+.0%})" if found["value"] else ""
    return (
        sign + quantity(abs(part["effect"]), found["unit"]) + share,
        quantity(part["value_without"], found["unit"]),
        _line_range(part),
        _shortened(part["name"]),
    )


def _line_range(part: Mapping[str, Any]) -> str:
    lines = part["lines"]
    if len(lines) == 1:
        return str(lines[0])
    together = lines[-1] - lines[0] + 1 == len(lines)
    return f"{lines[0]}-{lines[-1]}" if together else f"{len(lines)} lines"


def _shortened(text: str, most: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


def _strongest(parts: Sequence[Mapping[str, Any]]) -> float:
    return max((abs(part["weight"]) for part in parts), default=0.0) or 1.0


def _line_weights(found: Mapping[str, Any]) -> dict[int, float]:
    """Returns the weight of the part that each line is in, by the line's number from 1."""
    return {line: part["weight"] for part in found["parts"] for line in part["lines"]}


def _shade(weight: float, strongest: float) -> tuple[tuple[int, int, int], float]:
    """Returns a colour and how strong it is, from 0 to 1."""
    return (_RED if weight > 0 else _BLUE), min(abs(weight) / strongest, 1.0)


def _write_colours(text: str, weights: Mapping[int, float], strongest: float, out: TextIO) -> None:
    """Writes a text whose lines have the colour of their effect behind them."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=out)
    for number, line in enumerate(text.splitlines(), start=1):
        colour, strength = _shade(weights.get(number, 0.0), strongest)
        # Mixed with black: terminals are dark more often than not, and the text in front is white.
        red, green, blue = (round(channel * strength) for channel in colour)
        style = f"white on rgb({red},{green},{blue})" if strength >= 0.05 else ""
        console.print(Text.assemble((f"{number:4} ", "dim"), (line, style)), soft_wrap=True)


_STYLE = """body{font:14px/1.5 system-ui,sans-serif;margin:2em;max-width:70em}
pre{font:13px/1.45 ui-monospace,monospace;border:1px solid #ccc;padding:.5em;overflow-x:auto}
pre span{display:block}td,th{text-align:left;padding:.1em .8em .1em 0}i{color:#888;font-style:normal}"""


def html_page(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns a page that stands alone: each text with the effect of its lines behind them, and a table of its parts."""
    sections = "".join(_html_section(each) for each in found)
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8><title>Code-RLM explanation</title>"
        f"<style>{_STYLE}</style>\n{sections}</html>\n"
    )


def _html_section(found: Mapping[str, Any]) -> str:
    weights, strongest = _line_weights(found), _strongest(found["parts"])
    lines = []
    for number, line in enumerate(found["text"].splitlines(), start=1):
        (red, green, blue), strength = _shade(weights.get(number, 0.0), strongest)
        shade = f"rgba({red},{green},{blue},{0.75 * strength:.2f})"
        lines.append(f'<span style="background:{shade}"><i>{number:4} </i>{html.escape(line)}</span>')
    rows = []
    for part in sorted(found["parts"], key=lambda part: -abs(part["weight"])):
        cells = "".join(f"<td>{html.escape(cell)}" for cell in _cells(part, found))
        rows.append(f"<tr>{cells}")
    title = f"{found['source']}: {found['metric']} {quantity(found['value'], found['unit'])}"
    return (
        f"<h1>{html.escape(title)}</h1>\n<p>Red parts raise the number, blue ones lower it.</p>\n"
        f"<pre>{''.join(lines)}</pre>\n<table><tr><th>effect<th>without it<th>lines<th>part\n"
        + "\n".join(rows)
        + "\n</table>\n"
    )


__all__ = ["COLUMNS", "explain", "html_page", "write_explanation"]
