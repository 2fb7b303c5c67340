"""Families with attention, and those that mix patches or tokens by other means.

Each function adds a network to a graph and returns its skeleton, as in `convolutional`.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from code_rlm_data.networks.builder import GraphBuilder, Tensor
from code_rlm_data.networks.convolutional import classes, image

_KINDS = ("gelu", "gelu", "gelu", "relu", "silu", "hswish")


def _feed_forward(graph: GraphBuilder, x: Tensor, kind: str, ratio: float) -> Tensor:
    width = x.shape[-1]
    return graph.linear(graph.activate(graph.linear(x, round(width * ratio / 8) * 8), kind), width)


def _layer(
    graph: GraphBuilder,
    x: Tensor,
    heads: int,
    kind: str,
    *,
    first: bool,
    fused: bool,
    causal: bool = False,
    ratio: float = 4,
) -> Tensor:
    """Adds a layer of attention and two linear layers; `first`: norms stand before them, else behind the sums."""
    if first:
        x = graph.add(x, graph.attention(graph.layer_norm(x), heads, causal=causal, fused=fused))
        return graph.add(x, _feed_forward(graph, graph.layer_norm(x), kind, ratio))
    x = graph.layer_norm(graph.add(x, graph.attention(x, heads, causal=causal, fused=fused)))
    return graph.layer_norm(graph.add(x, _feed_forward(graph, x, kind, ratio)))


def _heads(graph: GraphBuilder, least: int = 64, most: int = 1024) -> tuple[int, int]:
    """Draws a width and how many heads share it."""
    size = graph.dice.pick(16, 32, 32, 64, 64)
    width = graph.dice.size(max(least, size), most, size)
    return width, width // size


def _tokens(graph: GraphBuilder, width: int, least: int = 8, most: int = 1024) -> Tensor:
    """Adds token ids as input, and their embeddings with those of their positions."""
    dice = graph.dice
    length = dice.pick(dice.size(least, most, 8), *[each for each in (128, 128, 256) if each <= most])
    ids = graph.input((dice.pick(1, 1, 1, 1, 1, 2, 4, 8), length), TensorProto.INT64)
    x = graph.gather(graph.weight(dice.size(1000, 16000), width, deviation=0.02), ids)
    return graph.add(x, graph.weight(1, length, width, deviation=0.02))


def bert(graph: GraphBuilder) -> str:
    dice = graph.dice
    width, heads = _heads(graph)
    kind = dice.pick(*_KINDS)
    depth = dice.between(1, 12)
    ratio = dice.pick(2, 4, 4, 4)
    first = dice.chance(0.2)
    x = graph.layer_norm(_tokens(graph, width))
    for _ in range(depth):
        x = _layer(graph, x, heads, kind, first=first, fused=False, ratio=ratio)
    head = dice.pick("pooler", "tokens", "mean")
    if head == "tokens":
        graph.output(graph.linear(x, dice.between(2, 32)))
    elif head == "mean":
        graph.output(graph.mean(x, [1]))
    else:
        y = graph.reshape(graph.slice(x, 1, 0, 1), (x.shape[0], width))
        graph.output(graph.linear(graph.activate(graph.linear(y, width), "tanh"), dice.between(2, 8)))
    return f"{depth} {head}{' pre' * first}"


def gpt(graph: GraphBuilder) -> str:
    dice = graph.dice
    width, heads = _heads(graph)
    kind = dice.pick(*_KINDS)
    depth = dice.between(1, 12)
    fused = dice.chance(0.7)
    x = _tokens(graph, width)
    for _ in range(depth):
        x = _layer(graph, x, heads, kind, first=True, fused=fused, causal=True)
    graph.output(graph.linear(graph.layer_norm(x), dice.size(256, 16000), bias=False))
    return f"{depth}{' fused' * fused}"


def _rotated(graph: GraphBuilder, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates pairs of the last axis of `(batch, heads, length, size)` by the position."""
    half = x.shape[-1] // 2
    negative = graph.node("Neg", [graph.slice(x, 3, half, 2 * half)], (*x.shape[:3], half))
    turned = graph.concat([negative, graph.slice(x, 3, 0, half)], axis=3)
    return graph.add(graph.mul(x, tables[0]), graph.mul(turned, tables[1]))


def llama(graph: GraphBuilder) -> str:
    """RMS norms, rotary positions, grouped queries, a gated feed-forward."""
    dice = graph.dice
    width, heads = _heads(graph)
    shared = dice.pick(1, 1, 2, 4) if heads % 4 == 0 else 1
    depth = dice.between(1, 12)
    length = dice.size(8, 1024, 8)
    size = width // heads
    ids = graph.input((dice.pick(1, 1, 1, 2), length), TensorProto.INT64)
    x = graph.gather(graph.weight(dice.size(1000, 16000), width, deviation=0.02), ids)
    batch = x.shape[0]
    angles = np.arange(length)[:, None] / 1e4 ** (np.arange(size) % (size // 2) / (size // 2))
    tables = (graph.constant(np.cos(angles)[None, None]), graph.constant(np.sin(angles)[None, None]))
    mask = graph.constant(np.triu(np.full((length, length), -1e4), 1)[None, None])
    inner = round(width * 8 / 3 / 16) * 16
    for _ in range(depth):
        y = graph.rms_norm(x)
        query = _rotated(graph, _headed(graph, graph.linear(y, width, bias=False), heads), tables)
        key = _rotated(graph, _headed(graph, graph.linear(y, width // shared, bias=False), heads // shared), tables)
        value = _headed(graph, graph.linear(y, width // shared, bias=False), heads // shared)
        if shared > 1:
            key, value = (_repeated(graph, each, shared) for each in (key, value))
        scores = graph.mul(graph.matmul(query, graph.transpose(key, (0, 1, 3, 2))), graph.constant(size**-0.5))
        mixed = graph.matmul(graph.softmax(graph.add(scores, mask)), value)
        mixed = graph.reshape(graph.transpose(mixed, (0, 2, 1, 3)), (batch, length, width))
        x = graph.add(x, graph.linear(mixed, width, bias=False))
        y = graph.rms_norm(x)
        gate = graph.activate(graph.linear(y, inner, bias=False), "silu")
        x = graph.add(x, graph.linear(graph.mul(gate, graph.linear(y, inner, bias=False)), width, bias=False))
    graph.output(graph.linear(graph.rms_norm(x), dice.size(256, 16000), bias=False))
    return f"{depth} shared{shared}"


def _headed(graph: GraphBuilder, x: Tensor, heads: int) -> Tensor:
    batch, length, width = x.shape
    return graph.transpose(graph.reshape(x, (batch, length, heads, width // heads)), (0, 2, 1, 3))


def _repeated(graph: GraphBuilder, x: Tensor, times: int) -> Tensor:
    """Repeats each head for the queries that share it."""
    batch, heads, length, size = x.shape
    y = graph.reshape(x, (batch, heads, 1, length, size))
    y = graph.node("Expand", [y, graph.constant((batch, heads, times, length, size), np.int64)],
                   (batch, heads, times, length, size))  # fmt: skip
    return graph.reshape(y, (batch, heads * times, length, size))


def translator(graph: GraphBuilder) -> str:
    """An encoder, and a decoder that attends to it."""
    dice = graph.dice
    width, heads = _heads(graph, 64, 768)
    kind = dice.pick("relu", "relu", "gelu")
    depths = (dice.between(1, 6), dice.between(1, 6))
    x = _tokens(graph, width, 8, 512)
    for _ in range(depths[0]):
        x = _layer(graph, x, heads, kind, first=False, fused=False)
    length = dice.size(8, 256, 4)
    ids = graph.input((x.shape[0], length), TensorProto.INT64)
    y = graph.gather(graph.weight(dice.size(1000, 16000), width, deviation=0.02), ids)
    for _ in range(depths[1]):
        y = graph.layer_norm(graph.add(y, graph.attention(y, heads, causal=True)))
        y = graph.layer_norm(graph.add(y, graph.attention(y, heads, memory=x)))
        y = graph.layer_norm(graph.add(y, _feed_forward(graph, y, kind, 4)))
    graph.output(graph.linear(y, dice.size(256, 16000)))
    return f"{depths[0]}-{depths[1]}"


def _patches(graph: GraphBuilder, x: Tensor, width: int, patch: int) -> Tensor:
    """Adds patches of an image as tokens `(batch, patches, width)`."""
    y = graph.conv(x, width, patch, patch, padded=False)
    flat = graph.reshape(y, (y.shape[0], width, math.prod(y.shape[2:])))
    return graph.transpose(flat, (0, 2, 1))


def vit(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph, 64)
    width, heads = _heads(graph)
    patch = dice.pick(8, 16, 16, 32)
    depth = dice.between(1, 12)
    fused = dice.chance(0.6)
    token = dice.chance(0.6)
    kind = dice.pick(*_KINDS)
    y = _patches(graph, x, width, patch)
    if token:
        shape = (x.shape[0], 1, width)
        first = graph.node(
            "Expand", [graph.weight(1, 1, width, deviation=0.02), graph.constant(shape, np.int64)], shape
        )
        y = graph.concat([first, y])
    y = graph.add(y, graph.weight(1, y.shape[1], width, deviation=0.02))
    for _ in range(depth):
        y = _layer(graph, y, heads, kind, first=True, fused=fused)
    y = graph.layer_norm(y)
    pooled = graph.reshape(graph.slice(y, 1, 0, 1), (x.shape[0], width)) if token else graph.mean(y, [1])
    graph.output(graph.linear(pooled, classes(graph)))
    return f"{depth}{' fused' * fused}{' token' * token}"


def swin(graph: GraphBuilder) -> str:
    """Attention in windows, every second time shifted; patches are merged between stages."""
    dice = graph.dice
    window = dice.pick(4, 7, 7, 8)
    stages = dice.between(2, 4)
    side = window * (1 << (stages - 1)) * dice.between(1, 2) * 4
    size = dice.pick(16, 32, 32)
    width = dice.size(size, 128, size)
    depths = [dice.pick(1, 2, 2, 4) for _ in range(stages)]
    image_input = graph.input((dice.pick(1, 1, 1, 2, 4), 3, side, side))
    x = graph.transpose(graph.conv(image_input, width, 4, 4, padded=False), (0, 2, 3, 1))
    for stage, depth in enumerate(depths):
        if stage:
            parts = [
                graph.slice(graph.slice(x, 1, a, x.shape[1], 2), 2, b, x.shape[2], 2) for b in (0, 1) for a in (0, 1)
            ]
            x = graph.linear(graph.layer_norm(graph.concat(parts, axis=3)), 2 * x.shape[3], bias=False)
        for block in range(depth):
            y = _windows(graph, graph.layer_norm(x), window, x.shape[3] // size, window // 2 if block % 2 else 0)
            x = graph.add(x, y)
            x = graph.add(x, _feed_forward(graph, graph.layer_norm(x), "gelu", 4))
    pooled = graph.mean(graph.layer_norm(x), [1, 2])
    graph.output(graph.linear(pooled, classes(graph)))
    return f"w{window} {'-'.join(map(str, depths))}"


def _rolled(graph: GraphBuilder, x: Tensor, shift: int) -> Tensor:
    for axis in (1, 2):
        start = shift % x.shape[axis]
        x = graph.concat([graph.slice(x, axis, start, x.shape[axis]), graph.slice(x, axis, 0, start)], axis=axis)
    return x


def _windows(graph: GraphBuilder, x: Tensor, window: int, heads: int, shift: int) -> Tensor:
    batch, height, breadth, width = x.shape
    shift = 0 if height <= window else shift
    x = _rolled(graph, x, shift) if shift else x
    grid = (batch, height // window, window, breadth // window, window, width)
    count = batch * grid[1] * grid[3]
    y = graph.reshape(graph.transpose(graph.reshape(x, grid), (0, 1, 3, 2, 4, 5)), (count, window**2, width))
    y = graph.attention(y, heads, fused=True)
    y = graph.reshape(y, (batch, grid[1], grid[3], window, window, width))
    y = graph.reshape(graph.transpose(y, (0, 1, 3, 2, 4, 5)), x.shape)
    return _rolled(graph, y, -shift) if shift else y


def mixer(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph, 64)
    width = dice.size(32, 768, 8)
    depth = dice.between(1, 12)
    kind = dice.pick(*_KINDS)
    y = _patches(graph, x, width, dice.pick(8, 16, 16, 32))
    for _ in range(depth):
        z = graph.transpose(graph.layer_norm(y), (0, 2, 1))
        z = graph.linear(graph.activate(graph.linear(z, max(width // 2, 8)), kind), y.shape[1])
        y = graph.add(y, graph.transpose(z, (0, 2, 1)))
        y = graph.add(y, _feed_forward(graph, graph.layer_norm(y), kind, 4))
    graph.output(graph.linear(graph.mean(graph.layer_norm(y), [1]), classes(graph)))
    return str(depth)


def pool_former(graph: GraphBuilder) -> str:
    """Blocks of a pool or a depthwise convolution and two convolutions of one pixel."""
    dice = graph.dice
    x = image(graph, 64)
    kind = dice.pick(*_KINDS)
    width = dice.size(16, 128, 8)
    mixing = dice.pick("pool", "depthwise")
    depths = [dice.between(1, 4) for _ in range(dice.between(2, 4))]
    x = graph.conv(x, width, 7, 4)
    for stage, depth in enumerate(depths):
        x = graph.conv(x, width << stage, 3, 2) if stage else x
        for _ in range(depth):
            y = graph.norm(x)
            y = (
                graph.pool(y, 3, 1, mean=True, padded=True)
                if mixing == "pool"
                else graph.conv(y, y.width, 5, groups=y.width)
            )
            x = graph.add(x, y)
            y = graph.conv(graph.activate(graph.conv(graph.norm(x), 4 * x.width), kind), x.width)
            x = graph.add(x, graph.mul(y, graph.weight(x.width, 1, 1, deviation=0.1)))
    graph.output(graph.classifier(x, classes(graph)))
    return f"{mixing} {'-'.join(map(str, depths))}"


def hybrid(graph: GraphBuilder) -> str:
    """Inverted residual blocks first, attention over the pixels that remain after them."""
    dice = graph.dice
    x = image(graph, 64)
    kind = dice.pick("silu", "hswish", "gelu")
    size = dice.pick(16, 32)
    width = dice.size(size, 128, size)
    x = graph.unit(x, width, 3, 2, activation=kind)
    depths = [dice.between(1, 3) for _ in range(3)]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            y = graph.depthwise(graph.unit(x, 4 * x.width, activation=kind), 3, 1 if block else 2, kind)
            y = graph.unit(y, width << stage, activation="")
            x = graph.add(x, y) if block else y
    layers = dice.between(1, 4)
    batch, channels, height, breadth = x.shape
    y = graph.transpose(graph.reshape(x, (batch, channels, height * breadth)), (0, 2, 1))
    for _ in range(layers):
        y = _layer(graph, y, channels // size, kind, first=True, fused=dice.chance(0.5), ratio=2)
    x = graph.reshape(graph.transpose(y, (0, 2, 1)), x.shape)
    graph.output(graph.classifier(graph.unit(x, channels * 2, activation=kind), classes(graph)))
    return f"{'-'.join(map(str, depths))} {layers}"


def conformer(graph: GraphBuilder) -> str:
    """Attention and depthwise convolutions over a spectrogram."""
    dice = graph.dice
    width, heads = _heads(graph, 64, 512)
    length = dice.size(64, 1024, 8)
    depth = dice.between(1, 8)
    kernel = dice.pick(7, 15, 31)
    x = graph.linear(graph.input((dice.pick(1, 1, 1, 4), length, dice.pick(40, 80, 80))), width)
    half = graph.constant(0.5)
    for _ in range(depth):
        x = graph.add(x, graph.mul(_feed_forward(graph, graph.layer_norm(x), "silu", 4), half))
        x = graph.add(x, graph.attention(graph.layer_norm(x), heads))
        y = graph.transpose(graph.layer_norm(x), (0, 2, 1))
        left, right = graph.split(graph.conv(y, 2 * width, 1), 2)
        y = graph.depthwise(graph.mul(left, graph.activate(right, "sigmoid")), kernel, 1, "silu")
        x = graph.add(x, graph.transpose(graph.conv(y, width, 1), (0, 2, 1)))
        x = graph.layer_norm(graph.add(x, graph.mul(_feed_forward(graph, graph.layer_norm(x), "silu", 4), half)))
    graph.output(graph.linear(x, dice.size(28, 1024)))
    return f"{depth} k{kernel}"


FAMILIES = (bert, gpt, llama, translator, vit, swin, mixer, pool_former, hybrid, conformer)
