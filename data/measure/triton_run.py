"""Runs a file with Triton kernels. A program of its own.

    python -B triton_run.py main.py '{"warmups": 3, "repeats": 11}'

The file defines `run()`, which launches its kernels on tensors that the file made. With a CUDA GPU its latency is measured by
`triton.testing.do_bench`. Without one Triton's interpreter runs it once on the CPU, which checks that the kernels are valid,
and nothing is measured. The file makes its tensors on `DEVICE`, which it finds among its names.
"""

import json
import os
import sys


def main():
    options = json.loads(sys.argv[2])
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    import triton.testing

    names = {"__name__": "__main__", "__file__": sys.argv[1], "DEVICE": device}
    module = type(sys)("__main__")
    sys.modules["__main__"] = module  # the interpreter looks up a kernel's source by its module
    module.__dict__.update(names)
    with open(sys.argv[1], encoding="utf-8") as file:
        exec(compile(file.read(), sys.argv[1], "exec"), module.__dict__)
    run = module.__dict__.get("run")
    if not callable(run):
        raise SystemExit("the file defines no function run() that launches its kernels")
    times = []
    if device == "cuda":
        times = list(triton.testing.do_bench(run, return_mode="all"))[-options["repeats"] :]
    else:
        run()
    with os.fdopen(3, "w", encoding="utf-8") as file:
        json.dump({"latency_ms": times}, file)


if __name__ == "__main__":
    main()
