"""Where the time of predictions goes: seconds by stage for one input, 500 x86 blocks, 200 Python files and 200 networks.

    python benchmarks/stages.py                              # the shipped weights; inputs of the repository
    python benchmarks/stages.py --data-root DATA             # blocks and programs of the tasks' tables
    python benchmarks/stages.py --against OTHER/bin/python   # beside another version: its environment's Python

Each workload runs in a process of its own, `--rounds` times; the versions take turns, and the figures are medians. Stages:

- `import`: modules, up to the first line that could load weights
- `load`: weights, tokenizer and fitted state
- `read`: files or texts to token ids; graphs to texts
- `features`: what the ensemble reads of the token ids
- `encoder`: the encoder pass
- `ensemble`: scores, those for inputs unlike the training rows included
- `decode`: the digit tree, for quantiles and for adjusted ones
- `calibrate`: familiarity, pools and bounds, without the decoding that they ask for
- `other`: everything else

A stage's seconds are its own: those of a stage that it calls are counted there. Networks are drawn at random from the spaces of
NAS-Bench-201 and FBNet. Without a data root, blocks are instructions of `examples/dot_product.s` in random order with other
registers, and programs are rows of polyglot_memory.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COUNTS = {"one input": 1, "blocks": 500, "programs": 200, "networks": 200}
STAGES = ("import", "load", "read", "features", "encoder", "ensemble", "decode", "calibrate", "other")
Seconds = dict[str, tuple[float, float]]  # wall and CPU, by stage


class StageClock:
    """Own wall and CPU seconds of functions, by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._open: list[list[float]] = []  # what the open calls have spent in calls of other stages

    def run(self, stage: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Calls a function and adds what it takes itself to a stage."""
        self._open.append([0.0, 0.0])
        start = (time.perf_counter(), time.process_time())
        try:
            return function(*args, **options)
        finally:
            spent = (time.perf_counter() - start[0], time.process_time() - start[1])
            inner = self._open.pop()
            for clock in range(2):
                self.seconds[stage][clock] += spent[clock] - inner[clock]
                if self._open:
                    self._open[-1][clock] += spent[clock]

    def watch(self, stage: str, owner: Any, name: str) -> None:
        """Puts a function that is timed in the place of an attribute."""
        function = getattr(owner, name)
        setattr(owner, name, lambda *args, **options: self.run(stage, function, *args, **options))


def watch_pipeline(clock: StageClock, pipe: Any) -> None:
    """Times the stages of a pipeline."""
    from code_rlm import pipeline_rlm

    clock.watch("read", pipeline_rlm, "read_input")
    clock.watch("read", pipe.processor, "encode")
    clock.watch("features", pipe.processor, "collate")
    clock.watch("encoder", pipe.model, "encode_layers")
    for name in ("scores", "residual_scales", "fallback_scores"):
        clock.watch("ensemble", pipe.model.ensemble, name)
    for name in ("encode", "predict", "distributions"):
        clock.watch("decode", pipe.model, name)
    clock.watch("calibrate", pipe, "_adjust")


def measure(workload: str, count: int, data_root: str | None) -> Seconds:
    """Answers a workload in this process, which has imported nothing yet."""
    clock = StageClock()

    def imported() -> Any:
        import code_rlm.cli
        import code_rlm.loading
        import code_rlm.predict

        return code_rlm.loading

    loading = clock.run("import", imported)
    pipe = clock.run("load", loading.pipeline)
    inputs = make_inputs(workload, count, data_root)
    if workload != "one input":  # the first answer of a process reads tables and sets up kernels
        pipe(str(ROOT / "examples" / "sieve.py"))
    watch_pipeline(clock, pipe)
    clock.run("other", pipe, inputs)
    return {stage: (seconds[0], seconds[1]) for stage, seconds in clock.seconds.items()}


# ------------------------------------------------------------------------------------------------------- inputs


def make_inputs(workload: str, count: int, data_root: str | None) -> list[Any]:
    """The inputs of a workload, the same in every run."""
    makers = {"blocks": blocks, "programs": programs}
    if workload == "one input":
        return [str(ROOT / "examples" / "dot_product.s")]
    return networks(count) if workload == "networks" else makers[workload](count, data_root)


def blocks(count: int, data_root: str | None) -> list[dict[str, Any]]:
    """x86 blocks."""
    if data_root is not None:
        return _rows("bhive_zen4", count, data_root, None)
    instructions = (ROOT / "examples" / "dot_product.s").read_text(encoding="utf-8").splitlines()
    rng = random.Random(0)
    made = []
    for _ in range(count):
        chosen = rng.choices(instructions, k=rng.randint(3, 12))
        registers = {"xmm0": f"xmm{rng.randint(0, 15)}", "ymm0": f"ymm{rng.randint(0, 15)}"}
        for old, new in registers.items():
            chosen = [line.replace(old, new) for line in chosen]
        made.append({"text": "\n".join(chosen), "language": "x86asm"})
    return made


def programs(count: int, data_root: str | None) -> list[dict[str, Any]]:
    """Python programs."""
    if data_root is not None:
        return _rows("codenet_python", count, data_root, "python")
    return _rows("polyglot_memory", count, None, "python")


def _rows(task: str, count: int, data_root: str | None, language: str | None) -> list[dict[str, Any]]:
    """Inputs of a task's test rows, of one language where it is given."""
    from code_rlm.data.readers import iter_task

    made: list[dict[str, Any]] = []
    for row in iter_task(task, data_root, "test"):
        if language in (None, row.language):
            made.append({"text": row.text, "language": row.language, "context": list(row.context)})
        if len(made) == count:
            break
    return made


def networks(count: int) -> list[Any]:
    """ONNX graphs, half of them of NAS-Bench-201's space, half of FBNet's."""
    from code_rlm.data.nas_graphs import build_graph

    rng = random.Random(0)
    operators = ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3", "skip_connect")
    choices = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
    made = []
    for number in range(count):
        if number % 2:
            made.append(build_graph("fbnet", "|".join(rng.choices(choices, k=22))))
            continue
        nodes = (f"|{'|'.join(f'{rng.choice(operators)}~{i}' for i in range(node))}|" for node in (1, 2, 3))
        made.append(build_graph("nasbench201", "+".join(nodes)))
    return made


# ------------------------------------------------------------------------------------------------------ versions


def measured(python: str, workload: str, count: int, data_root: str | None) -> Seconds:
    """Measures a workload in a new process of a version."""
    command = [python, str(Path(__file__)), "--one", workload, "--count", str(count)]
    command += ["--data-root", data_root] if data_root else []
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return {stage: tuple(seconds) for stage, seconds in json.loads(answer.splitlines()[-1]).items()}


def medians(runs: list[Seconds]) -> Seconds:
    """Medians over runs, by stage."""
    found = {}
    for stage in STAGES:
        pairs = [run.get(stage, (0.0, 0.0)) for run in runs]
        found[stage] = (statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs))
    return found


def table(workload: str, count: int, found: dict[str, Seconds]) -> str:
    """Markdown of a workload: wall and CPU seconds of each version by stage, and how often as fast the last is by CPU."""
    versions = list(found)
    is_compared = len(versions) > 1
    head = ["stage", *(f"{name}: {clock} s" for name in versions for clock in ("wall", "CPU"))]
    lines = [[*head, *(["CPU, ratio"] if is_compared else [])]]
    stages = {stage: [found[name][stage] for name in versions] for stage in STAGES}
    stages["all"] = [
        tuple(sum(pair[clock] for pair in found[name].values()) for clock in range(2)) for name in versions
    ]
    answers = [found[name][stage] for name in versions for stage in STAGES if stage not in ("import", "load")]
    half = len(answers) // len(versions)
    parts = [answers[i * half : (i + 1) * half] for i in range(len(versions))]
    stages["all but import and load"] = [(sum(p[0] for p in part), sum(p[1] for p in part)) for part in parts]
    for stage, pairs in stages.items():
        cells = [f"{seconds:.2f}" for pair in pairs for seconds in pair]
        ratio = [f"{pairs[0][1] / pairs[-1][1]:.1f}" if pairs[-1][1] > 0.005 else ""] if is_compared else []
        lines.append([stage, *cells, *ratio])
    rows = [f"| {' | '.join(cells)} |" for cells in lines]
    rows.insert(1, "|---" * len(lines[0]) + "|")
    return "\n".join([f"**{workload}** ({count})", "", *rows, ""])


def main() -> int:
    """Measures and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder of the tasks' tables [inputs of the repository]")
    parser.add_argument(
        "--against", help="Python of an environment with another version of the package, measured in turns"
    )
    parser.add_argument("--workloads", nargs="+", choices=list(COUNTS), default=list(COUNTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="share of the inputs [1]")
    parser.add_argument("--one", choices=list(COUNTS), help=argparse.SUPPRESS)  # a child process
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.count, args.data_root)))
        return 0
    pythons = ({"before": args.against} if args.against else {}) | {"after" if args.against else "now": sys.executable}
    for workload in args.workloads:
        count = max(1, round(args.share * COUNTS[workload]))
        runs: dict[str, list[Seconds]] = {name: [] for name in pythons}
        for _ in range(args.rounds):
            for name, python in pythons.items():
                runs[name].append(measured(python, workload, count, args.data_root))
        print(table(workload, count, {name: medians(each) for name, each in runs.items()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
