"""Model cards from what is known of a checkpoint: its config, the options that trained it, the report that measured it.

    code-rlm card --model runs/mine/final --report runs/mine/report/report.json --license mit
    code-rlm card --model runs/mine/final --name you/my-rlm --push      # the card alone, beside weights that are there
    code-rlm card                                                       # the weights that ship; --check compares only

The card is written as README.md into the checkpoint's folder. A report that lies there as report.json is used; without one the
card says that nothing was measured. The options are those that training left as training_options.yaml, or the YAML files of
`--training`, which the card remembers.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from code_rlm.configuration_rlm import TASK, Metric, RLMConfig
from code_rlm.data.readers import TASKS
from code_rlm.errors_rlm import CheckpointError, RLMError
from code_rlm.evaluation.results import (
    Row,
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

CARD, REPORT, OPTIONS = "README.md", "report.json", "training_options.yaml"
# Under this key of its metadata a card remembers which files of options it was told of.
_REMEMBERED = "training_configs"
# With fewer groups a score says little about other groups.
_FEW_GROUPS = 50
# Our scores to the names that the hub knows.
_HUB_NAMES = {"spearman": "spearmanr", "kendall": "kendalltau", "mape": "mape"}

_NOT_FOR = """
- **No bound.** One true value in ten lies outside a 90% interval. Nothing here proves a worst-case execution time or a memory
  limit, and nothing real-time or safety-critical may rest on it.
- **No other hardware, compiler, judge or data set** than the table of metrics names. Another machine gives other numbers, and
  often another order.
- **No judgement of people:** not for grading, hiring or billing by the code that somebody wrote.
- **No check of code.** The model reads text and runs nothing: it does not know whether a program is correct, ends or is
  harmless, and text that is written to mislead it will.
"""


@dataclass
class Known:
    """What a card is made of.

    Attributes:
        folder: The checkpoint's.
        config: Its config.
        name: How the card calls it, a hub id or a folder's name.
        license: As the hub names licences; None to leave it open.
        report: Of `code-rlm evaluate`, None where nothing was measured.
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
        """Rows of the report."""
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
    """Gathers what is known of a checkpoint.

    Args:
        folder: Of a checkpoint or a LoRA adapter.
        report: A report.json; by default that of the folder, if it has one.
        training: YAML files of options, in the order of the runs; by default what training left in the folder, or what the
            card that is there was told.
        name: Hub id, or any name; by default the folder's.
        license: As the hub names licences (`mit`, `apache-2.0`); by default what the card that is there says.

    Raises:
        CheckpointError: Not a checkpoint's folder, or a file that cannot be read.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint's folder: it has no config.json. Name one, such as runs/mine/final."
        )
    try:
        config = RLMConfig.from_pretrained(folder)
    except Exception as error:  # a damaged file fails in as many ways as there are libraries that read one
        raise CheckpointError(f"{folder / 'config.json'} cannot be read: {str(error).splitlines()[0]}") from error
    ships = folder.resolve() == DEFAULT_CHECKPOINT.resolve()
    before = ModelCard.load(folder / CARD).data if (folder / CARD).is_file() else {}
    # A card is published: it names files, not where they lay on the machine that wrote it.
    files = {Path(each).name if Path(each).is_absolute() else str(each): Path(each) for each in training}
    if not files and not (folder / OPTIONS).is_file():
        files = {each: Path(each) for each in before.get(_REMEMBERED, ())}
    if lacking := [each for each, path in files.items() if not path.is_file()]:
        raise CheckpointError(f"There is no {lacking[0]}; name the options that trained {folder} with --training.")
    remembered = list(files)
    if not files and (folder / OPTIONS).is_file():
        files = {OPTIONS: folder / OPTIONS}
    stored = Path(report) if report else folder / REPORT
    if report and not stored.is_file():
        raise CheckpointError(f"There is no report {stored}; code-rlm evaluate writes one.")
    return Known(
        folder=folder,
        config=config,
        name=name
        or (f"code-rlm-{folder.resolve().name}" if ships else before.get("model_name") or folder.resolve().name),
        license=license or ("apache-2.0" if ships else before.get("license")),
        report=_report(stored) if stored.is_file() else None,
        training=files,
        remembered=remembered,
    )


def _report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        rows_of(report)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a report of code-rlm evaluate: {type(error).__name__}: {error}") from None
    return report


def _yaml(path: Path) -> dict[str, Any]:
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(options, dict):
        raise CheckpointError(f"{path} holds no options of a training run.")
    return options


# ---------------------------------------------------------------------------------------------------- the card


def model_card(known: Known) -> ModelCard:
    """The card of a checkpoint: metadata with every result, then the text."""
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


def card_data(known: Known) -> ModelCardData:
    """The card's metadata, with one result for each score of the report."""
    kinds = sorted({kind for metric in known.config.metrics for kind in metric["kinds"]})
    results = [
        EvalResult(
            task_type=TASK,
            task_name="Code regression",
            dataset_type=row.task,
            dataset_name=f"{row.task}, {row.metric}",
            dataset_config=row.metric,
            dataset_split=known.report.get("split", "test"),
            metric_type=kind,
            metric_name=title,
            metric_value=round(value, 4),
            metric_args=args,
        )
        for row in known.rows
        for kind, title, value, args in _hub_scores(row, known.report["level"])
    ]
    more = {_REMEMBERED: list(known.remembered)} if known.remembered else {}
    base = _base_model(known)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        license=known.license,
        base_model=base,
        tags=[TASK, "regression", "code", "performance-prediction", *kinds],
        metrics=sorted({result.metric_type for result in results if result.metric_type in _HUB_NAMES.values()}) or None,
        model_name=known.name,
        eval_results=results or None,
        **more,
    )


def _hub_scores(row: Row, level: float) -> Iterator[tuple[str, str, float, dict[str, Any]]]:
    """Type, name, value and what belongs to it of every score that a row has."""
    counts = {"rows": row.n, "groups": row.groups}
    ends = f"interval_{level:.0%}".replace("%", "")
    for score, kind in _HUB_NAMES.items():
        found = row.scores[score]
        if found.value is not None:
            interval = None if found.low is None or found.high is None else [round(found.low, 4), round(found.high, 4)]
            title = {"spearman": "Spearman", "kendall": "Kendall", "mape": "MAPE (share)"}[score]
            yield kind, title, found.value, {**counts, **({ends: interval} if interval else {})}
    if "0.9" in row.coverage:
        title = "share of rows inside the 90% interval"
        yield "coverage_90", title, row.coverage["0.9"].value, {**counts, "calibrated": row.calibrated}


def _base_model(known: Known) -> str | None:
    """Hub id of the checkpoint that this one was tuned from, where it has one."""
    adapter = known.folder / ADAPTER_BASE
    base = json.loads(adapter.read_text(encoding="utf-8")).get("base") if adapter.is_file() else None
    for options in known.options.values():
        base = base or options.get("init") or options.get("encoder")
    return (
        base
        if isinstance(base, str) and base.count("/") == 1 and not base.startswith((".", "checkpoints/", "runs/"))
        else None
    )


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *lines] if lines else []


def _head(known: Known) -> list[str]:
    config = known.config
    files = sorted(known.folder.glob("*.safetensors"))
    tensors = stored_tensors(files)
    # What the lexical path knows of the vocabulary is neither trained nor fitted.
    told = ("lexical.reader.", "lexical.texts.")
    sizes = {name: math.prod(t.shape) for name, t in tensors.items() if not name.startswith(told)}
    closed = sum(size for name, size in sizes.items() if name.startswith("lexical."))
    count = sum(sizes.values()) - closed
    size = sum(path.stat().st_size for path in files)
    adapter = (known.folder / ADAPTER_BASE).is_file()
    parts = f"{count / 1e6:.2f}M {'parameters of a LoRA adapter' if adapter else 'parameters'}"
    parts += f" and {closed / 1e6:.2f}M coefficients of its lexical path" if closed else ""
    return [
        f"# {known.name}",
        "",
        "A regression language model of Code-RLM: it reads code and answers with numbers, digit by digit, with exact "
        "intervals, as in [Regression Language Models for Code](https://arxiv.org/abs/2509.26476).",
        "",
        f"{parts}, {size / 1e6:.1f} MB; an encoder of type `{config.encoder.model_type}`, a decoder of "
        f"{config.decoder_num_layers} layers of width {config.decoder_hidden_size}. It reads up to {config.max_input_tokens:,} "
        f"tokens and writes up to {config.max_objectives} numbers in one answer.",
    ]


def _metric_table(known: Known) -> list[str]:
    entries = [Metric.from_dict(entry) for entry in known.config.metrics]
    return table(
        ["metric", "unit", "input", "better", "where its numbers come from", "intervals"],
        [
            [
                f"`{metric.name}`",
                *(
                    metric.unit or "–",
                    ", ".join(metric.kinds) or "–",
                    "smaller" if metric.smaller_is_better else "larger",
                ),
                *(_origin(known, metric), _calibrated(known.config, metric.name)),
            ]
            for metric in entries
        ],
    )


def _tasks_of(known: Known, metric: str) -> list[str]:
    """Tasks of `data/readers.py` that the metric was learned or measured on, as the report and the options tell."""
    named = [row.task for row in known.rows if row.metric == metric]
    for options in known.options.values():
        for entry in options.get("data") or ():
            task = TASKS.get(entry.get("task", ""))
            if task and metric in (entry.get("metrics") or task.metrics):
                named.append(task.name)
    return list(dict.fromkeys(each for each in named if each in TASKS))


def _origin(known: Known, metric: Metric) -> str:
    tasks = {task: hardware_of(task, metric.name) for task in _tasks_of(known, metric.name)}
    if not any(tasks.values()):
        return metric.description or "–"
    return "; ".join(f"{task}: {hardware}" if hardware else task for task, hardware in tasks.items())


def _calibrated(config: RLMConfig, metric: str) -> str:
    found = config.calibration_of(metric)
    if found is None:
        return "the model's own"
    return f"calibrated on {found.rows:,} rows, {found.groups:,} groups ({found.source})"


def _usage(known: Known) -> list[str]:
    kinds = known.config.default_metrics
    asked = {metric["name"]: metric["kinds"] for metric in known.config.metrics}
    metric = next((names[0] for names in kinds.values() if names), next(iter(asked), "latency_ms"))
    kind = next(iter(asked.get(metric, ())), "python")
    call = f'pipe({{"text": code, "language": "{kind}"}}, metrics=["{metric}"], interval=0.9)'
    if known.ships:
        return ["```bash", "pip install code-rlm && code-rlm predict FILE", "```", "", "```python", "import code_rlm", "",
                "pipe = code_rlm.pipeline()", call, "```"]  # fmt: skip
    return [
        "With nothing but transformers installed:",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        f'pipe = pipeline("{TASK}", model="{known.name}", trust_remote_code=True)',
        call,
        "```",
        "",
        f'With `pip install code-rlm`, and without running code from this repository: `code_rlm.pipeline("{known.name}")`.',
    ]


def _intended(known: Known) -> list[str]:
    kinds = sorted({kind for metric in known.config.metrics for kind in metric["kinds"]})
    return [
        f"Ranking and first estimates before anything runs, of inputs of the kinds {', '.join(kinds) or 'it was trained on'}, "
        "of the metrics above and on the hardware that they name: which of several candidates to measure first, which to leave "
        "out, roughly how large a number will be and how sure that is. Measure what matters before you decide on it.",
    ]


def _limits(known: Known) -> list[str]:
    rows = known.rows
    lines = []
    if known.report is None:
        lines.append(
            "- **Nothing was measured for this card.** How good it is, and whether its intervals hold, is unknown; `code-rlm "
            "evaluate` tells, on groups that it was not trained on."
        )
    lines += who_wins(rows)
    lines += coverage_words(rows)
    if few := [row for row in rows if row.groups < _FEW_GROUPS]:
        named = ", ".join(f"{row.task} {row.metric} ({row.groups})" for row in few)
        lines.append(f"- Few groups, so that scores and coverage are loose: {named}.")
    if cut := {row.task: row.truncated_share for row in rows if row.truncated_share}:
        named = ", ".join(f"{task} {share:.0%}" for task, share in cut.items())
        lines.append(f"- Rows that were longer than it reads, scored by what was left of them: {named}.")
    scored = {row.metric for row in rows}
    unscored = [entry["name"] for entry in known.config.metrics if entry["name"] not in scored]
    if rows and unscored:
        lines.append(
            f"- It answers for {', '.join(f'`{name}`' for name in unscored)} too, of which no score is stored."
        )
    longest = max((options.get("max_tokens", 0) for options in known.options.values()), default=0)
    if 0 < longest < known.config.max_input_tokens:
        lines.append(
            f"- Training read at most {longest:,} tokens of an input; up to {known.config.max_input_tokens:,} are read now. "
            "What is longer loses its middle, which every answer tells (`truncated_tokens`)."
        )
    lines.append(
        "- Code of other kinds, languages and styles than it was trained on is read, but nothing was learned about it."
    )
    return lines


def _results(known: Known) -> list[str]:
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
    if not known.options:
        return ["How it was trained is not recorded with it."]
    lines = []
    if len(known.options) > 1:
        lines += [f"{len(known.options)} runs, each going on from the one before:", ""]
    for name, options in known.options.items():
        said = _said(known.training[name]) if known.remembered else ""
        lines.append(f"- **{name}.** {said} {_facts(options)}".replace("  ", " "))
    tasks = sorted({e["task"] for o in known.options.values() for e in (o.get("data") or ()) if e.get("task") in TASKS})
    if tasks:
        lines += ["", *table(["data", "what", "licence"], [[t, TASKS[t].summary, TASKS[t].licence] for t in tasks])]
    return lines


def _said(path: Path) -> str:
    """The comment at the head of a file of options, without the commands in it."""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("#   "):
            words.append(line.removeprefix("#").strip())
    return " ".join(words)


def _facts(options: Mapping[str, Any]) -> str:
    """What the options say, in one sentence."""
    facts = []
    data = []
    for entry in options.get("data") or ():
        source = str(entry.get("task") or Path(str(entry.get("file", "?"))).name)
        group = f", grouped by {entry['group_column']}" if entry.get("group_column") else ""
        targets = f" ({', '.join(entry['target_columns'])}{group})" if entry.get("target_columns") else ""
        data.append(f"{source}{targets}" + (f" {entry['weight']:g}" if "weight" in entry else ""))
    if data:
        facts.append(f"data: {', '.join(data)}")
    if options.get("init"):
        facts.append(f"from the weights of {options['init']}")
    if options.get("lora"):
        facts.append(f"LoRA of rank {options['lora'].get('rank', 16)}")
    if options.get("freeze_encoder"):
        facts.append("the encoder frozen")
    named = (
        ("steps", "at most {:,} steps"),
        ("batch_tokens", "{:,} tokens a batch"),
        ("max_tokens", "inputs of at most {:,} tokens"),
    )
    facts += [text.format(options[key]) for key, text in named if options.get(key)]
    if options.get("learning_rate"):
        facts.append(f"learning rate {float(options['learning_rate']):g}")
    facts.append(f"seed {options.get('seed', 0)}")
    text = "; ".join(facts)
    return f"{text[0].upper()}{text[1:]}."


# ---------------------------------------------------------------------------------------------------- the command


def main(argv: list[str] | None = None) -> int:
    """Command line; 2 and one line on what cannot be used, 1 if `--check` finds another card."""
    parser = argparse.ArgumentParser(
        "code-rlm card", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="DIR", help="checkpoint folder; by default the weights that ship")
    parser.add_argument("--report", metavar="FILE", help="report.json of code-rlm evaluate; by default the folder's")
    parser.add_argument("--training", nargs="+", default=[], metavar="YAML", help="options of each run that made it")
    parser.add_argument("--name", help="hub id or another name; by default the folder's")
    parser.add_argument("--license", metavar="ID", help="as the hub names licences: mit, apache-2.0, ...")
    parser.add_argument("--push", action="store_true", help="validate the card and upload it to the hub id of --name")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the card is not up to date")
    args = parser.parse_args(argv)
    try:
        known = known_of(
            args.model or DEFAULT_CHECKPOINT,
            report=args.report,
            training=args.training,
            name=args.name,
            license=args.license,
        )
        card, path = model_card(known), known.folder / CARD
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
    except RLMError as error:
        print(f"code-rlm card: {error}", file=sys.stderr)
        return 2
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
