"""Random small PyTorch modules: a chain of layers and functions, drawn from a seed, and sizes for it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from code_rlm.errors_rlm import RLMError

MOST_ELEMENTS = 1 << 24  # of an input or any value between two layers
_DTYPES = ("float32", "float32", "float16", "bfloat16")


class InductorError(RLMError):
    """Triton is missing, or no module could be made."""


class _Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class _Scale(nn.Module):
    """A learned factor and offset for each entry of the second axis."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape[1], *[1] * (len(shape) - 2)))
        self.bias = nn.Parameter(torch.zeros_like(self.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + self.bias


class Chain(nn.Module):
    """Layers one after the other; where a layer is a residual one and keeps the shape, its input is added to its result.

    Attributes:
        layers: (layer, residual) in order.
        second: How a second input of the first one's shape is joined to the first: "add", "mul", "loss" (after the layers),
            or "" for none.
    """

    def __init__(self, layers: list[tuple[nn.Module, bool]], second: str):
        super().__init__()
        self.layers = nn.ModuleList(layer for layer, _ in layers)
        self.residual = [residual for _, residual in layers]
        self.second = second

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        if self.second == "add":
            x = x + other
        elif self.second == "mul":
            x = x * other
        for layer, residual in zip(self.layers, self.residual):
            y = layer(x)
            x = x + y if residual and x.shape == y.shape else y
        if self.second == "loss":
            same = x.shape == other.shape
            x = F.smooth_l1_loss(x, other) if same else (x.float().mean() - other.float().mean()) ** 2
        return x


def _wide(rng: random.Random) -> int:
    return rng.choice((16, 32, 48, 64, 100, 128, 192, 256, 384, 512, 768, 1000, 1024))


# Name to a function of shape and sizes' random numbers. Rows are (batch, width), images (batch, channels, height, width).
_ANYWHERE: dict[str, Callable[[tuple[int, ...], random.Random], nn.Module]] = {
    "relu": lambda shape, rng: nn.ReLU(),
    "gelu": lambda shape, rng: nn.GELU(),
    "gelu_tanh": lambda shape, rng: nn.GELU(approximate="tanh"),
    "silu": lambda shape, rng: nn.SiLU(),
    "sigmoid": lambda shape, rng: nn.Sigmoid(),
    "tanh": lambda shape, rng: nn.Tanh(),
    "softplus": lambda shape, rng: nn.Softplus(),
    "mish": lambda shape, rng: nn.Mish(),
    "hardswish": lambda shape, rng: nn.Hardswish(),
    "elu": lambda shape, rng: nn.ELU(),
    "clamp": lambda shape, rng: _Apply(lambda x: x.clamp(-1, 6)),
    "square": lambda shape, rng: _Apply(lambda x: x * x),
    "sine": lambda shape, rng: _Apply(torch.sin),
    "log1p": lambda shape, rng: _Apply(lambda x: x.abs().log1p()),
    "softmax": lambda shape, rng: nn.Softmax(dim=-1),
    "log_softmax": lambda shape, rng: nn.LogSoftmax(dim=1),
    "layer_norm": lambda shape, rng: nn.LayerNorm(shape[-1]),
    "rms_norm": lambda shape, rng: nn.RMSNorm(shape[-1]),
    "centre": lambda shape, rng: _Apply(lambda x: x - x.mean(-1, keepdim=True)),
    "normalize": lambda shape, rng: _Apply(lambda x: F.normalize(x, dim=-1)),
    "peak": lambda shape, rng: _Apply(lambda x: x / (x.abs().amax(1, keepdim=True) + 1e-6)),
    "scale": lambda shape, rng: _Scale(shape),
    "cumsum": lambda shape, rng: _Apply(lambda x: x.cumsum(-1)),
    "flip": lambda shape, rng: _Apply(lambda x: x.flip(-1)),
    "roll": lambda shape, rng: _Apply(lambda x: x.roll(1, -1)),
    "linear": lambda shape, rng: nn.Linear(shape[-1], _wide(rng)),
    "transpose": lambda shape, rng: _Apply(lambda x: x.transpose(-1, -2).contiguous()),
}
_ROWS = {
    **_ANYWHERE,
    "batch_norm": lambda shape, rng: nn.BatchNorm1d(shape[1]),
    "outer": lambda shape, rng: _Apply(lambda x: x @ x.transpose(-1, -2)),
}
_IMAGES = {
    **_ANYWHERE,
    "conv3": lambda shape, rng: nn.Conv2d(shape[1], rng.choice((8, 16, 32, 64)), 3, padding=1),
    "conv1": lambda shape, rng: nn.Conv2d(shape[1], rng.choice((8, 16, 32, 64)), 1),
    "depthwise": lambda shape, rng: nn.Conv2d(shape[1], shape[1], 3, padding=1, groups=shape[1]),
    "batch_norm": lambda shape, rng: nn.BatchNorm2d(shape[1]),
    "instance_norm": lambda shape, rng: nn.InstanceNorm2d(shape[1], affine=True),
    "group_norm": lambda shape, rng: nn.GroupNorm(math.gcd(shape[1], 4), shape[1]),
    "max_pool": lambda shape, rng: nn.MaxPool2d(3, 2, 1),
    "avg_pool": lambda shape, rng: nn.AvgPool2d(3, 1, 1),
    "upsample": lambda shape, rng: nn.Upsample(scale_factor=2, mode="nearest"),
    "reflect": lambda shape, rng: nn.ReflectionPad2d(1),
    "gate": lambda shape, rng: _Apply(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()),
    "twice": lambda shape, rng: _Apply(lambda x: torch.cat([x, -x], 1)),
}
KINDS = {"rows": _ROWS, "images": _IMAGES}
# The last layer of half of the modules.
_ENDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda x: x.sum(-1),
    "mean": lambda x: x.mean(1),
    "max": lambda x: x.amax(-1),
    "std": lambda x: x.float().std(-1),
    "logsumexp": lambda x: x.float().logsumexp(1),
    "argmax": lambda x: x.argmax(-1),
    "norm": lambda x: x.float().norm(),
}


@dataclass(frozen=True)
class Spec:
    """A module without its sizes.

    Attributes:
        kind: "rows" or "images".
        steps: Names of layers, each with whether it is a residual one.
        end: Name of the reduction at the end, or "".
        second: See `Chain`.
        dtype: Of inputs and weights.
    """

    kind: str
    steps: tuple[tuple[str, bool], ...]
    end: str
    second: str
    dtype: str

    @property
    def group(self) -> str:
        """The module in words."""
        parts = [f"{name}+" if residual else name for name, residual in self.steps]
        return "-".join(part for part in (self.kind, self.dtype, self.second, *parts, self.end) if part)


@dataclass
class Sized:
    """A module with its sizes: what is compiled.

    Attributes:
        module: In evaluation mode; its weights have shapes and no memory.
        shapes: Of its inputs.
    """

    module: Chain
    shapes: list[tuple[int, ...]]


def draw(seed: int, number: int) -> Spec:
    """Draws module `number` of a seed, without its sizes."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choice(list(KINDS))
    steps = tuple((rng.choice(list(KINDS[kind])), rng.random() < 0.25) for _ in range(rng.randint(1, 7)))
    end = rng.choice(list(_ENDS)) if rng.random() < 0.5 else ""
    return Spec(kind, steps, end, rng.choice(("", "", "add", "mul", "loss")), rng.choice(_DTYPES))


def size(spec: Spec, seed: int, variant: int) -> Sized:
    """Gives a module sizes: of its input, and of layers that choose a width. The seed and the variant decide.

    Sizes at which a value has more than `MOST_ELEMENTS` elements, or that a layer refuses, are drawn again.

    Raises:
        InductorError: No sizes fit.
    """
    rng = random.Random(f"{seed} {spec.group} {variant}")
    for _ in range(100):
        batch = 2 ** rng.randint(0, 6)
        if spec.kind == "rows":
            shape = (rng.choice((1, 8, 32, 100, 256, 1024, 4096)) * batch, _wide(rng))
        else:
            side = rng.choice((8, 14, 16, 28, 32, 56, 64, 112, 128))
            shape = (batch, rng.choice((3, 4, 8, 16, 32, 64)), side, side)
        layers = []
        value = torch.empty(shape, device="meta", dtype=getattr(torch, spec.dtype))
        try:
            for name, residual in spec.steps:
                with torch.device("meta"):  # no weight is ever made
                    layer = KINDS[spec.kind][name](tuple(value.shape), rng).to(value.dtype).eval()
                layers.append((layer, residual))
                value = layer(value)
                if value.numel() > MOST_ELEMENTS:
                    break
            else:
                if max(math.prod(shape), value.numel()) <= MOST_ELEMENTS:
                    ends = [(_Apply(_ENDS[spec.end]), False)] if spec.end else []
                    return Sized(Chain([*layers, *ends], spec.second).eval(), [shape] * (2 if spec.second else 1))
        except (
            RuntimeError,
            ValueError,
        ):  # a layer that these sizes do not suit, such as a reflection wider than the image
            continue
    raise InductorError(f"no sizes fit the module {spec.group}")


__all__ = ["KINDS", "MOST_ELEMENTS", "Chain", "InductorError", "Sized", "Spec", "draw", "size"]
