"""Writes examples as a folder of the hub: a parquet file for each split, and the card.

The rows pass through once, a batch in memory at a time; what the card counts is kept as numbers.
"""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml
from datasets import Features
from huggingface_hub import DatasetCard, DatasetCardData

from code_rlm.data.schema import FEATURES, DataError, Example, to_dataset, validate
from code_rlm.data.splits import SPLITS, split_of
from code_rlm_data.cards.facts import Facts

_BATCH_ROWS = 1000
_MOST_LINES = 60  # of a table of hardware and versions
_COLUMNS = {
    "text": "the input",
    "language": "language of the input",
    "context": "`key: value` lines that belong to the input but are not its text",
    "metrics": "what was measured; the unit is part of the name, a device follows an @",
    "values": "a number for each metric, null where it is missing",
    "units": "the unit of each",
    "group": "rows of one group are in one split",
    "source": "name of the data set",
    "outcome": "what happened when the row was measured",
    "hardware": "where it was measured",
    "versions": "with what",
}


@dataclass
class _Counts:
    """What a card counts of the rows of all splits."""

    rows: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    groups: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    outcomes: Counter[str] = field(default_factory=Counter)
    ok: Counter[str] = field(default_factory=Counter)
    made_by: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    lengths: dict[str, array] = field(default_factory=lambda: defaultdict(lambda: array("q")))
    values: dict[tuple[str, str, str], array] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    context: Counter[str] = field(default_factory=Counter)

    def add(self, split: str, example: Example) -> None:
        self.rows[split] += 1
        self.groups[split].add(example.group)
        self.outcomes[example.outcome] += 1
        self.ok[example.language] += example.outcome == "ok"
        self.made_by[example.language, example.hardware, example.versions] += 1
        self.lengths[example.language].append(len(example.text))
        self.context.update(line.split(":", 1)[0] for line in example.context)
        for metric, value, unit in zip(example.metrics, example.values, example.units):
            if value is not None:
                self.values[metric, example.language, unit].append(value)


def export_rows(
    examples: Iterable[Example],
    out: str | Path,
    facts: Facts,
    *,
    name: str,
    description: str = "",
    offered: int | None = None,
    left_because: str = "no text can be built of them",
    sections: Callable[[], Mapping[str, str]] = dict,
    card_only: bool = False,
) -> DatasetCard:
    """Writes a data set: `train.parquet`, `validation.parquet`, `test.parquet` by the hash of the group, and README.md.

    A split without rows has no file. The card is read back with the hub's parser and compared before it stands.

    Args:
        examples: The rows; consumed once.
        out: Folder; parquet files of splits that it holds are replaced.
        facts: What cannot be counted from rows.
        name: Of the task, for the card and messages.
        description: What a row is; its part is left out where this is empty.
        offered: Rows that the source has; the card reports how many of them are left out.
        left_because: Why.
        sections: Called after the last row; returns further parts of the card, heading to text. Empty ones are left out.
        card_only: Write only the card; sizes are those of the files that would be there.

    Returns:
        The card.

    Raises:
        DataError: No rows, or rows that do not follow the schema.
    """
    out = Path(out)
    counts = _Counts()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as partial:
        folder = Path(partial)
        _write_rows(iter(examples), folder, counts, name)
        if not counts.rows:
            raise DataError(f"{name}: no rows to write to {out}")
        splits = [split for split in SPLITS if counts.rows[split]]
        gone = 0 if offered is None else offered - sum(counts.rows.values())
        left = f"{gone:,} rows of the source are left out: {left_because}." if gone else ""
        sizes = {split: (folder / f"{split}.parquet").stat().st_size for split in splits}
        card = DatasetCard(
            f"---\n{_card_data(name, facts, counts, sizes).to_yaml()}\n---\n\n"
            + _body(name, facts, counts, description, left, sections(), card_only)
        )
        card.save(folder / "README.md")
        check_card(folder / "README.md")
        for split in () if card_only else SPLITS:
            (out / f"{split}.parquet").unlink(missing_ok=True)
        for file in folder.iterdir():
            if file.name == "README.md" or not card_only:
                file.replace(out / file.name)
    return card


def check_card(path: str | Path) -> DatasetCard:
    """Reads a card with the hub's parser and checks that it describes a data set in the schema.

    Raises:
        DataError: It does not, naming what is missing or contradicts.
    """
    try:
        card = DatasetCard.load(path)
        data = card.data.to_dict()
        features = Features._from_yaml_list(data["dataset_info"]["features"])
        files = {each["split"]: each["path"] for each in data["configs"][0]["data_files"]}
        rows = {each["name"]: each["num_examples"] for each in data["dataset_info"]["splits"]}
        own = data["code_rlm"]
    except (KeyError, IndexError, TypeError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: no card of a data set in the schema: {type(error).__name__} {error}") from error
    wrong = []
    if features != FEATURES:
        wrong.append(f"features {', '.join(features)} are not the schema's")
    if files.keys() != rows.keys():
        wrong.append(f"files for {', '.join(files)}, but rows for {', '.join(rows)}")
    if sum(rows.values()) != own["rows"]:
        wrong.append(f"splits of {sum(rows.values())} rows, but {own['rows']} in all")
    if data.get("size_categories") != [_size_category(own["rows"])]:
        wrong.append(f"size {data.get('size_categories')} for {own['rows']} rows")
    wrong += [
        f"no {key}" for key in ("license", "pretty_name", "task_categories", "language", "tags") if not data.get(key)
    ]
    if wrong:
        raise DataError(f"{path}: {'; '.join(wrong)}; make the card anew with `python -m code_rlm_data.cards`")
    return card


def _write_rows(examples: Iterator[Example], folder: Path, counts: _Counts, name: str) -> None:
    """Writes the rows to the files of their splits, and counts them."""
    waiting: dict[str, list[Example]] = defaultdict(list)
    with ExitStack() as stack:
        writers: dict[str, pq.ParquetWriter] = {}

        def flush(split: str) -> None:
            table = to_dataset(waiting.pop(split)).data.table
            if split not in writers:
                path = folder / f"{split}.parquet"
                opened = pq.ParquetWriter(path, FEATURES.arrow_schema, compression="zstd", compression_level=9)
                writers[split] = stack.enter_context(opened)
            counts.bytes[split] += table.nbytes
            writers[split].write_table(table)

        start = 0
        while batch := list(islice(examples, _BATCH_ROWS)):
            report = validate(batch, strict=False)
            if not report.ok:
                raise DataError(f"{name}: rows from {start} on, counted from there:\n{report}")
            start += len(batch)
            for example in batch:
                split = split_of(example.group)
                counts.add(split, example)
                waiting[split].append(example)
                if len(waiting[split]) == _BATCH_ROWS:
                    flush(split)
        for split in list(waiting):
            flush(split)


def _card_data(name: str, facts: Facts, counts: _Counts, sizes: Mapping[str, int]) -> DatasetCardData:
    """Returns the hub's part of the card."""
    languages = sorted(counts.lengths)
    total = sum(counts.rows.values())
    return DatasetCardData(
        license=facts.licence,
        pretty_name=facts.title,
        language=["code"],
        task_categories=["text-classification"],
        task_ids=["text-scoring"],
        tags=list(dict.fromkeys(["code", "regression", "performance", *facts.tags, *languages])),
        size_categories=[_size_category(total)],
        annotations_creators=["machine-generated"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}.parquet"} for split in sizes],
            }
        ],
        dataset_info={
            "features": FEATURES._to_yaml_list(),
            "splits": [
                {"name": split, "num_bytes": counts.bytes[split], "num_examples": counts.rows[split]} for split in sizes
            ],
            "download_size": sum(sizes.values()),
            "dataset_size": sum(counts.bytes.values()),
        },
        # Not the hub's; read back for the table of all data sets.
        code_rlm={
            "task": name,
            "rows": total,
            "groups": sum(map(len, counts.groups.values())),
            "languages": languages,
            "metrics": sorted({metric for metric, _, _ in counts.values}),
        },
    )


def _body(
    name: str,
    facts: Facts,
    counts: _Counts,
    description: str,
    left: str,
    sections: Mapping[str, str],
    card_only: bool,
) -> str:
    """Returns the part of the card that people read."""
    groups = sum(map(len, counts.groups.values()))
    head = f"{sum(counts.rows.values()):,} rows in {groups:,} groups."
    if left:
        head += f" {left}"
    remake = facts.remake or f"python -m code_rlm_data.cards --task {name} --data-root DATA --out FOLDER"
    if card_only:
        head += " The rows are no part of this repository; the command at the end makes them."
    parts = {
        "What a row is": description,
        "Numbers": _numbers(counts),
        "Rows": _rows(counts),
        "Columns": _columns(counts),
        "How it was measured": f"{facts.measured}\n\n{_made_by(counts)}",
        **sections,
        "Splits": "By a hash of the group, the same in all of `code_rlm`: rows that are added later move none.\n\n"
        + _splits(counts),
        "Known traps": "\n".join(f"- {trap}" for trap in facts.traps) or "None known.",
        "Source and licence": facts.source,
        "How to make it": f"```bash\n{remake}\n```",
    }
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in parts.items() if text)
    return f"# {facts.title}\n\n{head}\n\n{body}\n"


def _numbers(counts: _Counts) -> str:
    """Returns a line for each metric and language: how many numbers, and where they lie."""
    lines = [
        "| metric | language | unit | numbers | min | p10 | median | p90 | max |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (metric, language, unit), found in sorted(counts.values.items()):
        points = np.quantile(np.frombuffer(found, dtype=np.float64), [0, 0.1, 0.5, 0.9, 1])
        lines.append(f"| `{metric}` | {language} | {unit} | {len(found):,} | {' | '.join(map(_short, points))} |")
    return "\n".join(lines) if len(lines) > 2 else "No row has a number."


def _rows(counts: _Counts) -> str:
    """Returns a line for each language: how many rows, and how long their texts are."""
    lines = ["| language | rows | ok | characters: median | p95 | max |", "|---|---|---|---|---|---|"]
    for language, lengths in sorted(counts.lengths.items()):
        middle, high, most = np.quantile(np.frombuffer(lengths, dtype=np.int64), [0.5, 0.95, 1])
        lines.append(
            f"| {language} | {len(lengths):,} | {counts.ok[language]:,} | {middle:,.0f} | {high:,.0f} | {most:,.0f} |"
        )
    return "\n".join(lines)


def _columns(counts: _Counts) -> str:
    columns = dict(_COLUMNS)
    columns["outcome"] += ": " + ", ".join(f"{name} {count:,}" for name, count in counts.outcomes.most_common())
    if counts.context:
        columns["context"] += ": " + ", ".join(f"`{key}`" for key, _ in counts.context.most_common(12))
    return "| column | what |\n|---|---|\n" + "\n".join(f"| `{name}` | {columns[name]} |" for name in FEATURES)


def _made_by(counts: _Counts) -> str:
    """Which hardware and versions the rows name; one line where they all name the same."""
    found = Counter({key: count for key, count in counts.made_by.items() if key[1] or key[2]})
    if not found:
        return "The rows name no hardware and no versions: the source does not record them."
    pairs = {key[1:] for key in found}
    if len(pairs) == 1:
        hardware, versions = next(iter(pairs))
        return "".join(
            f"{what}: {text}. " for what, text in (("Hardware", hardware), ("Versions", versions)) if text
        ).strip()
    lines = ["| language | hardware | versions | rows |", "|---|---|---|---|"]
    for (language, hardware, versions), count in sorted(found.items())[:_MOST_LINES]:
        lines.append(f"| {language} | {hardware} | {versions} | {count:,} |")
    more = len(found) - _MOST_LINES
    return "\n".join(lines) + (f"\n\nAnd {more} more; the columns have them." if more > 0 else "")


def _splits(counts: _Counts) -> str:
    lines = ["| split | rows | groups |", "|---|---|---|"]
    lines += [f"| {split} | {counts.rows[split]:,} | {len(counts.groups[split]):,} |" for split in SPLITS]
    return "\n".join(lines)


def _short(value: float) -> str:
    """Writes a number with four digits."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def _size_category(rows: int) -> str:
    """Returns the hub's name for a size."""
    for bound, name in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")):
        if rows < bound:
            return name
    return "1M<n<10M"


__all__ = ["check_card", "export_rows"]
