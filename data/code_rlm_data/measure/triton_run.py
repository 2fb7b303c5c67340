"""Runs a file with Triton kernels. A program of its own.

    python -B triton_run.py main.py '{"warmups": 3, "repeats": 11}'

The file defines `run()`, which launches its kernels on tensors that the file made on `DEVICE`, a name that it finds there.
With a CUDA GPU ("cuda") the latency of `run()` is measured by `triton.testing.do_bench`. Without one nothing is measured, but
checked, twice: every kernel that `run()` launches is compiled for compute capability 9.0, with tensors that have no memory
("meta"); then Triton's interpreter runs it on the CPU ("cpu"). What does not compile ends with status 97.
"""

import inspect
import json
import os
import sys

COMPILE_FAILED = 97
_TARGET = ("cuda", 90, 32)


def main() -> None:
    options = json.loads(sys.argv[2])
    import torch

    if torch.cuda.is_available():
        import triton.testing

        times = list(triton.testing.do_bench(load("cuda"), return_mode="all"))[-options["repeats"] :]
    elif os.environ.get("TRITON_INTERPRET") != "1":
        compile_kernels()
        # Triton reads the variable when it is imported.
        os.execve(sys.executable, [sys.executable, "-B", *sys.argv], {**os.environ, "TRITON_INTERPRET": "1"})
    else:
        load("cpu")()
        times = []
    with os.fdopen(3, "w", encoding="utf-8") as file:
        json.dump({"latency_ms": times}, file)


def load(device: str) -> object:
    """Runs the file and returns its `run`."""
    module = type(sys)("__main__")
    sys.modules["__main__"] = module  # a kernel's source is looked up by its module
    module.__dict__.update({"__file__": sys.argv[1], "DEVICE": device})
    with open(sys.argv[1], encoding="utf-8") as file:
        exec(compile(file.read(), sys.argv[1], "exec"), module.__dict__)
    run = module.__dict__.get("run")
    if not callable(run):
        raise SystemExit("the file defines no function run() that launches its kernels")
    return run


def compile_kernels() -> None:
    """Has launches compile instead of launch, and runs the file."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler.errors import CompilationError
    from triton.runtime.jit import JITFunction, mangle_type

    def build(self, *args, grid, warmup=False, **kwargs):
        names = inspect.signature(self.fn).parameters
        options = {name: value for name, value in kwargs.items() if name not in names}
        bound = inspect.signature(self.fn).bind(*args, **{name: kwargs[name] for name in kwargs if name in names})
        bound.apply_defaults()
        signature = {}
        constants = {}
        for parameter in self.params:
            value = bound.arguments[parameter.name]
            if parameter.is_constexpr or value is None:
                signature[parameter.name] = "constexpr"
                constants[parameter.name] = value
            else:
                signature[parameter.name] = mangle_type(value)
        triton.compile(ASTSource(self, signature, constants), target=GPUTarget(*_TARGET), options=options)

    JITFunction.run = build
    try:
        load("meta")()
    except CompilationError as error:
        print(error, file=sys.stderr)
        sys.exit(COMPILE_FAILED)


if __name__ == "__main__":
    main()
