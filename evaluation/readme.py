"""Writes the generated parts of README.md, and the picture that it shows.

    python -m code_rlm.evaluation.readme            # rewrites README.md and docs/assets/results.svg in the current folder
    python -m code_rlm.evaluation.readme --only results
    python -m code_rlm.evaluation.readme --check    # exit 1 if table or picture differ from the shipped report's

Between `<!-- NAME -->` and `<!-- end -->` stands:

- `results`: six rows of the report that measured the shipped weights
- `output: COMMAND`: what the command prints
- `output: python`: what the code block above prints
- `output: benchmarks/NAME.py`: the stored `benchmarks/results/NAME.md`
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from code_rlm.evaluation.results import Row, readme_table, rows_of
from code_rlm.evaluation.results_chart import Mark, chart
from code_rlm.loading import DEFAULT_CHECKPOINT

README = Path("README.md")
PICTURE = Path("docs/assets/results.svg")
# What the table shows: task, metric, and what is predicted in words. docs/results.md has every metric.
TABLE = (
    ("bhive_zen4", "cycles", "x86-64 basic block, cycles"),
    ("nasbench201", "cifar10_valid_accuracy_percent", "network, accuracy on CIFAR-10"),
    ("nasbench201", "latency_ms@pixel3", "network, latency on a phone"),
    ("fbnet", "latency_ms@1080ti_32", "network, latency on a GPU"),
    ("tritonbench", "latency_ms", "Triton kernel, latency"),
    ("leetcode_memory", "peak_memory_bytes", "Python program, peak memory"),
)
# The picture shows more, the weakest results of the report among them.
CHART = (
    *TABLE,
    ("polyglot_memory", "peak_rss_bytes", "generated program, 17 languages: peak memory"),
    ("polyglot_memory", "cpu_time_ms", "generated program, 17 languages: CPU time"),
    ("nasbench101", "cifar10_valid_accuracy_percent", "NAS-Bench-101 network, accuracy"),
    ("fbnet", "latency_ms@fpga", "network, latency on an FPGA"),
    ("fbnet", "latency_ms@samsung_s7", "network, latency on an older phone"),
    ("codenet_python", "judge_cpu_time_ms", "contest program, CPU time"),
    ("codenet_python", "judge_memory_bytes", "contest program, peak memory"),
    # As reports of earlier weights name them.
    ("codenet_python", "cpu_time_ms@codenet", "contest program, CPU time"),
    ("codenet_python", "peak_memory_bytes@codenet", "contest program, peak memory"),
)
_PART = re.compile(r"(<!-- (results|output: [^\n]*?) -->\n).*?(<!-- end -->)", re.S)


def shipped_report() -> dict[str, Any]:
    """Returns the report that measured the shipped weights."""
    return json.loads((DEFAULT_CHECKPOINT / "report.json").read_text(encoding="utf-8"))


def _chosen(report: Mapping[str, Any], choice: Sequence[tuple[str, str, str]]) -> list[tuple[str, Row]]:
    """Returns words and row of each choice that the report has."""
    rows = {(row.task, row.metric): row for row in rows_of(report)}
    return [(words, rows[task, metric]) for task, metric, words in choice if (task, metric) in rows]


def results_table(report: Mapping[str, Any]) -> str:
    """Returns the Markdown table of the metrics in `TABLE`."""
    return "\n".join(readme_table(_chosen(report, TABLE))) + "\n"


def results_picture(report: Mapping[str, Any]) -> str:
    """Returns the SVG of the metrics in `CHART`, best rank correlation first."""
    marks = [Mark.of(words, row) for words, row in _chosen(report, CHART)]
    marks.sort(key=lambda mark: -mark.value)
    return chart(marks, "Rank correlation with measured values, on groups that training has not seen")


def render(text: str, only: str | None = None) -> str:
    """Returns the README with its generated parts written anew.

    Args:
        text: The README.
        only: The one part to write, such as `results`; the others stay.
    """

    def write(match: re.Match[str]) -> str:
        name = match.group(2)
        if only is not None and name != only:
            return match.group(0)
        return match.group(1) + _part(name, text[: match.start()]) + match.group(3)

    return _PART.sub(write, text)


def _part(name: str, before: str) -> str:
    """Returns a part's lines; `before` is the README up to it."""
    if name == "results":
        return results_table(shipped_report())
    if name == "output: python":
        code = re.findall(r"```python\n(.*?)```", before, re.S)[-1]
        return _fenced([sys.executable, "-c", code])
    if name.startswith("output: benchmarks/"):
        stored = Path("benchmarks/results", Path(name).with_suffix(".md").name)
        return stored.read_text(encoding="utf-8")
    # On a terminal tables are the default; here the output is no terminal.
    return _fenced([*shlex.split(name.removeprefix("output: ")), "--format", "table"])


def _fenced(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return f"```\n{done.stdout}```\n"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line in the repository's root; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare the table and the picture")
    parser.add_argument("--only", help="write this part alone, such as results")
    args = parser.parse_args(argv)
    text = README.read_text(encoding="utf-8")
    picture = results_picture(shipped_report())
    if args.check:
        table_is_current = render(text, only="results") == text
        picture_is_current = PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == picture
        return int(not (table_is_current and picture_is_current))
    README.write_text(render(text, args.only), encoding="utf-8")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


__all__ = ["CHART", "PICTURE", "TABLE", "render", "results_picture", "results_table", "shipped_report"]

if __name__ == "__main__":
    sys.exit(main())
