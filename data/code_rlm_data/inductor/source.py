"""From a module to the source that Inductor writes for it, and from that to machine code, with a GPU or without one."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from code_rlm_data.inductor.modules import InductorError, Sized

_KERNEL = re.compile(r"async_compile\.triton\('(\w+)', '''(.*?)''', device_str=", re.DOTALL)
# The description of the device that is not there, for Inductor.
ABSENT = SimpleNamespace(
    name="no device",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
)
ABSENT_HARDWARE = "compiled for compute capability 9.0, 132 multiprocessors; no GPU there"


@contextlib.contextmanager
def target() -> Iterator[torch.device]:
    """Returns the device that source is written for: the GPU, or without one a device that is only described to Inductor.

    Raises:
        InductorError: Triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise InductorError(
            "Inductor writes Triton only where triton is installed: pip install 'code-rlm-data[triton]'"
        )
    if torch.cuda.is_available():
        yield torch.device("cuda:0")
        return
    import triton
    from torch._dynamo import device_interface
    from torch._inductor.runtime import triton_helpers
    from torch._inductor.runtime.hints import DeviceProperties
    from torch.utils import _triton
    from triton.backends.compiler import GPUTarget

    class Absent(device_interface.CudaInterface):
        """What Inductor asks of a device, without one."""

        class Worker:
            set_device = staticmethod(lambda device: None)
            current_device = staticmethod(lambda: 0)
            get_device_properties = staticmethod(lambda device=None: ABSENT)

        current_device = staticmethod(lambda: 0)
        device_count = staticmethod(lambda: 1)
        get_device_properties = staticmethod(lambda device=None: ABSENT)
        is_available = staticmethod(lambda: True)
        get_compute_capability = staticmethod(lambda device=None: 10 * ABSENT.major + ABSENT.minor)
        is_triton_capable = staticmethod(lambda device=None: True)
        is_bf16_supported = staticmethod(lambda including_emulation=False: True)

    class Driver:
        """What Triton asks of a driver to compile."""

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", 10 * ABSENT.major + ABSENT.minor, ABSENT.warp_size)

        def get_current_device(self) -> int:
            return 0

    device_interface.get_interface_for_device("cpu")  # registers those that are there, once
    kept = {name: device_interface.device_interfaces.get(name) for name in ("cuda", "cuda:0")}
    caches = (DeviceProperties.create, _triton.has_triton)
    # A few places ask torch.cuda itself.
    properties = mock.patch.object(torch.cuda, "get_device_properties", lambda device=None: ABSENT)
    # The source of every kernel asks for a driver that is there.
    no_search = mock.patch.object(triton_helpers, "set_driver_to_gpu", lambda: None)
    with properties, no_search, mock.patch.object(triton.runtime.driver, "_active", Driver()):
        try:
            for name in kept:
                device_interface.register_interface_for_device(name, Absent)
            for cache in caches:
                cache.cache_clear()
            yield torch.device("cuda:0")
        finally:
            device_interface.device_interfaces.update({name: each for name, each in kept.items() if each is not None})
            for cache in caches:
                cache.cache_clear()


def source_of(sized: Sized, dtype: str, device: torch.device) -> str:
    """Returns the source that Inductor writes for a module. No tensor is made: the trace is on fake ones.

    It is what `torch.compile` writes, without lines that name files of this machine.
    """
    from torch._inductor.debug import DebugContext
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch._subclasses import FakeTensorMode
    from torch.func import functional_call
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils._pytree import tree_map_only

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    state = {**dict(sized.module.named_parameters()), **dict(sized.module.named_buffers())}
    kind = getattr(torch, dtype)
    with fake:
        given = [torch.empty(shape, dtype=kind) for shape in sized.shapes]
        held = [torch.empty(each.shape, dtype=each.dtype) for each in state.values()]

    def call(*tensors: torch.Tensor) -> tuple[torch.Tensor]:
        weights = dict(zip(state, tensors[len(given) :]))
        return (functional_call(sized.module, weights, tensors[: len(given)]),)

    # Traced on fake tensors of the CPU and moved: builds without CUDA cannot make views of fake tensors on a GPU.
    with torch.no_grad(), fake:
        traced = make_fx(call, decomposition_table=select_decomp_table())(*given, *held)
        for node in traced.graph.nodes:
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": device}
            node.meta = tree_map_only(torch.Tensor, lambda each: _moved(each, device), node.meta)
        inputs = [_moved(each, device) for each in (*given, *held)]
    graph = GraphLowering(traced, example_inputs=inputs)
    with V.set_graph_handler(graph), V.set_fake_mode(fake), V.set_debug_handler(DebugContext()):
        graph.run(*inputs)
        code, _ = graph.codegen()
    lines = [line for line in code.value.splitlines() if not line.startswith("# kernel path:")]
    return "\n".join(lines).strip() + "\n"


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns a fake tensor like a fake one, on another device."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def compile_kernels(text: str) -> tuple[str, str]:
    """Compiles every kernel of a source to machine code, running none; returns the outcome and a message.

    All block sizes that Inductor would try are compiled. A source without kernels is "ok": it only calls libraries.
    """
    from torch._inductor.codecache import PyCodeCache

    for name, source in _KERNEL.findall(text):
        try:
            getattr(PyCodeCache.load(source), name).precompile(warm_cache_only=True)
        except Exception as error:  # of the compiler, of any kind
            return "compile_error", f"{name}: {type(error).__name__}: {error}"
    return "ok", ""


__all__ = ["ABSENT_HARDWARE", "compile_kernels", "source_of", "target"]
