"""`code-rlm predict`: answers for files, as a table, JSON or CSV."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from transformers.utils import logging

from code_rlm.console import log, quantity, with_progress, write_csv, write_json, write_table
from code_rlm.errors_rlm import InputError, RLMError, UnfamiliarInputError
from code_rlm.familiarity_rlm import UNFAMILIAR
from code_rlm.loading import pipeline
from code_rlm.processing_rlm import LANGUAGES, CodeInput, expand_input, read_input
from code_rlm.units import parse_quantity

COLUMNS = ("file", "metric", "value", "unit", "low", "high", "level", "calibrated", "familiarity", "truncated_tokens")
TABLES = (".csv", ".jsonl", ".json", ".parquet", ".tsv")


def predict(args: argparse.Namespace, out: TextIO) -> int:
    """Runs the command; returns 0, 1 where files were skipped, 3 for an unfamiliar input with `--strict`."""
    given = parse_numbers(parse_pairs(args.given, "--given"), "--given")
    context = parse_pairs(args.context, "--context")
    named_paths = list(find_inputs(args.files))  # a missing file is an error before the weights are loaded

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    shared = int(os.environ.get("WORLD_SIZE", "1")) > 1  # under `accelerate launch`
    device, writes = None, True
    if shared:
        from code_rlm.evaluation.shards import is_main_process, own_device

        if "-" in args.files:
            raise InputError("Standard input cannot be shared out over processes; name files or directories.")
        device, writes = own_device(), is_main_process()
    if shared and args.device:
        raise InputError("--device cannot be given where work is shared out over processes; each takes its own.")
    pipe = _loaded(args, args.device or device)
    inputs, skipped = read_inputs(pipe, named_paths, args)
    if skipped and writes:
        log(f"code-rlm predict: {len(skipped)} of {len(named_paths)} files skipped")
        for line in skipped:
            log(f"code-rlm predict: skipped {line}")
    if not inputs:
        if skipped:
            return 2
        raise InputError(f"There is nothing to predict for; known suffixes of files: {' '.join(sorted(LANGUAGES))}.")
    options = {
        "metrics": args.metrics,
        "given": given,
        "context": context,
        "interval": args.interval,
        "calibrated": not args.uncalibrated,
        "batch_size": args.batch_size,
        "strict": args.strict,
        "outcomes": args.outcomes,
        "quantiles": args.quantiles or None,
        "above": parse_limits(pipe, parse_pairs(args.above, "--above")),
    }
    try:
        answers = _answers(pipe, inputs, options, shared)
    except UnfamiliarInputError as error:
        log(f"code-rlm predict: {error}")
        return 3
    if writes:
        rows = [
            {"file": item.source, **entry} for item, answer in zip(inputs, answers, strict=True) for entry in answer
        ]
        write_rows(rows, args.format or ("table" if out.isatty() else "json"), out)
    return 1 if skipped else 0


def _loaded(args: argparse.Namespace, device: Any) -> Any:
    """Returns the pipeline on a device.

    Raises:
        InputError: A device that is not there.
    """
    try:
        return pipeline(args.model, device=device, dtype=getattr(torch, args.dtype) if args.dtype else None)
    except RLMError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        if args.device is None:
            raise
        raise InputError(f"--device {args.device} cannot be used: {str(error).splitlines()[0]}") from None


def parse_limits(pipe: Any, pairs: dict[str, str]) -> dict[str, float]:
    """Returns limits in the units of their metrics.

    Raises:
        InputError: A text that is no quantity.
        MetricError: A metric that the checkpoint does not know.
    """
    return {name: parse_quantity(text, pipe.model.config.metric(name).unit, name) for name, text in pairs.items()}


def parse_pairs(items: Sequence[str], option: str) -> dict[str, str]:
    """Returns NAME=VALUE arguments as a mapping.

    Raises:
        InputError: An argument of another form.
    """
    pairs = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise InputError(f"{option} takes NAME=VALUE, got {item!r}.")
        pairs[name] = value
    return pairs


def parse_numbers(pairs: dict[str, str], option: str) -> dict[str, float]:
    """Returns the values of NAME=VALUE arguments as numbers.

    Raises:
        InputError: A value that is no number.
    """
    numbers = {}
    for name, value in pairs.items():
        try:
            numbers[name] = float(value)
        except ValueError:
            raise InputError(f"{option} {name}={value}: the value must be a number.") from None
    return numbers


def parse_shapes(items: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Returns NAME:1x3x224x224 arguments as shapes by input; a shape alone is that of the only input, named "".

    Raises:
        InputError: An argument of another form.
    """
    shapes = {}
    for item in items:
        name, _, sizes = item.rpartition(":")
        parts = sizes.split("x")
        if not all(part.isdigit() and int(part) > 0 for part in parts):
            raise InputError(f"--input-shape takes NAME:1x3x224x224, got {item!r}.")
        shapes[name] = tuple(int(part) for part in parts)
    return shapes


def find_inputs(names: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yields files as (path, whether it was named itself); directories are walked for known suffixes, hidden ones left out.

    Raises:
        InputError: A name that does not exist, or a directory without such files.
    """
    for name in names:
        if name == "-":
            yield name, True
        elif os.path.isdir(name):
            inside = []
            for folder, folders, files in os.walk(name):
                folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__pycache__")
                inside += [os.path.join(folder, f) for f in sorted(files) if Path(f).suffix.lower() in LANGUAGES]
            if not inside:
                raise InputError(f"{name} holds no file with a known suffix ({' '.join(sorted(LANGUAGES))}).")
            yield from ((path, False) for path in inside)
        elif os.path.exists(name):
            yield name, True
        else:
            raise InputError(f"{name} does not exist.")


def read_inputs(
    pipe: Any, named_paths: Sequence[tuple[str, bool]], args: argparse.Namespace
) -> tuple[list[CodeInput], list[str]]:
    """Returns the inputs of files, and a line for each file that cannot be used while others can.

    A file with several loops or blocks of assembly gives an input for each, a table one for each row.

    Raises:
        RLMError: The only file cannot be used.
    """
    inputs: list[CodeInput] = []
    skipped: list[str] = []
    for path, _ in named_paths:
        try:
            read = _read_path(path, args)
            for item in read:
                if not args.metrics and item.language:
                    pipe.model.config.metrics_for(item.language)
        except RLMError as error:
            if len(named_paths) == 1:
                raise
            reason = str(error)
            skipped.append(reason if path in reason else f"{path}: {reason}")
            continue
        inputs += read
    return inputs, skipped


def _read_path(path: str, args: argparse.Namespace) -> list[CodeInput]:
    """Returns the inputs of one file, of standard input for `-`."""
    if path == "-":
        return expand_input(CodeInput(_standard_input(), source="<stdin>"), language=args.language)
    shapes = parse_shapes(args.input_shape)
    if Path(path).suffix.lower() in TABLES:
        return _read_table(Path(path), args)
    return expand_input(Path(path), language=args.language, input_shapes=shapes)


def _read_table(path: Path, args: argparse.Namespace) -> list[CodeInput]:
    """Returns an input for each row of a table; its `source` ends in the row's number, from 0.

    Raises:
        InputError: No column of code, or a row that cannot be read.
    """
    from code_rlm.data.external import read_cells  # needs datasets and pyarrow
    from code_rlm.data.schema import DataError

    names = [args.text_column] if args.text_column else ["text", "code"]
    for name in names:
        try:
            rows = list(read_cells(path, [name], ["language", "context"]))
            break
        except DataError as error:
            if name == names[-1]:
                raise InputError(f"{error} Name the column of the code with --text-column.") from None
    inputs: list[CodeInput] = []
    for number, (place, cells) in enumerate(rows):
        language = cells.get("language") or args.language
        try:
            item = CodeInput(str(cells[name]), source=f"{path}:{number}")
            inputs.append(read_input(item, language=language, context=_context(cells.get("context"))))
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
    return inputs


def _context(cell: Any) -> list[str]:
    """Returns the lines of a cell of context: a list, or the text of a table that has no lists, a line each."""
    if cell is None:
        return []
    return cell.split("\n") if isinstance(cell, str) and cell else list(cell)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"<stdin>: not UTF-8 text (byte {error.start}); is it binary?") from None


def _answers(pipe: Any, inputs: Sequence[Any], options: dict[str, Any], shared: bool) -> list[Any]:
    """Returns the pipeline's answers, chunk by chunk, so that batches and answers are the same for any number of processes."""
    batch_size = options["batch_size"]
    size = (
        pipe.most_inputs if batch_size is None else 8 * max(1, batch_size)
    )  # an unusable size is refused by the pipeline
    chunks = [inputs[i : i + size] for i in range(0, len(inputs), size)]
    if shared:
        from code_rlm.evaluation.shards import map_shards

        parts = map_shards(lambda chunk: pipe(chunk, **options), chunks)
    else:
        parts = [pipe(chunk, **options) for chunk in with_progress(chunks, len(inputs), "files")]
    return [answer for part in parts for answer in part]


def write_rows(rows: Sequence[dict[str, Any]], style: str, out: TextIO) -> None:
    """Writes the answers as a table, JSON or CSV."""
    if style == "json":
        write_json(rows, out)
    elif style == "csv":
        write_csv([_flat(row) for row in rows], (*COLUMNS, *_further_columns(rows)), out)
    else:
        level = next((row["level"] for row in rows if row["level"]), 0.9)
        further = _further_columns(rows)
        head = ("file", "metric", "value", f"{level:.0%} interval", *(_title(name) for name in further), "")
        marks = _footnotes(rows)
        write_table(head, [_cells(row, marks.get(tuple(row.get("reasons") or ()), ""), further) for row in rows], out)
        for reasons, mark in marks.items():
            out.write(f"{mark} unlike the training rows, answer widened: {'; '.join(reasons) or 'no single reason'}\n")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row whose further quantiles are columns of their own."""
    return {**row, **{f"quantile_{level}": value for level, value in (row.get("quantiles") or {}).items()}}


def _further_columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the columns of further quantiles and of limits that some row has."""
    quantiles = dict.fromkeys(f"quantile_{level}" for row in rows for level in row.get("quantiles") or ())
    limits = ["limit", "probability_above"] if any("limit" in row for row in rows) else []
    return [*quantiles, *limits]


def _title(column: str) -> str:
    """Returns the head of a further column of the table."""
    return {"probability_above": "P(above)"}.get(column, column.replace("_", " "))


def _is_unfamiliar(row: dict[str, Any]) -> bool:
    return row.get("familiarity") is not None and row["familiarity"] < UNFAMILIAR


def _footnotes(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, ...], str]:
    """Returns the reasons of unfamiliar rows to their marks, [1], [2], ..., in the order of the rows."""
    marks: dict[tuple[str, ...], str] = {}
    for row in rows:
        if _is_unfamiliar(row):
            marks.setdefault(tuple(row["reasons"]), f"[{len(marks) + 1}]")
    return marks


def _cells(row: dict[str, Any], mark: str, further: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns a row of the table, in human units; `further` are the columns of quantiles and limits."""
    flat = _flat(row)
    more = []
    for name in further:
        value = flat.get(name)
        if value is None:
            more.append("")
        else:
            more.append(f"{value:.1%}" if name == "probability_above" else quantity(value, row["unit"]))
    low, high = quantity(row["low"], row["unit"]), quantity(row["high"], row["unit"])
    interval = "exact" if row.get("exact") else f"{low} to {high}"
    notes = [mark] if _is_unfamiliar(row) else []
    if row["truncated_tokens"]:
        notes.append(f"{row['truncated_tokens']} tokens of the middle left out")
    return row["file"], row["metric"], quantity(row["value"], row["unit"]), interval, *more, " ".join(notes)


__all__ = ["COLUMNS", "find_inputs", "parse_pairs", "predict"]
