"""The command `code-rlm`: predict, and the others of `COMMANDS`.

code-rlm predict examples/                        # the weights that ship, offline
code-rlm predict model.onnx --metrics cifar10_valid_accuracy_percent --interval 0.8 --format json
code-rlm train --config configs/small_1.yaml --data_root DATA
code-rlm evaluate --task bhive_zen4 --data-root DATA --out report
code-rlm convert akhauriyash/RLM-GemmaS-Code-v0 published
code-rlm measure solutions/ --out measured        # time and memory of programs, as a data set to train on
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from transformers.utils import logging

from code_rlm.errors_rlm import InputError, RLMError
from code_rlm.inputs_rlm import LANGUAGES, CodeInput, read_input
from code_rlm.loading import pipeline

FORMATS = ("table", "json", "csv")
COLUMNS = ("file", "metric", "value", "unit", "low", "high", "level", "calibrated", "truncated_tokens")

# Each with its help and the module whose `main` it is; imported only when asked for, as most bring much with them.
COMMANDS = {
    "train": ("train or fine-tune a model", "code_rlm.train"),
    "evaluate": ("measure a model against baselines", "code_rlm.evaluation.run"),
    "calibrate": ("fit a model's intervals on held-out rows", "code_rlm.evaluation.calibration"),
    "pareto": ("files that no other beats in two metrics", "code_rlm.evaluation.pareto"),
    "card": ("write a checkpoint's model card", "code_rlm.hub.card"),
    "convert": ("read the paper's published weights", "code_rlm.hub.convert"),
    "measure": ("measure programs into a data set", "code_rlm.data.measure.run"),
}


def build_parser() -> argparse.ArgumentParser:
    """The argument parser of `predict`; the other commands have their own, in their modules."""
    parser = argparse.ArgumentParser(
        "code-rlm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    predict = commands.add_parser("predict", help="predict numbers for files", description="Predict numbers for files.")
    predict.add_argument(
        "files", nargs="+", metavar="FILE", help="files, directories (walked), or - for standard input"
    )
    predict.add_argument("--metrics", nargs="+", help="metrics in decoding order; by default those of the file's kind")
    predict.add_argument("--given", nargs="+", default=[], metavar="NAME=VALUE", help="known values to condition on")
    predict.add_argument("--context", nargs="+", default=[], metavar="KEY=VALUE", help="header lines, as in training")
    predict.add_argument("--interval", type=float, default=0.9, help="probability that the interval holds [0.9]")
    predict.add_argument(
        "--uncalibrated", action="store_true", help="the model's own intervals, where the checkpoint has a calibration"
    )
    predict.add_argument("--model", help="checkpoint folder or hub id; by default the weights that ship")
    predict.add_argument("--language", help="kind of input, where the file's name does not tell")
    predict.add_argument("--batch-size", type=int, help="inputs run together [16]")
    predict.add_argument("--format", choices=FORMATS, help="output; by default a table on a terminal, JSON elsewhere")
    for name, (text, _) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, or 2 after one line on what is wrong."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        return import_module(COMMANDS[argv[0]][1]).main(argv[1:])
    args = build_parser().parse_args(argv)
    try:
        return predict(args, sys.stdout)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RLMError as error:
        print(f"code-rlm: {error}", file=sys.stderr)
        return 2


def predict(args: argparse.Namespace, out: TextIO) -> int:
    """`code-rlm predict`."""
    given, context = parse_pairs(args.given, "--given"), parse_pairs(args.context, "--context")
    for name, value in given.items():
        try:
            given[name] = float(value)
        except ValueError:
            raise InputError(f"--given {name}={value}: the value must be a number.") from None
    found = list(find_inputs(args.files))  # missing files are told before the weights are loaded

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    shared = int(os.environ.get("WORLD_SIZE", "1")) > 1  # under `accelerate launch`
    if shared:
        from code_rlm.evaluation.shards import is_main_process, own_device

        if "-" in args.files:
            raise InputError("Standard input cannot be shared out over processes; name files or directories.")
    pipe = pipeline(args.model, device=own_device() if shared else None)
    speaks = not shared or is_main_process()
    inputs, skipped = [], []
    for path, named in found:
        if path == "-":
            item = CodeInput(_standard_input(), source="<stdin>")
        else:
            item = Path(path)
        try:
            read = read_input(item, language=args.language)
            if not args.metrics and read.language:
                pipe.model.config.metrics_for(read.language)
        except RLMError as error:
            if named:
                raise
            skipped.append(f"{path}: {error}")
            continue
        inputs.append(read)
    if skipped and speaks:
        print(f"code-rlm: {len(skipped)} files skipped, the first: {skipped[0]}", file=sys.stderr)
    if not inputs:
        raise InputError(f"There is nothing to predict for; known kinds of files: {' '.join(sorted(LANGUAGES))}.")
    options = {"metrics": args.metrics, "given": given, "context": context, "interval": args.interval}
    options |= {"calibrated": not args.uncalibrated, "batch_size": args.batch_size}
    answers = _answers(pipe, inputs, options, shared)
    if not speaks:
        return 0
    rows = [{"file": item.source, **entry} for item, answer in zip(inputs, answers, strict=True) for entry in answer]
    style = args.format or ("table" if out.isatty() else "json")
    {"table": write_table, "json": write_json, "csv": write_csv}[style](rows, out)
    return 0


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"<stdin>: not UTF-8 text (byte {error.start}); is it binary?") from None


def parse_pairs(items: list[str], option: str) -> dict[str, str]:
    """NAME=VALUE arguments as a mapping."""
    pairs = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise InputError(f"{option} takes NAME=VALUE, got {item!r}.")
        pairs[name] = value
    return pairs


def find_inputs(names: list[str]) -> Iterator[tuple[str, bool]]:
    """Files as (path, whether it was named itself); directories are walked for known suffixes, hidden ones left out."""
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


def _answers(pipe: Any, inputs: list[Any], options: dict[str, Any], shared: bool) -> list[Any]:
    """The pipeline's answers, chunk by chunk, so that batches and answers are the same for any number of processes."""
    size = 8 * max(1, options["batch_size"] or pipe.default_batch_size)  # what is no size is told by the pipeline
    chunks = [inputs[i : i + size] for i in range(0, len(inputs), size)]
    if shared:
        from code_rlm.evaluation.shards import map_shards

        return [answer for part in map_shards(lambda chunk: pipe(chunk, **options), chunks) for answer in part]
    return [answer for chunk in _with_progress(chunks, len(inputs)) for answer in pipe(chunk, **options)]


def _with_progress(chunks: list[list[Any]], inputs: int) -> Iterator[list[Any]]:
    """The chunks one by one, with a progress bar on a terminal when there are many inputs."""
    if inputs < 64 or not sys.stderr.isatty():
        yield from chunks
        return
    from tqdm import tqdm

    with tqdm(total=inputs, unit="file") as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))


# ---------------------------------------------------------------------------------------------------- output


def write_json(rows: list[dict[str, Any]], out: TextIO) -> None:
    """One list of objects."""
    json.dump(rows, out, indent=1, allow_nan=False)
    out.write("\n")


def write_csv(rows: list[dict[str, Any]], out: TextIO) -> None:
    """One line per file and metric, with a header."""
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)


def write_table(rows: list[dict[str, Any]], out: TextIO) -> None:
    """A table for people, in human units."""
    level = rows[0]["level"]
    head = ("file", "metric", "value", f"{level:.0%} interval", "")
    lines = []
    for row in rows:
        value, unit = human(row["value"], row["unit"])
        low, high = (human(row[k], row["unit"]) for k in ("low", "high"))
        note = f"{row['truncated_tokens']} tokens of the middle left out" if row["truncated_tokens"] else ""
        lines.append((row["file"], row["metric"], f"{value} {unit}", f"{' '.join(low)} to {' '.join(high)}", note))
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    for line in [head, *lines]:
        out.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n")


def human(value: float | None, unit: str) -> tuple[str, str]:
    """A number and its unit as people write them: 1536 bytes as 1.5 KiB, 0.002 ms as 2 us."""
    if value is None or isinstance(value, str):
        return str(value), unit
    size = abs(value)
    scales = [(1.0, unit)]
    if unit == "bytes":
        scales = [(1024.0**-k, name) for k, name in enumerate(("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"))]
    elif unit == "ms" and size:
        scales = [(1e6, "ns"), (1e3, "us"), (1.0, "ms"), (1e-3, "s")]
    scale, name = next(((s, n) for s, n in reversed(scales) if size * s >= 1), scales[0])
    value *= scale
    text = f"{value:.4g}" if scale == 1 else f"{value:.3g}"
    # Thousands are written out: 1,000 KiB, 2,500 s.
    return (f"{value:,.0f}" if "e+" in text and abs(value) < 1e15 else text), name


if __name__ == "__main__":
    sys.exit(main())
