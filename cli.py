"""The command `code-rlm`: one tree of commands. Each is imported only when it runs, so that help and completion are quick.

code-rlm predict examples/                        # the weights that ship, offline
code-rlm predict model.onnx --metrics cifar10_valid_accuracy_percent --interval 0.8 --format json
code-rlm train --config mine.yaml --out runs/mine
code-rlm evaluate --task bhive_zen4 --data-root DATA --out report
code-rlm measure solutions/ --out measured        # time and memory of programs, as a data set to train on
"""

import argparse
import errno
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt

from code_rlm import __version__
from code_rlm.command_parser import CommandParser, UsageError, suggestion
from code_rlm.console import FORMATS, log
from code_rlm.errors_rlm import RLMError

SHELLS = ("bash", "zsh", "tcsh")


def _add_files(parser: CommandParser, text: str) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help=text)


def _add_model(parser: CommandParser) -> None:
    parser.add_argument(
        "--model", metavar="MODEL", help="checkpoint folder or hub id; by default the weights that ship"
    )


def _add_input_options(parser: CommandParser) -> None:
    """Adds the options of how inputs are read and answers are given, which `predict` and `pareto` share."""
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument("--language", help="language of the inputs, where the file's name does not show it")
    inputs.add_argument(
        "--input-shape",
        nargs="+",
        default=[],
        metavar="NAME:1x3x224x224",
        help="shapes of a graph's inputs, where its file leaves sizes free",
    )
    inputs.add_argument("--context", nargs="+", default=[], metavar="KEY=VALUE", help="header lines, as in training")
    inputs.add_argument("--batch-size", type=int, help="inputs run together [as many as 4,096 tokens hold]")
    output = parser.add_argument_group("output")
    output.add_argument("--interval", type=float, default=0.9, help="probability that an interval holds")
    output.add_argument(
        "--uncalibrated", action="store_true", help="the model's own intervals, where the checkpoint has a calibration"
    )
    output.add_argument("--format", choices=FORMATS, help="by default a table on a terminal, JSON elsewhere")


def _add_row_options(parser: CommandParser, split: str) -> None:
    """Adds the options that name tables, columns and rows, which `evaluate` and `calibrate` share."""
    rows = parser.add_argument_group("rows")
    rows.add_argument(
        "--task", nargs="+", default=[], metavar="NAME", help="tasks of data/readers.py and data/published.py"
    )
    rows.add_argument("--spaces", nargs="+", metavar="NAME", help="of published tasks: spaces to read, by default all")
    rows.add_argument("--languages", nargs="+", metavar="NAME", help="of code_regression: languages to read")
    rows.add_argument("--data-root", metavar="DIR", help="folder of the tasks' tables")
    rows.add_argument(
        "--data", metavar="FILE", help="a table of your own: CSV, JSONL, parquet, hub id, or what measure wrote"
    )
    rows.add_argument("--text-column", default="text", metavar="NAME", help="column of the code")
    rows.add_argument(
        "--target-columns",
        nargs="+",
        default=[],
        metavar="NAME",
        help="columns named as the metrics are; not needed where the table is in the schema of code_rlm.data",
    )
    rows.add_argument("--group-column", metavar="NAME", help="rows that share its value never fall in two splits")
    rows.add_argument("--language-column", metavar="NAME", help="column of the language")
    rows.add_argument("--language", help="language of every row, where there is no such column")
    rows.add_argument(
        "--context-columns", nargs="*", default=[], metavar="NAME", help="columns that become header lines of the input"
    )
    rows.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="by default all that the model knows and the rows have"
    )
    rows.add_argument("--split", default=split, help="train, validation, test, or all for every row")
    rows.add_argument("--max-rows", type=PositiveInt, metavar="N", help="at most so many rows of each table")
    rows.add_argument("--seed", type=int, default=0, help="seed of the split and of row limits")


# ---------------------------------------------------------------------------------------------------- parsers


def predict_parser() -> CommandParser:
    """Returns the parser of `code-rlm predict`."""
    parser = CommandParser("predict", "Predicts numbers for files.\n\n  code-rlm predict examples/")
    _add_files(parser, "files, directories (walked), or - for standard input")
    _add_model(parser)
    question = parser.add_argument_group("question")
    question.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="metrics in decoding order; by default those of the file's language",
    )
    question.add_argument("--given", nargs="+", default=[], metavar="NAME=VALUE", help="known values to condition on")
    question.add_argument(
        "--quantiles",
        nargs="+",
        type=float,
        default=[],
        metavar="LEVEL",
        help="also these quantiles, such as 0.25 0.75",
    )
    question.add_argument(
        "--above",
        nargs="+",
        default=[],
        metavar="NAME=LIMIT",
        help="also the probability of more than a limit, such as peak_rss_bytes=2GB",
    )
    question.add_argument(
        "--outcomes",
        action="store_true",
        help="also the probability of failing, in JSON, where the checkpoint knows it",
    )
    question.add_argument(
        "--strict",
        action="store_true",
        help="refuse inputs that are unlike the rows that a metric was trained on: one line that says why, exit status 3",
    )
    question.add_argument(
        "--text-column", metavar="NAME", help="column of the code in files that are tables; by default text or code"
    )
    _add_input_options(parser)
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", help="where to run, as torch names it: cpu, cuda, cuda:1, mps")
    machine.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="type of the weights; by default as saved"
    )
    return parser


def metrics_parser() -> CommandParser:
    """Returns the parser of `code-rlm metrics`."""
    parser = CommandParser(
        "metrics",
        "Lists what a checkpoint predicts: metrics with units, languages, hardware, and the range of its training rows.\n\n"
        "  code-rlm metrics --language onnx",
    )
    _add_model(parser)
    parser.add_argument("--language", help="only metrics of this language")
    parser.add_argument("--format", choices=FORMATS, help="by default a table on a terminal, JSON elsewhere")
    return parser


def info_parser() -> CommandParser:
    """Returns the parser of `code-rlm info`."""
    parser = CommandParser(
        "info", "Describes a checkpoint, this installation and this machine, for reports of problems."
    )
    _add_model(parser)
    parser.add_argument("--format", choices=("table", "json"), help="by default a table on a terminal, JSON elsewhere")
    return parser


def serve_parser() -> CommandParser:
    """Returns the parser of `code-rlm serve`."""
    parser = CommandParser(
        "serve",
        "Answers over HTTP: /predict, /rank, /explain, /health, /metrics (Prometheus), /docs (OpenAPI).\n\n"
        "  code-rlm serve --port 8000 --api-key-file key.txt",
    )
    _add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0: any that is free")
    parser.add_argument(
        "--api-key-file", metavar="FILE", help="key that requests must bring; by default $CODE_RLM_API_KEY"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", help="where to run, as torch names it: cpu, cuda, mps")
    machine.add_argument("--threads", type=PositiveInt, help="threads of torch on a processor")
    batches = parser.add_argument_group("batches and limits")
    batches.add_argument("--batch-size", type=PositiveInt, default=32, help="inputs of several requests run together")
    batches.add_argument("--batch-wait-ms", type=float, default=5.0, help="how long the first waits for others")
    batches.add_argument("--max-waiting", type=PositiveInt, default=1024, help="inputs that may wait; more are refused")
    batches.add_argument("--max-inputs", type=PositiveInt, default=256, help="inputs of one request")
    batches.add_argument("--max-body-bytes", type=PositiveInt, default=4_000_000, help="size of one request")
    batches.add_argument("--timeout", type=float, default=60.0, help="seconds until a request must be answered")
    return parser


def rank_parser() -> CommandParser:
    """Returns the parser of `code-rlm rank`."""
    parser = CommandParser(
        "rank",
        "Ranks files by one metric, the best first, with the probability that each is the best.\n\n"
        "  code-rlm rank kernels/ --metric latency_ms --context input_size=4096x4096\n"
        "  code-rlm rank solutions/ --metric cpu_time_ms --measure-top 3",
    )
    _add_files(parser, "files and directories (walked), or tables, at least two inputs")
    parser.add_argument(
        "--metric", required=True, metavar="NAME", help="what to rank by; the registry has its direction"
    )
    _add_model(parser)
    parser.add_argument(
        "--measure-top",
        type=NonNegativeInt,
        default=0,
        metavar="K",
        help="measure the K files likeliest to be the best on this machine, and rank again (needs code-rlm-data)",
    )
    parser.add_argument("--text-column", metavar="NAME", help="column of the code in tables; by default text or code")
    _add_input_options(parser)
    return parser


def check_parser() -> CommandParser:
    """Returns the parser of `code-rlm check`."""
    parser = CommandParser(
        "check",
        "Compares both versions of changed files with limits; exit status 1 where one is breached.\n\n"
        "  code-rlm check --base main --max peak_rss_bytes=2GB --max-increase cpu_time_ms=20%\n"
        "  code-rlm check --before old/ --after new/ --max-increase peak_rss_bytes=10% --format markdown",
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="only these of the changed files; by default all")
    _add_model(parser)
    versions = parser.add_argument_group("versions")
    versions.add_argument("--base", metavar="REV", help="git revision; compared with is its merge base with the head")
    versions.add_argument("--head", metavar="REV", help="git revision; by default the working tree")
    versions.add_argument("--before", metavar="DIR", help="folder of the earlier version, instead of git")
    versions.add_argument("--after", metavar="DIR", help="folder of the later version")
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max", nargs="+", default=[], metavar="METRIC=LIMIT", help="largest value, such as peak_rss_bytes=2GB"
    )
    limits.add_argument(
        "--max-increase", nargs="+", default=[], metavar="METRIC=20%", help="largest increase over the earlier version"
    )
    limits.add_argument(
        "--probability", type=float, default=0.5, help="a limit is breached where it is exceeded so probably"
    )
    limits.add_argument(
        "--unfamiliar",
        choices=("report", "breach"),
        default="report",
        help="files unlike the training rows: report them only, or let them breach limits like others",
    )
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument("--language", help="language of the files, where their names do not show it")
    inputs.add_argument("--context", nargs="+", default=[], metavar="KEY=VALUE", help="header lines, as in training")
    inputs.add_argument("--batch-size", type=int, help="inputs run together [as many as 4,096 tokens hold]")
    output = parser.add_argument_group("output")
    output.add_argument("--interval", type=float, default=0.9, help="probability that an interval holds")
    output.add_argument(
        "--format",
        choices=("table", "markdown", "json", "sarif", "github"),
        help="by default a table on a terminal, JSON elsewhere",
    )
    output.add_argument("--markdown", metavar="FILE", help="append the report as Markdown to a file as well")
    output.add_argument("--sarif", metavar="FILE", help="write the report as SARIF 2.1.0 into a file as well")
    return parser


def explain_parser() -> CommandParser:
    """Returns the parser of `code-rlm explain`."""
    parser = CommandParser(
        "explain",
        "Shows which parts of a file carry a number: each is left out in turn, and the exact median is read again.\n\n"
        "  code-rlm explain solution.py --metric peak_rss_bytes\n"
        "  code-rlm explain model.onnx --metric latency_ms@pixel3 --html model.html",
    )
    _add_files(parser, "files and directories (walked)")
    parser.add_argument("--metric", required=True, metavar="NAME", help="the number to explain")
    _add_model(parser)
    parser.add_argument(
        "--unit", choices=("line", "block", "operator"), help="parts; by default operators of graphs, else lines"
    )
    parser.add_argument("--most", type=PositiveInt, default=128, help="more lines than this are joined with neighbours")
    parser.add_argument("--html", metavar="FILE", help="also write a page with the heat map")
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument("--language", help="language of the files, where their names do not show it")
    inputs.add_argument(
        "--input-shape",
        nargs="+",
        default=[],
        metavar="NAME:1x3x224x224",
        help="shapes of a graph's inputs, where its file leaves sizes free",
    )
    inputs.add_argument("--context", nargs="+", default=[], metavar="KEY=VALUE", help="header lines, as in training")
    inputs.add_argument("--batch-size", type=int, help="variants run together [as many as 4,096 tokens hold]")
    output = parser.add_argument_group("output")
    output.add_argument("--uncalibrated", action="store_true", help="the model's own medians")
    output.add_argument("--format", choices=FORMATS, help="by default a table on a terminal, JSON elsewhere")
    return parser


def train_parser() -> CommandParser:
    """Returns the parser of `code-rlm train`."""
    from code_rlm.training.options import build_parser

    return build_parser(
        "Trains a regression language model: from scratch, around a pretrained encoder, or from a checkpoint.\n\n"
        "  code-rlm train --config mine.yaml --dry-run          # what it would do\n"
        "  code-rlm train --config mine.yaml --out runs/mine    # the same command resumes a killed run\n\n"
        "In the YAML file the options stand in groups (schedule: {steps: 500}) or by their short names (steps: 500)."
    )


def evaluate_parser() -> CommandParser:
    """Returns the parser of `code-rlm evaluate`."""
    parser = CommandParser(
        "evaluate",
        "Measures a checkpoint on held-out groups, with baselines fitted on the training split of the same table. Writes\n"
        "report.json and report.md, and plots where matplotlib is installed.\n\n"
        "  code-rlm evaluate --task bhive_zen4 tritonbench --data-root DATA --out report\n"
        "  code-rlm evaluate --model runs/mine/final --data mine.parquet --text-column code \\\n"
        "      --target-columns latency_ms --group-column problem --language python --out report\n"
        "  accelerate launch --num_processes 4 -m code_rlm evaluate --task bhive_zen4 --data-root DATA --out report",
    )
    _add_model(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the report")
    parser.add_argument("--batch-size", type=PositiveInt, default=32, help="rows run together")
    parser.add_argument("--uncalibrated", action="store_true", help="leave the checkpoint's calibration out")
    parser.add_argument("--resamples", type=PositiveInt, default=1000, help="bootstrap resamples of each interval")
    _add_row_options(parser, split="test")
    suite = parser.add_argument_group("suite")
    suite.add_argument(
        "--suite", choices=("paper",), help="in place of --task or --data: every table of the paper, its figures beside"
    )
    suite.add_argument(
        "--few-shot",
        type=NonNegativeInt,
        default=0,
        metavar="STEPS",
        help="of the suite: fine-tune for so many steps where a table of the paper asks for it [0: leave these out]",
    )
    baselines = parser.add_argument_group("baselines")
    baselines.add_argument(
        "--baselines", nargs="*", metavar="NAME", help="baselines to fit [all]; none after the name: none"
    )
    baselines.add_argument(
        "--train-data-root",
        metavar="DIR",
        help="fit them on the training split found here (a folder; with --data, a file) instead of the same table's",
    )
    baselines.add_argument("--train-rows", type=PositiveInt, default=10_000, help="at most so many rows to fit them on")
    return parser


def calibrate_parser() -> CommandParser:
    """Returns the parser of `code-rlm calibrate`."""
    parser = CommandParser(
        "calibrate",
        "Fits a checkpoint's intervals on rows held out from training, and writes the calibration into the checkpoint.\n\n"
        "  code-rlm calibrate --model runs/mine/final --task bhive_zen4 --data-root DATA --out runs/mine/calibrated\n"
        "  code-rlm calibrate --model runs/mine/final --data mine.parquet --text-column code \\\n"
        "      --target-columns latency_ms --group-column kernel --language python --in-place\n\n"
        "A table may have metrics that the model learned on other inputs: name those that it learned there (--metrics).",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--batch-size", type=PositiveInt, default=32, help="rows run together")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("levels", "familiarity"),
        default=["levels", "familiarity"],
        help="what to fit: calibrated levels, and what training rows are like",
    )
    parser.add_argument(
        "--unfamiliar",
        metavar="PARQUET",
        help="measured rows unlike the training rows, in the schema of code_rlm.data: how far intervals grow beyond the "
        "training rows is fitted to them, each source left out in turn",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="DIR", help="folder for a copy of the checkpoint with the calibration")
    where.add_argument("--in-place", action="store_true", help="write into the checkpoint itself")
    _add_row_options(parser, split="validation")
    return parser


def pareto_parser() -> CommandParser:
    """Returns the parser of `code-rlm pareto`."""
    parser = CommandParser(
        "pareto",
        "Compares files by two metrics: which of them no other one beats in both.\n\n"
        "  code-rlm pareto nets/ --metrics latency_ms@pixel3 cifar10_valid_accuracy_percent --plot front.png",
    )
    _add_files(parser, "files and directories (walked), at least two files")
    parser.add_argument("--metrics", nargs=2, required=True, metavar=("X", "Y"), help="the two metrics")
    _add_model(parser)
    _add_input_options(parser)
    parser.add_argument("--plot", metavar="FILE.png", help="also draw the front with the predicted densities")
    parser.add_argument("--joint", action="store_true", help="draw both numbers together: how they move together")
    return parser


def adapt_parser() -> CommandParser:
    """Returns the parser of `code-rlm adapt`."""
    parser = CommandParser(
        "adapt",
        "Adapts a checkpoint to a new device of which some twenty networks were measured, or ranks networks by accuracy.\n\n"
        "  code-rlm adapt measured.csv --metric latency_ms@my_device --candidates nets/ --suggest 5 --out runs/my_device\n"
        "  code-rlm adapt measured.csv --metric accuracy_percent --proxies --candidates nets/ --ranking ranking.csv\n\n"
        "measured.csv has a column `file` and one of numbers, named as the metric, `value` or `ms`.",
    )
    parser.add_argument("measurements", metavar="CSV", help="table of ONNX files and what was measured")
    parser.add_argument("--metric", required=True, metavar="NAME", help="latency_ms@DEVICE, or an accuracy")
    _add_model(parser)
    parser.add_argument(
        "--candidates", nargs="*", default=[], metavar="PATH", help="further ONNX files and folders to rank"
    )
    parser.add_argument(
        "--suggest", type=NonNegativeInt, default=0, metavar="K", help="name K candidates to measure next"
    )
    parser.add_argument("--ranking", metavar="FILE.csv", help="write all networks, the best first")
    parser.add_argument("--out", metavar="DIR", help="folder for the checkpoint that predicts the latency")
    parser.add_argument(
        "--proxies", action="store_true", help="of accuracies: read training-free proxies of each graph"
    )
    parser.add_argument("--batch-size", type=PositiveInt, default=16, help="networks run together")
    return parser


def card_parser() -> CommandParser:
    """Returns the parser of `code-rlm card`."""
    parser = CommandParser(
        "card",
        "Writes a checkpoint's model card from its config, the options that trained it and the report that measured it.\n\n"
        "  code-rlm card --model runs/mine/final --report report/report.json --license mit --name you/my-rlm --push",
    )
    parser.add_argument("--model", metavar="DIR", help="checkpoint folder; by default the weights that ship")
    parser.add_argument("--report", metavar="FILE", help="report.json of code-rlm evaluate; by default the folder's")
    parser.add_argument("--training", nargs="+", default=[], metavar="YAML", help="options of each run that made it")
    parser.add_argument("--name", help="hub id or another name; by default the folder's")
    parser.add_argument("--license", metavar="ID", help="as the hub names licences: mit, apache-2.0, ...")
    parser.add_argument("--push", action="store_true", help="validate the card and upload it to the hub id of --name")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the card is not up to date")
    return parser


def publish_parser() -> CommandParser:
    """Returns the parser of `code-rlm publish`."""
    parser = CommandParser(
        "publish",
        "Publishes a checkpoint, an adapter or a table on the hub, with its card.\n\n"
        "  code-rlm publish runs/mine/final --name you/my-rlm --license mit",
    )
    parser.add_argument("folder", metavar="FOLDER", help="checkpoint, adapter, or folder of a table with its card")
    parser.add_argument("--name", required=True, metavar="ID", help="hub id: you/my-rlm")
    parser.add_argument("--license", metavar="ID", help="as the hub names licences: mit, apache-2.0, ...")
    parser.add_argument("--dataset", action="store_true", help="the folder holds a table")
    parser.add_argument("--private", action="store_true", help="make the repository private, where it is new")
    return parser


def convert_parser() -> CommandParser:
    """Returns the parser of `code-rlm convert`."""
    parser = CommandParser(
        "convert",
        "Reads the paper's published weights into a checkpoint of this package; runs no code of theirs.\n\n"
        "  code-rlm convert akhauriyash/RLM-GemmaS-Code-v0 published",
    )
    parser.add_argument("source", metavar="SOURCE", help="hub id or folder of a published checkpoint")
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument("--revision", help="commit, tag or branch on the hub")
    return parser


# ---------------------------------------------------------------------------------------------------- commands


def _run_predict(args: argparse.Namespace) -> int:
    from code_rlm.predict import predict

    return predict(args, sys.stdout)


def _run_metrics(args: argparse.Namespace) -> int:
    from code_rlm.info import metrics

    return metrics(args, sys.stdout)


def _run_info(args: argparse.Namespace) -> int:
    from code_rlm.info import info

    return info(args, sys.stdout)


def _run_serve(args: argparse.Namespace) -> int:
    from code_rlm.serving.run import serve

    return serve(args)


def _run_rank(args: argparse.Namespace) -> int:
    from code_rlm.rank import rank

    return rank(args, sys.stdout)


def _run_check(args: argparse.Namespace) -> int:
    from code_rlm.checking.run import check

    return check(args, sys.stdout)


def _run_explain(args: argparse.Namespace) -> int:
    from code_rlm.explain import explain

    return explain(args, sys.stdout)


def _run_evaluate(args: argparse.Namespace) -> int:
    if args.suite:
        from code_rlm.evaluation.suite import evaluate_suite

        evaluate_suite(args)
        return 0
    from code_rlm.evaluation.run import evaluate

    evaluate(args)
    return 0


def _run_calibrate(args: argparse.Namespace) -> int:
    from code_rlm.evaluation.calibration import calibrate

    calibrate(args)
    return 0


def _run_pareto(args: argparse.Namespace) -> int:
    from code_rlm.evaluation.pareto import run

    return run(args, sys.stdout)


def _run_adapt(args: argparse.Namespace) -> int:
    from code_rlm.training.adapt import adapt

    return adapt(args, sys.stdout)


def _run_card(args: argparse.Namespace) -> int:
    from code_rlm.hub.card import write_card

    return write_card(args)


def _run_publish(args: argparse.Namespace) -> int:
    from code_rlm.hub.publish import publish

    return publish(args)


def _run_convert(args: argparse.Namespace) -> int:
    from code_rlm.hub.convert import convert, summary

    print(*summary(convert(args.source, args.out, revision=args.revision)), sep="\n")
    return 0


def _train(argv: Sequence[str]) -> int:
    """Parses the options and trains."""
    from code_rlm.training.options import parse_options

    train_parser()  # with the description, for --help
    options = parse_options(argv)
    from code_rlm.train import run_command

    return run_command(options)


def _measure(argv: Sequence[str]) -> int:
    """Hands over to the package that measures, if it is installed."""
    return import_module("code_rlm_data.measure.run").main(list(argv))


@dataclass(frozen=True)
class Command:
    """A command of the tree.

    Attributes:
        section: Heading in the help of `code-rlm`.
        summary: Its line there.
        run: Runs it with its arguments and returns the exit status.
        parser: Makes its parser; None where another package has it.
        stopped: How to go on after Ctrl-C.
        requirement: What to install for it, as pip takes it.
    """

    section: str
    summary: str
    run: Callable[[Sequence[str]], int]
    parser: Callable[[], CommandParser] | None
    stopped: str
    requirement: str = "code-rlm"


def _parsed(parser: Callable[[], CommandParser], body: Callable[[argparse.Namespace], int]) -> Callable[[Any], int]:
    """Returns a function that parses arguments and runs a command's body."""

    def run(argv: Sequence[str]) -> int:
        parsed = parser().parse(argv)
        return body(argparse.Namespace(**vars(parsed)))

    return run


_AGAIN = "stopped; nothing was written. Run the same command again"

COMMANDS = {
    "predict": Command(
        "Use a model",
        "predict numbers for files",
        _parsed(predict_parser, _run_predict),
        predict_parser,
        "stopped before every file was read; name fewer files, or run it again",
    ),
    "rank": Command(
        "Use a model",
        "rank files by one metric",
        _parsed(rank_parser, _run_rank),
        rank_parser,
        _AGAIN,
    ),
    "check": Command(
        "Use a model",
        "compare changed files with limits",
        _parsed(check_parser, _run_check),
        check_parser,
        "stopped before every file was checked; run the same command again",
    ),
    "explain": Command(
        "Use a model",
        "show which parts of a file carry a number",
        _parsed(explain_parser, _run_explain),
        explain_parser,
        _AGAIN,
    ),
    "pareto": Command(
        "Use a model",
        "find the files that no other beats in two metrics",
        _parsed(pareto_parser, _run_pareto),
        pareto_parser,
        _AGAIN,
        "'code-rlm[plots]'",
    ),
    "serve": Command(
        "Use a model",
        "answer over HTTP",
        _parsed(serve_parser, _run_serve),
        serve_parser,
        "stopped",
        "'code-rlm[serve]'",
    ),
    "metrics": Command(
        "Use a model",
        "list what a model predicts",
        _parsed(metrics_parser, _run_metrics),
        metrics_parser,
        "stopped",
    ),
    "info": Command(
        "Use a model",
        "describe a model and this installation",
        _parsed(info_parser, _run_info),
        info_parser,
        "stopped",
    ),
    "train": Command(
        "Make a model",
        "train or fine-tune a model",
        _train,
        train_parser,
        "stopped; the same command resumes from the last checkpoint",
        "'code-rlm[train]'",
    ),
    "adapt": Command(
        "Make a model",
        "adapt a model to a new device from a few measurements",
        _parsed(adapt_parser, _run_adapt),
        adapt_parser,
        _AGAIN,
        "'code-rlm[evaluate]'",
    ),
    "evaluate": Command(
        "Make a model",
        "measure a model against baselines",
        _parsed(evaluate_parser, _run_evaluate),
        evaluate_parser,
        "stopped; there is no report yet. Run the same command again, or fewer rows with --max-rows",
        "'code-rlm[evaluate]'",
    ),
    "calibrate": Command(
        "Make a model",
        "fit a model's intervals on held-out rows",
        _parsed(calibrate_parser, _run_calibrate),
        calibrate_parser,
        _AGAIN,
        "'code-rlm[evaluate]'",
    ),
    "card": Command(
        "Publish a model",
        "write a checkpoint's model card",
        _parsed(card_parser, _run_card),
        card_parser,
        "stopped; run the same command again",
        "'code-rlm[evaluate]'",
    ),
    "publish": Command(
        "Publish a model",
        "upload a checkpoint, an adapter or a table",
        _parsed(publish_parser, _run_publish),
        publish_parser,
        "stopped; run the same command again",
        "'code-rlm[evaluate]'",
    ),
    "convert": Command(
        "Publish a model",
        "read the paper's published weights",
        _parsed(convert_parser, _run_convert),
        convert_parser,
        _AGAIN,
    ),
    "measure": Command(
        "Make data",
        "measure programs into a data set",
        _measure,
        None,
        "stopped; the same command resumes",
        "code-rlm-data",
    ),
}


def help_text() -> str:
    """Returns the help of `code-rlm`."""
    lines = ["usage: code-rlm COMMAND [ARGUMENTS]", "", "Reads code and answers with numbers and intervals.", ""]
    for section in dict.fromkeys(command.section for command in COMMANDS.values()):
        lines.append(f"{section}:")
        lines += [f"  {name:12} {each.summary}" for name, each in COMMANDS.items() if each.section == section]
        lines.append("")
    lines += [
        "Options:",
        "  -h, --help   show this text; after a command, its options",
        "  --version    show the version",
        f"  --completion {{{','.join(SHELLS)}}}",
        '               print a completion script: eval "$(code-rlm --completion bash)"',
        "",
        "Examples:",
        "  code-rlm predict examples/",
        "  code-rlm train --config mine.yaml --out runs/mine",
        "  code-rlm evaluate --model runs/mine/final --data mine.parquet --target-columns latency_ms --out report",
    ]
    return "\n".join(lines)


def completion_script(shell: str) -> str:
    """Returns a script that completes commands, options and choices in a shell.

    Raises:
        UsageError: Another shell, or shtab is not installed.
    """
    if shell not in SHELLS:
        raise UsageError(f"There is no completion for {shell or 'no shell'}; choose one of {', '.join(SHELLS)}.")
    if importlib.util.find_spec("shtab") is None:
        raise UsageError("Completion needs the package shtab; install it: pip install shtab.")
    tree = CommandParser("")
    tree.add_argument("--version", action="store_true", help="show the version")
    tree.add_argument("--completion", choices=SHELLS, help="print a completion script")
    commands = tree.add_subcommands(dest="command")
    for name, command in COMMANDS.items():
        parser = command.parser() if command.parser else CommandParser(name)
        commands.add_subcommand(name, parser, help=command.summary)
    return tree.get_completion_script(f"shtab-{shell}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments; by default those of the process.

    Returns:
        The exit status: 0, 2 after one line on what is wrong, 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv and argv[0] in COMMANDS else ""
    try:
        return COMMANDS[name].run(argv[1:]) if name else _run_top(argv)
    except SystemExit as stop:  # after --help
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        log(f"{_program(name)}: {COMMANDS[name].stopped if name else 'stopped'}.")
        return 130
    except BrokenPipeError:  # the reader has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        log(f"{_program(name)}: the disk is full; free some space and give the same command again.")
        return 2
    except RLMError as error:
        log(f"{_program(name)}: {error}")
        return 2
    except ImportError as error:
        log(f"{_program(name)}: {_what_to_install(error, name)}")
        return 2


def _program(name: str) -> str:
    return f"code-rlm {name}".strip()


def _what_to_install(error: ImportError, command: str) -> str:
    """Returns which package is missing and how to get it.

    Raises:
        ImportError: A fault of this package, not of the environment.
    """
    missing = (error.name or "").partition(".")[0]
    if missing == "code_rlm":
        raise error
    if not isinstance(error, ModuleNotFoundError) or not missing:
        return " ".join(str(error).split())  # has its own words on what to install
    requirement = COMMANDS[command].requirement if command else "code-rlm"
    return f"needs the package {missing}, which is not installed: pip install {requirement}"


def _run_top(argv: Sequence[str]) -> int:
    """Runs `code-rlm` without a command."""
    first = argv[0].replace("_", "-") if argv else "--help"
    option, _, value = first.partition("=")
    if option in ("-h", "--help", "help"):
        print(help_text())
        return 0 if argv else 2
    if option in ("-V", "--version"):
        print(f"code-rlm {__version__}")
        return 0
    if option == "--completion":
        print(completion_script(value or (argv[1] if len(argv) > 1 else "")))
        return 0
    known = (*COMMANDS, "--help", "--version", "--completion")
    what = "option" if option.startswith("-") else "command"
    raise UsageError(f"There is no {what} {argv[0]}.{suggestion(argv[0], known)} See code-rlm --help.")


__all__ = ["COMMANDS", "Command", "completion_script", "main"]

if __name__ == "__main__":
    sys.exit(main())
