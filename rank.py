"""`code-rlm rank`: which of several files is best in one metric, with the option to measure the likeliest ones.

    code-rlm rank kernels/ --metric latency_ms --context input_size=4096x4096
    code-rlm rank solutions/ --metric cpu_time_ms --measure-top 3

P(best) is exact for independent distributions (`distributions_rlm.probability_best`). With `--measure-top K` the K likeliest
candidates are measured (`code-rlm measure`), their distributions become single values, and all are ranked again.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from transformers.utils import logging

from code_rlm.console import log, quantity, write_csv, write_json, write_table
from code_rlm.distributions_rlm import Distribution
from code_rlm.errors_rlm import InputError, MissingPackageError
from code_rlm.familiarity_rlm import UNFAMILIAR
from code_rlm.loading import pipeline
from code_rlm.pipeline_rlm import ranking
from code_rlm.predict import find_inputs, parse_pairs, read_inputs
from code_rlm.processing_rlm import CodeInput

COLUMNS = (
    "rank", "file", "metric", "value", "unit", "low", "high", "level", "probability_best", "calibrated", "familiarity",
    "measured", "truncated_tokens",
)  # fmt: skip
Answer = tuple[dict[str, Any], Distribution]


def rank(args: argparse.Namespace, out: TextIO) -> int:
    """Runs the command; returns 0, or 1 where files were skipped.

    Raises:
        RLMError: Nothing to rank, or nothing to measure with.
    """
    context = parse_pairs(args.context, "--context")
    paths = list(find_inputs(args.files))
    if args.measure_top:
        _measuring()  # an error before the weights are loaded
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipe = pipeline(args.model)
    pipe.model.config.metric(args.metric)
    inputs, skipped = read_inputs(pipe, paths, argparse.Namespace(**{**vars(args), "metrics": [args.metric]}))
    for line in skipped:
        log(f"code-rlm rank: skipped {line}")
    if len(inputs) < 2:
        raise InputError(f"Ranking needs at least two inputs, got {len(inputs)}.")
    answers = pipe.distributions(
        inputs,
        args.metric,
        context=context,
        interval=args.interval,
        calibrated=not args.uncalibrated,
        batch_size=args.batch_size,
    )
    smaller = pipe.model.config.metric(args.metric).smaller_is_better
    rows = ranking(answers, smaller)
    if args.measure_top:
        likeliest = sorted(rows, key=lambda row: -row["probability_best"])[: args.measure_top]
        answers = with_measured(answers, inputs, [row["index"] for row in likeliest], args.metric)
        rows = ranking(answers, smaller)
    named = [{"file": row.pop("source"), **row} for row in rows]
    write_rows(named, args.format or ("table" if out.isatty() else "json"), out)
    return 1 if skipped else 0


def with_measured(
    answers: Sequence[Answer], inputs: Sequence[CodeInput], chosen: Sequence[int], metric: str
) -> list[Answer]:
    """Returns answers in which those of some inputs are what was measured here.

    Args:
        answers: One for each input.
        inputs: Whole files.
        chosen: Which to measure.
        metric: What.

    Raises:
        RLMError: An input that is no whole file, or a metric that cannot be measured here.
    """
    changed = list(answers)
    for index, value in measured_values([inputs[index] for index in chosen], metric).items():
        entry, _ = answers[chosen[index]]
        number = {"value": value, "low": value, "high": value, "measured": True, "calibrated": True}
        # A program that failed has no number and is never the best.
        whole = Distribution(np.array([value or 0.0]), np.array([value or 0.0]), np.ones(1), float(value is not None))
        changed[chosen[index]] = {**entry, **number}, whole
    return changed


def measured_values(inputs: Sequence[CodeInput], metric: str) -> dict[int, float | None]:
    """Measures files with `code_rlm_data`; returns the median by input, None for a program that failed."""
    from code_rlm.data.tables import read_table

    measure = _measuring()

    values: dict[int, float | None] = {}
    for index, item in enumerate(inputs):
        if not Path(item.source).is_file():
            raise InputError(
                f"{item.source} is a part of a file; only whole files can be measured. Leave --measure-top out."
            )
        log(f"code-rlm rank: measuring {item.source}")
        with tempfile.TemporaryDirectory(prefix="code-rlm-") as folder:
            programs = measure.read_programs(item.source, language=item.language)
            table = measure.measure_programs(programs, folder, metrics=[metric])
            rows = read_table(table)
        # Several inputs of one program (NAME/*.in): their mean.
        numbers = [row["values"][0] for row in rows]
        values[index] = None if None in numbers else float(np.mean(numbers))
        if values[index] is None:
            log(f"code-rlm rank: {item.source} failed: {', '.join(sorted(set(rows['outcome'])))}")
    return values


def _measuring() -> Any:
    """Returns the package that measures, which is a distribution of its own.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        return import_module("code_rlm_data.measure")
    except ModuleNotFoundError:
        raise MissingPackageError(
            "--measure-top needs the package code_rlm_data, which is not installed: pip install code-rlm-data"
        ) from None


def write_rows(rows: Sequence[Mapping[str, Any]], style: str, out: TextIO) -> None:
    """Writes the ranking as a table, JSON or CSV."""
    if style == "json":
        write_json(rows, out)
        return
    if style == "csv":
        write_csv(rows, COLUMNS, out)
        return
    head = ("rank", "file", rows[0]["metric"], f"{rows[0]['level']:.0%} interval", "P(best)", "familiarity", "")
    write_table(head, [_cells(row) for row in rows], out)
    if any(_is_unfamiliar(row) for row in rows):
        out.write("* unlike the training rows: the answer is widened, and shows little of the order\n")


def _is_unfamiliar(row: Mapping[str, Any]) -> bool:
    return row.get("familiarity") is not None and row["familiarity"] < UNFAMILIAR and not row.get("measured")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns a row of the table, in human units."""
    interval = "measured"
    if not row.get("measured"):
        interval = f"{quantity(row['low'], row['unit'])} to {quantity(row['high'], row['unit'])}"
    familiarity = "" if row.get("familiarity") is None else f"{row['familiarity']:.2f}"
    return (
        str(row["rank"]),
        row["file"],
        quantity(row["value"], row["unit"]),
        interval,
        f"{row['probability_best']:.1%}",
        familiarity + ("*" if _is_unfamiliar(row) else ""),
        f"{row['truncated_tokens']} tokens left out" if row["truncated_tokens"] else "",
    )


__all__ = ["COLUMNS", "rank", "with_measured"]
