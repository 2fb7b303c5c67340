"""Measures one call in a fresh interpreter, as "Regression Language Models for Code" does. A program of its own.

    python -s -S -B python_call.py main.py options.json

Warm-ups, then timed calls, then traced calls; the results go to file descriptor 3 as JSON. A call is the statements of
`call` after those of `setup`, which are not measured; without them it is the whole program, with standard input from its
beginning. What the first call prints is what the program prints. Each call has `wall_s` seconds on the clock and `cpu_s` of
the processor; then SIGALRM or SIGPROF ends all. Memory is the peak above what was there before the call, less that of a call of
nothing.
"""

import gc
import io
import json
import os
import signal
import sys
import time
import tracemalloc

CHECK_FAILED = 98  # exit status


def main() -> None:
    with open(sys.argv[2], encoding="utf-8") as file:
        options = json.load(file)
    with open(sys.argv[1], encoding="utf-8") as file:
        program = compile(file.read(), "main.py", "exec", dont_inherit=True)
    data = sys.stdin.buffer.read()
    sys.argv[:] = ["main.py", *options["arguments"]]
    printed = sys.stdout
    nowhere = open(os.devnull, "w")

    def timers(wall_s: float, cpu_s: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, wall_s)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)

    if options["call"]:
        names = {"__name__": "__main__"}
        exec(compile(options["prelude"], "prelude", "exec", dont_inherit=True), names)
        exec(program, names)
        setup, call, check = (
            compile(options[part], part, "exec", dont_inherit=True) for part in ("setup", "call", "check")
        )
    else:
        setup = None
        call = program
        check = None

    def prepare(first: bool) -> dict:
        """Runs everything before a call that is not the call; returns the names that it is run in."""
        sys.stdout = printed if first else nowhere
        sys.stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
        if setup is None:
            fresh = {"__name__": "__main__"}
        else:
            fresh = names
            exec(setup, fresh)
        gc.collect()
        timers(options["wall_s"], options["cpu_s"])
        return fresh

    def timed(first: bool = False) -> tuple[float, float]:
        fresh = prepare(first)
        wall = time.perf_counter()
        cpu = time.process_time()
        run(call, fresh)
        cpu = time.process_time() - cpu
        wall = time.perf_counter() - wall
        timers(0, 0)
        if first and check is not None:
            try:
                exec(check, fresh)
            except AssertionError as error:
                print(f"AssertionError: {error}", file=sys.stderr)
                sys.exit(CHECK_FAILED)
        return wall, cpu

    def traced(call: object) -> int:
        fresh = prepare(False)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            run(call, fresh)
            return tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
            timers(0, 0)

    for number in range(options["warmups"]):
        timed(first=number == 0)
    times = [timed(first=not options["warmups"] and number == 0) for number in range(options["repeats"])]
    overhead = traced(compile("", "nothing", "exec"))
    peaks = [max(0, traced(call) - overhead) for _ in range(options["traced"])]
    sys.stdout = printed
    sys.stdout.flush()
    result = {
        "peak_memory_bytes": peaks,
        "call_wall_time_ms": [wall * 1e3 for wall, _ in times],
        "call_cpu_time_ms": [cpu * 1e3 for _, cpu in times],
    }
    with os.fdopen(3, "w", encoding="utf-8") as file:
        json.dump(result, file)


def run(code: object, names: dict) -> None:
    """Runs a call; a program that ends by sys.exit(0) has ended well."""
    try:
        exec(code, names)
    except SystemExit as ending:
        if ending.code not in (None, 0):
            raise


if __name__ == "__main__":
    main()
