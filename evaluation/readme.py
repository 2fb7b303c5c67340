"""Writes the generated parts of README.md: real outputs and the table of results.

    python -m code_rlm.evaluation.readme            # rewrites README.md in the current folder
    python -m code_rlm.evaluation.readme --check    # exit 1 if the table of results is not that of the shipped report

Between `<!-- NAME -->` and `<!-- end -->`: `output: COMMAND` is what the command printed, `output: python` what the code block
above it printed, `output: benchmarks/NAME.py` the stored `benchmarks/results/NAME.md`, `results` the shipped report's table.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from code_rlm.evaluation.results import rows_of, summary_table
from code_rlm.loading import DEFAULT_CHECKPOINT

# Rows of the table, the metrics that a reader asks for first; report.json beside the weights has all.
SHOWN = {
    "bhive_zen4": ("cycles",),
    "nasbench201": (
        "cifar10_valid_accuracy_percent",
        "latency_ms@pixel3",
        "latency_ms@eyeriss",
        "latency_ms@gold_6226",
        "latency_ms@2080ti_1",
    ),
    "nasbench101": ("cifar10_valid_accuracy_percent",),
    "fbnet": ("latency_ms@fpga", "latency_ms@1080ti_32"),
    "tritonbench": ("latency_ms",),
    # The first weights had the judge's numbers without the judge in their names.
    "codenet_python": ("peak_memory_bytes@codenet", "cpu_time_ms@codenet", "peak_memory_bytes", "cpu_time_ms"),
    "leetcode_memory": ("peak_memory_bytes",),
    "polyglot_memory": ("peak_rss_bytes", "cpu_time_ms"),
}
_PART = re.compile(r"(<!-- (results|output: [^\n]*?) -->\n).*?(<!-- end -->)", re.S)


def results_table(report: dict) -> str:
    """Markdown table of the metrics in `SHOWN`."""
    found = {(row.task, row.metric): row for row in rows_of(report)}
    wanted = [(task, metric) for task, metrics in SHOWN.items() for metric in metrics]
    return "\n".join(summary_table(found[each] for each in wanted if each in found)) + "\n"


def shipped_report() -> dict:
    """The report that measured the shipped weights."""
    return json.loads((DEFAULT_CHECKPOINT / "report.json").read_text(encoding="utf-8"))


def render(text: str, only: str | None = None) -> str:
    """The README with its generated parts written anew, or only those of one name."""

    def write(match: re.Match) -> str:
        name = match.group(2)
        if only is not None and name != only:
            return match.group(0)
        if name == "results":
            body = results_table(shipped_report())
        elif name == "output: python":
            code = re.findall(r"```python\n(.*?)```", text[: match.start()], re.S)[-1]
            body = "```\n" + _run([sys.executable, "-c", code]) + "```\n"
        elif name.startswith("output: benchmarks/"):
            body = Path("benchmarks/results", Path(name.split("/")[-1]).with_suffix(".md")).read_text(encoding="utf-8")
        else:
            command = [*shlex.split(name.removeprefix("output: ")), "--format", "table"]
            body = "```\n" + _run(command) + "```\n"
        return match.group(1) + body + match.group(3)

    return _PART.sub(write, text)


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare the table of results")
    args = parser.parse_args(argv)
    path = Path("README.md")
    text = path.read_text(encoding="utf-8")
    if args.check:
        return int(render(text, only="results") != text)
    path.write_text(render(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
