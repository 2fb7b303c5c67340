"""The card of polyglot-memory: every number in it is counted from the rows."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from datasets import Features
from huggingface_hub import DatasetCard, DatasetCardData

ARROW_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("language", pa.string()),
        ("group", pa.string()),
        ("peak_rss_bytes", pa.float64()),
        ("cpu_time_ms", pa.float64()),
        ("idle_peak_rss_bytes", pa.float64()),
        ("outcome", pa.string()),
        ("hardware", pa.string()),
        ("versions", pa.string()),
    ]
)

_MB = 1e6


def write_card(
    tables: Mapping[str, pa.Table], sizes: Mapping[str, int], noise: Mapping[str, Mapping[str, float]]
) -> str:
    """Return the text of README.md: the hub's YAML and what a reader must know.

    Args:
        tables: Split to its rows, in `ARROW_SCHEMA`.
        sizes: Split to the bytes of its file.
        noise: What `noise_between` found; empty where there was no second pass.
    """
    rows = [row for table in tables.values() for row in table.to_pylist()]
    ok = [row for row in rows if row["outcome"] == "ok"]
    languages = sorted({row["language"] for row in rows})
    info = {
        "features": Features.from_arrow_schema(ARROW_SCHEMA)._to_yaml_list(),
        "splits": [
            {"name": split, "num_bytes": table.nbytes, "num_examples": table.num_rows}
            for split, table in tables.items()
        ],
        "download_size": sum(sizes.values()),
        "dataset_size": sum(table.nbytes for table in tables.values()),
    }
    data = DatasetCardData(
        license="apache-2.0",
        pretty_name="polyglot-memory",
        task_categories=["text-classification"],
        task_ids=["text-scoring"],
        tags=["code", "regression", "performance", "memory", "synthetic"],
        size_categories=[_size_category(len(rows))],
        annotations_creators=["machine-generated"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}.parquet"} for split in tables],
            }
        ],
        dataset_info=info,
    )
    shares = ", ".join(f"{split} {table.num_rows:,}" for split, table in tables.items())
    body = f"""# polyglot-memory

{len(rows):,} small algorithmic programs in {len(languages)} languages, each with the peak memory and the CPU time of one run.
They are generated from one internal form by `code_rlm.data.polyglot` and measured by `code_rlm.data.measure`; no program is
anyone's submission.

{_language_table(ok, rows, languages)}

A problem (`group`) is one skeleton: one to three algorithms with the formulas that make it compute what it computes. Its rows
are variants (sizes, element types, in place or copied, stored or streamed, helpers, distractors) in all languages that can
write it. {_spread(ok)}

## Columns

| column | what | unit |
|---|---|---|
| `text` | the program; it reads nothing and prints one number | |
| `language` | {", ".join(languages)} | |
| `group` | the problem; rows of one group are in one split | |
| `peak_rss_bytes` | peak resident size of the process, the runtime's own included | bytes |
| `cpu_time_ms` | user and system time of the process, its start included | ms |
| `idle_peak_rss_bytes` | peak resident size of a program of the language that does nothing | bytes |
| `outcome` | {", ".join(f"{name} {count:,}" for name, count in Counter(row["outcome"] for row in rows).most_common())} | |
| `hardware`, `versions` | the machine; compiler or interpreter, C library, package | |

Rows whose outcome is not ok have no numbers.

## How it was measured

One run of each program, alone in its process tree, by the kernel's accounting of that process and none before it. What is
compiled was compiled once, with optimisation. Every program had to print the number that the same internal form gives in
Python or C; otherwise its outcome is wrong_answer. Limits: 10 s of CPU, 1 GiB.

{_lines("Hardware", [row["hardware"] for row in rows])}

{_versions(rows)}

{_noise(noise)}

## Splits

By a hash of the group, as everywhere in this package: {shares}
rows. Split it by group if you split it anew: variants of one problem are much alike.

## Known traps

- The programs are synthetic, and from one generator: names, layouts and idioms vary, but less than people do.
- Peak resident size includes the runtime: compare within a language, or subtract `idle_peak_rss_bytes`.
- Memory that is allocated and never touched is not resident: `calloc` of a table that is hardly used costs little.
- CPU time was measured beside other work on the machine; memory hardly minds, time does.
- Languages that lack a container in their standard library do not have the problems that need it.

## Licence

Apache-2.0, like the package. To make it anew: `data/polyglot/install_toolchains.sh`, then the four commands of
`python -m code_rlm.data.polyglot --help`.
"""
    card = DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{body}")
    return str(card)


def _language_table(ok: list[dict[str, Any]], rows: list[dict[str, Any]], languages: list[str]) -> str:
    lines = [
        "| language | rows | ok | peak RSS, MB: min / median / max | CPU time, ms: p10 / median / p90 | idle, MB |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for language in languages:
        own = [row for row in ok if row["language"] == language]
        count = sum(row["language"] == language for row in rows)
        if not own:
            lines.append(f"| {language} | {count:,} | 0 | – | – | – |")
            continue
        memory = sorted(row["peak_rss_bytes"] / _MB for row in own)
        time = sorted(row["cpu_time_ms"] for row in own)
        idle = statistics.median(row["idle_peak_rss_bytes"] for row in own) / _MB
        lines.append(
            f"| {language} | {count:,} | {len(own):,} | {memory[0]:.1f} / {statistics.median(memory):.1f} / {memory[-1]:.1f} | "
            f"{_at(time, 0.1):.0f} / {statistics.median(time):.0f} / {_at(time, 0.9):.0f} | {idle:.1f} |"
        )
    return "\n".join(lines)


def _at(values: list[float], share: float) -> float:
    return values[min(int(share * len(values)), len(values) - 1)]


def _spread(ok: list[dict[str, Any]]) -> str:
    """Say how far apart the rows of a problem lie, in one language and over what an idle process needs."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in ok:
        over = max(row["peak_rss_bytes"] - row["idle_peak_rss_bytes"], 1e4)
        groups[row["group"], row["language"]].append(over)
    ratios = [max(values) / min(values) for values in groups.values() if len(values) > 1]
    if not ratios:
        return "There is one variant of each problem in a language so far."
    return (
        f"Between the largest and the smallest variant of a problem in one language lie, in the median, a factor of "
        f"{statistics.median(ratios):.1f} in the memory over an idle process."
    )


def _lines(title: str, values: list[str]) -> str:
    counts = Counter(values)
    return f"{title}: " + "; ".join(
        f"{value} ({count:,} rows)" if len(counts) > 1 else value for value, count in counts.most_common()
    )


def _versions(rows: list[dict[str, Any]]) -> str:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        found[row["language"]][row["versions"]] += 1
    lines = ["| language | versions |", "|---|---|"]
    lines += [f"| {language} | {' / '.join(counts)} |" for language, counts in sorted(found.items())]
    return "\n".join(lines)


def _noise(noise: Mapping[str, Mapping[str, float]]) -> str:
    if not noise:
        return "There was no second pass: the noise of these numbers is not known yet."
    lines = ["A second pass over some programs; median of the difference over the mean of the two:", ""]
    lines += ["| language | programs | peak RSS | CPU time |", "|---|---|---|---|"]
    lines += [
        f"| {language} | {found['programs']:.0f} | {100 * found['peak_rss_bytes']:.2f}% | {100 * found['cpu_time_ms']:.1f}% |"
        for language, found in noise.items()
    ]
    return "\n".join(lines)


def _size_category(rows: int) -> str:
    for bound, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")):
        if rows < bound:
            return name
    return "100K<n<1M"


__all__ = ["ARROW_SCHEMA", "write_card"]
