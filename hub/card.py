"""Writes model cards from a checkpoint's config, the options that trained it, and the report that measured it.

    code-rlm card --model runs/mine/final --report runs/mine/report/report.json --license mit
    code-rlm card --model runs/mine/final --name you/my-rlm --push      # the card alone, beside weights that are there
    code-rlm card                                                       # the weights that ship; --check compares only

The card is written as README.md into the checkpoint's folder. A report.json in that folder is used; without one the card
states that nothing was measured. The options are those in training_options.yaml, which training writes, or the YAML files of
`--training`, whose names the card's metadata keeps.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from code_rlm import cli
from code_rlm.configuration_rlm import LEGACY_WEIGHTS, TASK, Metric, RLMConfig
from code_rlm.data.published import PUBLISHED
from code_rlm.data.readers import TASKS
from code_rlm.ensemble_rlm import EnsembleConfig
from code_rlm.errors_rlm import CheckpointError
from code_rlm.evaluation.results import (
    Row,
    Score,
    coverage_table,
    coverage_words,
    hardware_of,
    rows_of,
    summary_table,
    table,
    who_wins,
)
from code_rlm.hub.safetensors_copy import stored_tensors
from code_rlm.loading import ADAPTER_BASE, DEFAULT_CHECKPOINT
from code_rlm.training.options import full_names

CARD, REPORT, OPTIONS = "README.md", "report.json", "training_options.yaml"
# Under this key of its metadata a card keeps the names of the option files that it was made from.
_REMEMBERED = "training_configs"
# With fewer groups a score is loose.
_FEW_GROUPS = 50
# Our scores: the hub's name of each, and how a result is titled.
_HUB_NAMES = {
    "spearman": ("spearmanr", "Spearman"),
    "kendall": ("kendalltau", "Kendall"),
    "mape": ("mape", "MAPE (share)"),
}

_NOT_FOR = """
- **No bound.** One true value in ten lies outside a 90% interval. Nothing here proves a worst-case execution time or a memory
  limit, and nothing real-time or safety-critical may rest on it.
- **No other hardware, compiler, judge or data set** than the table of metrics names. Another machine gives other numbers, and
  often another order.
- **No judgement of people:** not for grading, hiring or billing by the code that somebody wrote.
- **No check of code.** The model reads text and runs nothing: it does not know whether a program is correct, ends or is
  harmless, and text that is written to mislead it will.
"""

_PROVENANCE = (
    "**No configuration reproduces these weights.** They were assembled in several runs and by hand: first the transformer, "
    "then the feature ensemble beside it. {files} keep the options of these runs; what their comments record stands below. In "
    "the history of the repository the options of these and of earlier weights are `configs/base.yaml`, "
    "`configs/structure.yaml` and `configs/small_*.yaml`. `configs/default.yaml` is the recipe for weights of the same kind in "
    "one run; these did not come from it."
)
# Options of a run that are counts, and how the card puts them.
_COUNTS = (
    ("schedule.steps", "at most {:,} steps"),
    ("data.batch_tokens", "{:,} tokens a batch"),
    ("data.max_tokens", "inputs of at most {:,} tokens"),
)


@dataclass
class Known:
    """What a card is made of.

    Attributes:
        folder: The checkpoint's.
        config: Its config.
        name: Name of the model in the card, a hub id or a folder's name.
        license: As the hub names licences; None to leave it open.
        report: Of `code-rlm evaluate`; None where nothing was measured.
        training: Name of each file of options and its path, in the order of the runs.
        remembered: Files of `training` that the card's metadata names.
    """

    folder: Path
    config: RLMConfig
    name: str
    license: str | None = None
    report: Mapping[str, Any] | None = None
    training: Mapping[str, Path] = field(default_factory=dict)
    remembered: Sequence[str] = ()

    @property
    def rows(self) -> list[Row]:
        """The rows of the report; none without one."""
        return [] if self.report is None else rows_of(self.report)

    @property
    def ships(self) -> bool:
        """Whether these are the weights of the package."""
        return self.folder.resolve() == DEFAULT_CHECKPOINT.resolve()

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """The options of each run."""
        return {name: _yaml(path) for name, path in self.training.items()}


def known_of(
    folder: str | Path,
    *,
    report: str | Path | None = None,
    training: Sequence[str | Path] = (),
    name: str | None = None,
    license: str | None = None,
) -> Known:
    """Returns what is known of a checkpoint.

    Args:
        folder: Of a checkpoint or a LoRA adapter.
        report: A report.json; by default that of the folder, if it has one.
        training: YAML files of options, in the order of the runs; by default what training left in the folder, or what the
            card that is there names.
        name: Hub id, or any name; by default the folder's.
        license: As the hub names licences (`mit`, `apache-2.0`); by default that of the card that is there.

    Raises:
        CheckpointError: Not a checkpoint's folder, or a file that cannot be read.
    """
    checkpoint = Path(folder)
    config = _config(checkpoint)
    ships = checkpoint.resolve() == DEFAULT_CHECKPOINT.resolve()
    before = ModelCard.load(checkpoint / CARD).data if (checkpoint / CARD).is_file() else {}
    files, remembered = _option_files(checkpoint, training, before.get(_REMEMBERED, ()))
    stored = Path(report) if report else checkpoint / REPORT
    if report and not stored.is_file():
        raise CheckpointError(f"There is no report {stored}; code-rlm evaluate writes one.")
    own_name = checkpoint.resolve().name
    known_name = f"code-rlm-{own_name}" if ships else before.get("model_name") or own_name
    return Known(
        folder=checkpoint,
        config=config,
        name=name or known_name,
        license=license or ("apache-2.0" if ships else before.get("license")),
        report=_report(stored) if stored.is_file() else None,
        training=files,
        remembered=remembered,
    )


def _config(folder: Path) -> RLMConfig:
    """Returns the config of a checkpoint's folder."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint's folder: it has no config.json. Name one, such as runs/mine/final."
        )
    try:
        return RLMConfig.from_pretrained(folder)
    except Exception as error:  # a damaged file fails in as many ways as there are libraries that read one
        raise CheckpointError(f"{folder / 'config.json'} cannot be read: {str(error).splitlines()[0]}") from error


def _option_files(
    folder: Path, given: Sequence[str | Path], before: Sequence[str]
) -> tuple[dict[str, Path], list[str]]:
    """Returns the files of options by name, and the names that the card's metadata keeps.

    Args:
        folder: The checkpoint's.
        given: Files named on the command line.
        before: Files that the card which is there names; used where none is given and training left none.
    """
    # A card is published: it names files, not where they lay on the machine that wrote it.
    files = {Path(each).name if Path(each).is_absolute() else str(each): Path(each) for each in given}
    left = folder / OPTIONS
    if not files and not left.is_file():
        files = {each: Path(each) for each in before}
    if lacking := [each for each, path in files.items() if not path.is_file()]:
        raise CheckpointError(f"There is no {lacking[0]}; name the options that trained {folder} with --training.")
    if files:
        return files, list(files)
    return ({OPTIONS: left} if left.is_file() else {}), []


def _report(path: Path) -> dict[str, Any]:
    """Returns a report, checked to be one."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        rows_of(report)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a report of code-rlm evaluate: {type(error).__name__}: {error}") from None
    return report


def _yaml(path: Path) -> dict[str, Any]:
    """Returns the options of a YAML file."""
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(options, dict):
        raise CheckpointError(f"{path} holds no options of a training run.")
    return full_names(options, strict=False)


# ---------------------------------------------------------------------------------------------------- the card


def model_card(known: Known) -> ModelCard:
    """Returns the card of a checkpoint: metadata with every result, then the text."""
    sections = (
        _head(known),
        _section("What it predicts", _metric_table(known)),
        _section("How to use it", _usage(known)),
        _section("What it is for", _intended(known)),
        _section("Limits", _limits(known)),
        _section("What it must not be used for", _NOT_FOR.strip().splitlines()),
        _section("Results", _results(known)),
        _section("How it was trained", _training(known)),
    )
    text = "\n".join(line for section in sections for line in section)
    return ModelCard(f"---\n{card_data(known).to_yaml()}\n---\n\n{text}\n")


def _languages(known: Known) -> list[str]:
    """Returns the languages of all metrics, sorted."""
    return sorted({language for metric in known.config.metrics for language in metric["languages"]})


def card_data(known: Known) -> ModelCardData:
    """Returns the card's metadata, with one result for each score of the report."""
    results = [result for row in known.rows for result in _hub_results(row, known.report or {})]
    hub_metrics = {kind for kind, _ in _HUB_NAMES.values()}
    metrics = sorted({result.metric_type for result in results} & hub_metrics)
    more: dict[str, Any] = {_REMEMBERED: list(known.remembered)} if known.remembered else {}
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        license=known.license,
        base_model=_base_model(known),
        datasets=_datasets(known),
        widget=_widget(known),
        tags=[TASK, "regression", "code", "performance-prediction", *_languages(known)],
        metrics=metrics or None,
        model_name=known.name,
        eval_results=results or None,
        **more,
    )


def _hub_results(row: Row, report: Mapping[str, Any]) -> Iterator[EvalResult]:
    """Yields a result for every score of a report's row."""
    counts = {"rows": row.n, "groups": row.groups}
    interval_name = f"interval_{report['level']:.0%}".replace("%", "")
    scores: list[tuple[str, str, float, dict[str, Any]]] = []
    for name, (kind, title) in _HUB_NAMES.items():
        score = row.scores[name]
        if score.value is None:
            continue
        details: dict[str, Any] = dict(counts)
        if score.low is not None and score.high is not None:
            details[interval_name] = [round(score.low, 4), round(score.high, 4)]
        scores.append((kind, title, score.value, details))
    coverage = row.coverage.get("0.9", Score(None)).value
    if coverage is not None:
        details = {**counts, "calibrated": row.calibrated}
        scores.append(("coverage_90", "share of rows inside the 90% interval", coverage, details))
    for kind, title, value, details in scores:
        yield EvalResult(
            task_type=TASK,
            task_name="Code regression",
            dataset_type=row.task,
            dataset_name=f"{row.task}, {row.metric}",
            dataset_config=row.metric,
            dataset_split=report.get("split", "test"),
            metric_type=kind,
            metric_name=title,
            metric_value=round(value, 4),
            metric_args=details,
        )


def _datasets(known: Known) -> list[str] | None:
    """Returns the hub ids of the data sets that the checkpoint was trained on; None where none of them is on the hub."""
    found: list[str] = []
    for options in known.options.values():
        for entry in options.get("data.sources") or ():
            name, file = entry.get("task"), str(entry.get("file", ""))
            if name in PUBLISHED:
                found.append(PUBLISHED[name].repo)
            elif file.count("/") == 1 and not file.startswith((".", "/")) and "." not in file.rpartition("/")[2]:
                found.append(file)
    return list(dict.fromkeys(found)) or None


# One short input of each language that people try first.
_EXAMPLES = {
    "python": "def f(n):\n    return [i * i for i in range(n)]\n\n\nf(100_000)\n",
    "cpp": "#include <vector>\nint main() {\n    std::vector<int> a(1000000);\n    return a[7];\n}\n",
    "x86asm": "vaddps ymm0, ymm1, ymm2\nadd rax, 8\n",
    "triton": "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef k(x):\n    tl.store(x, 0)\n",
}


def _widget(known: Known) -> list[dict[str, str]] | None:
    """Returns an example for each language that the checkpoint reads; None where there is none."""
    return [
        {"example_title": language, "text": text}
        for language, text in _EXAMPLES.items()
        if language in _languages(known)
    ] or None


def _base_model(known: Known) -> str | None:
    """Returns the hub id of the checkpoint that this one was tuned from; None where it was a folder or nothing."""
    adapter = known.folder / ADAPTER_BASE
    base = json.loads(adapter.read_text(encoding="utf-8")).get("base") if adapter.is_file() else None
    for options in known.options.values():
        base = base or options.get("model.init") or options.get("model.pretrained_encoder")
    if not isinstance(base, str) or base.count("/") != 1:
        return None
    return None if base.startswith((".", "checkpoints/", "runs/")) else base


def _section(title: str, lines: Sequence[str]) -> list[str]:
    """Returns a section with its heading; nothing where there are no lines."""
    return ["", f"## {title}", "", *lines] if lines else []


def _current_name(name: str) -> str:
    """Returns today's name of a tensor that an earlier release saved."""
    for pattern, new in LEGACY_WEIGHTS.items():
        name = re.sub(pattern, new, name)
    return name


def _head(known: Known) -> list[str]:
    """Returns title, and what the model is and how large."""
    config = known.config
    files = sorted(known.folder.glob("*.safetensors"))
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    parameters, coefficients = _sizes(files)
    adapter = (known.folder / ADAPTER_BASE).is_file()
    parts = f"{parameters / 1e6:.2f}M {'parameters of a LoRA adapter' if adapter else 'parameters'}"
    if coefficients:
        parts += f" and {coefficients / 1e6:.2f}M coefficients of its feature ensemble"
    return [
        f"# {known.name}",
        "",
        "A regression language model of Code-RLM. It reads code and predicts numbers digit by digit, with exact intervals, as "
        "in [Regression Language Models for Code](https://arxiv.org/abs/2509.26476).",
        "",
        f"{parts}, {megabytes:.1f} MB; an encoder of type `{config.encoder.model_type}`, a decoder of "
        f"{config.decoder_num_layers} layers of width {config.decoder_hidden_size}. It reads up to {config.max_input_tokens:,} "
        f"tokens and predicts up to {config.max_objectives} numbers at once.",
        *_language_model(config),
    ]


def _language_model(config: RLMConfig) -> list[str]:
    """Returns a paragraph on the language model that predictions need; nothing where there is none."""
    model = EnsembleConfig.from_dict(config.ensemble or {}).features.language_model
    if model is None:
        return []
    revision = f" at `{model.revision}`" if model.revision else ""
    layers = ", ".join(map(str, model.layers))
    return [
        "",
        f"Its feature ensemble reads hidden states of `{model.name}`{revision}, layers {layers}, which predictions need.",
    ]


def _sizes(files: Sequence[Path]) -> tuple[int, int]:
    """Returns the number of trained parameters, and of coefficients of the feature ensemble, in safetensors files."""
    sizes = {_current_name(name): math.prod(tensor.shape) for name, tensor in stored_tensors(files).items()}
    # Tables of the vocabulary, which checkpoints of earlier releases hold, are neither trained nor fitted.
    for name in list(sizes):
        if name.startswith(("ensemble.reader.", "ensemble.texts.")):
            del sizes[name]
    coefficients = sum(size for name, size in sizes.items() if name.startswith("ensemble."))
    return sum(sizes.values()) - coefficients, coefficients


def _metric_table(known: Known) -> list[str]:
    """Returns the table of all metrics."""
    lines = []
    for entry in known.config.metrics:
        metric = Metric.from_dict(entry)
        languages = ", ".join(metric.languages) or "–"
        better = "smaller" if metric.smaller_is_better else "larger"
        origin, intervals = _origin(known, metric), _calibrated(known.config, metric.name)
        lines.append([f"`{metric.name}`", metric.unit or "–", languages, better, origin, intervals])
    return table(["metric", "unit", "input", "better", "where its numbers come from", "intervals"], lines)


def _tasks_of(known: Known, metric: str) -> list[str]:
    """Returns the tasks of `data/readers.py` that a metric was learned or measured on, by the report and the options."""
    named = [row.task for row in known.rows if row.metric == metric]
    for options in known.options.values():
        for entry in options.get("data.sources") or ():
            task = TASKS.get(entry.get("task", ""))
            if task and metric in (entry.get("metrics") or task.metrics):
                named.append(task.name)
    return list(dict.fromkeys(each for each in named if each in TASKS))


def _origin(known: Known, metric: Metric) -> str:
    """Returns the tasks that a metric's values come from, and the hardware they were measured on."""
    tasks = {task: hardware_of(task, metric.name) for task in _tasks_of(known, metric.name)}
    if not any(tasks.values()):
        return metric.description or "–"
    return "; ".join(f"{task}: {hardware}" if hardware else task for task, hardware in tasks.items())


def _calibrated(config: RLMConfig, metric: str) -> str:
    """Returns in words what a metric's intervals were calibrated on."""
    calibration = config.fitted.calibration_of(metric)
    if calibration is None:
        return "the model's own"
    return f"calibrated on {calibration.rows:,} rows, {calibration.groups:,} groups ({calibration.source})"


def _usage(known: Known) -> list[str]:
    """Returns code that predicts one metric."""
    languages_of = {metric["name"]: metric["languages"] for metric in known.config.metrics}
    by_language = [names[0] for names in known.config.default_metrics.values() if names]
    metric = next(iter([*by_language, *languages_of, "latency_ms"]))
    language = next(iter(languages_of.get(metric, ())), "python")
    call = f'pipe({{"text": code, "language": "{language}"}}, metrics=["{metric}"], interval=0.9)'
    if known.ships:
        return [
            "```bash",
            "pip install code-rlm && code-rlm predict FILE",
            "```",
            "",
            "```python",
            "import code_rlm",
            "",
            "pipe = code_rlm.pipeline()",
            call,
            "```",
        ]
    # A revision that is named downloads the code once and quietly.
    revision = ', revision="main"' if known.name.count("/") == 1 else ""
    return [
        "With nothing but transformers installed:",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        f'pipe = pipeline("{TASK}", model="{known.name}"{revision}, trust_remote_code=True)',
        call,
        "```",
        "",
        f'With `pip install code-rlm`, and without running code from this repository: `code_rlm.pipeline("{known.name}")`.',
    ]


def _intended(known: Known) -> list[str]:
    """Returns what the model is for."""
    inputs = ", ".join(_languages(known)) or "what it was trained on"
    return [
        f"Ranking and first estimates before anything runs. Inputs: {inputs}. Metrics and hardware: those of the table above. "
        "It helps to choose which of several candidates to measure first and which to leave out, and estimates how large a "
        "number will be and how certain that is. Measure what matters before you decide on it.",
    ]


def _limits(known: Known) -> list[str]:
    """Returns the limits that report, config and options show."""
    rows = known.rows
    lines = []
    if known.report is None:
        lines.append(
            "- **Nothing was measured for this card.** How good the model is, and whether its intervals hold, is unknown; "
            "`code-rlm evaluate` measures both on groups that it was not trained on."
        )
    lines += who_wins(rows)
    lines += coverage_words(rows)
    if few := [f"{row.task} {row.metric} ({row.groups})" for row in rows if row.groups < _FEW_GROUPS]:
        lines.append(f"- Few groups, so that scores and coverage are loose: {', '.join(few)}.")
    if truncated := {row.task: row.truncated_share for row in rows if row.truncated_share}:
        named = ", ".join(f"{task} {share:.0%}" for task, share in truncated.items())
        lines.append(f"- Rows longer than the model reads, scored by what was left of them: {named}.")
    scored = {row.metric for row in rows}
    unscored = [f"`{entry['name']}`" for entry in known.config.metrics if entry["name"] not in scored]
    if rows and unscored:
        lines.append(f"- Metrics without a stored score: {', '.join(unscored)}.")
    longest = max((options.get("data.max_tokens", 0) for options in known.options.values()), default=0)
    if 0 < longest < known.config.max_input_tokens:
        lines.append(
            f"- Training read at most {longest:,} tokens of an input; up to {known.config.max_input_tokens:,} are read now. "
            "The middle of longer inputs is left out, and every answer counts it (`truncated_tokens`)."
        )
    lines.append("- Code of other domains, languages and styles is read, but nothing was learned about it.")
    return lines


def _results(known: Known) -> list[str]:
    """Returns how the model was measured, and the tables of scores and coverage; nothing without a report."""
    if known.report is None:
        return []
    rows, report = known.rows, known.report
    split = report.get("split", "test")
    return [
        f"Measured on {report['date']} on the {split} split, by group, so that no group was trained on; "
        f"{report['level']:.0%} intervals from {report['resamples']} resamples of whole groups. Baselines were fitted in the "
        "same run; the table shows their Spearman.",
        "",
        *summary_table(rows),
        "",
        "### Coverage of intervals",
        "",
        "Before → after calibration; where only one number stands, the intervals are the model's own.",
        "",
        *coverage_table(rows),
    ]


# ---------------------------------------------------------------------------------------------------- training


def _training(known: Known) -> list[str]:
    """Returns the runs that made the checkpoint, and the data that they read."""
    if not known.options:
        return ["How it was trained is not recorded with it."]
    lines = []
    if known.ships:
        lines += [_PROVENANCE.format(files=" and ".join(f"`{name}`" for name in known.training)), ""]
    elif len(known.options) > 1:
        lines += [f"{len(known.options)} runs, each continuing from the one before:", ""]
    for name, options in known.options.items():
        comment = _leading_comment(known.training[name]) if known.remembered else ""
        lines.append(f"- **{name}.** {comment} {_facts(options)}".replace("  ", " "))
    tasks = sorted({entry["task"] for entry in _entries(known) if entry.get("task") in TASKS})
    if tasks:
        about = [[task, TASKS[task].summary, TASKS[task].licence] for task in tasks]
        lines += ["", *table(["data", "what", "licence"], about)]
    return lines


def _entries(known: Known) -> Iterator[Mapping[str, Any]]:
    """Yields the data entries of all runs."""
    for options in known.options.values():
        yield from options.get("data.sources") or ()


def _leading_comment(path: Path) -> str:
    """Returns the comment at the head of a file of options, without the commands in it and the sentence before them."""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("#   "):
            words.append(line.removeprefix("#").strip())
    comment = " ".join(words)
    return comment[: comment.rfind(". ") + 1] if comment.endswith(":") else comment


def _facts(options: Mapping[str, Any]) -> str:
    """Returns the options of a run in one sentence."""
    facts = []
    if data := [_source_in_words(entry) for entry in options.get("data.sources") or ()]:
        facts.append(f"data: {', '.join(data)}")
    if options.get("model.init"):
        facts.append(f"from the weights of {options['model.init']}")
    if options.get("lora.rank"):
        facts.append(f"LoRA of rank {options['lora.rank']}")
    if options.get("model.freeze_encoder"):
        facts.append("the encoder frozen")
    for key, text in _COUNTS:
        if options.get(key):
            facts.append(text.format(options[key]))
    if options.get("optimizer.learning_rate"):
        facts.append(f"learning rate {float(options['optimizer.learning_rate']):g}")
    facts.append(f"seed {options.get('seed', 0)}")
    sentence = "; ".join(facts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _source_in_words(entry: Mapping[str, Any]) -> str:
    """Returns name, targets, groups and weight of a data entry."""
    words = str(entry.get("task") or Path(str(entry.get("file", "?"))).name)
    if entry.get("target_columns"):
        details = list(entry["target_columns"])
        if entry.get("group_column"):
            details.append(f"grouped by {entry['group_column']}")
        words += f" ({', '.join(details)})"
    if "weight" in entry:
        words += f" {entry['weight']:g}"
    return words


# ---------------------------------------------------------------------------------------------------- the command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `code-rlm card` and returns its exit status."""
    return cli.main(["card", *(sys.argv[1:] if argv is None else argv)])


def write_card(args: argparse.Namespace) -> int:
    """Writes, checks or pushes a card.

    Args:
        args: Arguments of `code-rlm card`.

    Returns:
        The exit status: 1 where `--check` finds the card out of date.

    Raises:
        CheckpointError: Not a checkpoint's folder, or a file that cannot be read.
    """
    known = known_of(
        args.model or DEFAULT_CHECKPOINT,
        report=args.report,
        training=args.training,
        name=args.name,
        license=args.license,
    )
    card = model_card(known)
    path = known.folder / CARD
    if args.check:
        return int(not path.is_file() or path.read_text(encoding="utf-8") != str(card))
    if args.push and known.name.count("/") != 1:
        raise CheckpointError(
            f"--push needs the hub id that the weights are under: --name you/my-rlm, not {known.name!r}."
        )
    card.save(path)
    print(path)
    if args.push:
        push(card, known.name)
    return 0


def push(card: ModelCard, repo: str) -> None:
    """Uploads a card to a repository that exists; the hub checks it first.

    Raises:
        CheckpointError: The hub refuses it, or there is no such repository.
    """
    try:
        card.push_to_hub(repo)
    except (HfHubHTTPError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"The card could not be uploaded to {repo}: {reason}") from error


__all__ = ["Known", "card_data", "known_of", "model_card", "push"]


if __name__ == "__main__":
    sys.exit(main())
