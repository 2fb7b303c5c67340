"""Families of recurrent networks, convolutions over signals and videos, points, tables and graphs.

Each function adds a network to a graph and returns its skeleton, as in `convolutional`.
"""

from __future__ import annotations

import math

from onnx import TensorProto

from code_rlm_data.networks.builder import GraphBuilder, Tensor
from code_rlm_data.networks.convolutional import activation, classes


def recurrent(graph: GraphBuilder) -> str:
    """Layers of LSTM, GRU or RNN nodes over tokens or numbers."""
    dice = graph.dice
    kind = dice.pick("LSTM", "LSTM", "GRU", "GRU", "RNN")
    depth = dice.between(1, 4)
    both_ways = dice.chance(0.4)
    hidden = dice.size(16, 768, 8)
    length = dice.size(8, 512)
    batch = dice.pick(1, 1, 1, 1, 4, 16)
    words = dice.chance(0.4)
    if words:
        table = graph.weight(dice.size(500, 16000), dice.size(16, 512, 8), deviation=0.1)
        x = graph.gather(table, graph.input((length, batch), TensorProto.INT64))
    else:
        x = graph.input((length, batch, dice.size(4, 512)))
    for _ in range(depth):
        x = graph.recurrent(x, kind, hidden, both_ways=both_ways)
    last = dice.chance(0.6)
    y = graph.reshape(graph.slice(x, 0, length - 1, length), (batch, x.shape[2])) if last else x
    graph.output(graph.linear(y, dice.size(2, 1000)))
    return f"{kind.lower()}{depth}{' both' * both_ways}{' words' * words}{' last' * last}"


def text_lines(graph: GraphBuilder) -> str:
    """A convolutional network whose columns a recurrent one reads, as for lines of text."""
    dice = graph.dice
    kind = dice.pick("relu", "hswish", "silu")
    x = graph.input((dice.pick(1, 1, 1, 4), dice.pick(1, 3), 32, dice.size(64, 512, 8)))
    width = dice.size(16, 96, 8)
    depth = dice.between(3, 5)
    for level in range(depth):
        x = graph.unit(x, min(width << level, 512), 3, activation=kind)
        x = graph.pool(x, 2) if level < 2 else graph.unit(x, x.width, (3, 1), (2, 1), activation=kind)
    y = graph.transpose(graph.mean(x, [2]), (2, 0, 1))
    layers = dice.between(1, 2)
    cell = dice.pick("LSTM", "LSTM", "GRU")
    for _ in range(layers):
        y = graph.recurrent(y, cell, dice.size(32, 256, 8), both_ways=True)
    graph.output(graph.linear(y, dice.size(11, 6000)))
    return f"{depth} {cell.lower()}{layers}"


def wave(graph: GraphBuilder) -> str:
    """Strided one-dimensional convolutions over a waveform."""
    dice = graph.dice
    kind = activation(graph)
    x = graph.input((dice.pick(1, 1, 1, 4, 16), 1, dice.size(1000, 64000, 100)))
    width = dice.size(8, 96, 8)
    depth = dice.between(2, 6)
    x = graph.unit(x, width, dice.pick(9, 16, 80), dice.pick(4, 8), activation=kind)
    blocks = dice.between(1, 2)
    for _ in range(depth):
        for _ in range(blocks):
            x = graph.unit(x, width, dice.pick(3, 5), activation=kind)
        x = graph.pool(x, 4 if x.shape[2] > 64 else 2) if x.shape[2] > 4 else x
        width = min(width * 2, 512)
    graph.output(graph.classifier(x, dice.between(2, 50)))
    return f"{depth} {blocks}"


def dilated_wave(graph: GraphBuilder) -> str:
    """Gated dilated convolutions whose results are added up, or residual ones, over a signal."""
    dice = graph.dice
    gated = dice.chance(0.5)
    width = dice.size(8, 128, 8)
    length = dice.size(100, 16000, 10)
    cycles = dice.between(1, 3)
    depth = dice.between(3, 8)
    x = graph.conv(graph.input((dice.pick(1, 1, 1, 4), dice.pick(1, 6, 40, 80), length)), width, 1)
    total: Tensor | None = None
    for _ in range(cycles):
        for level in range(depth):
            y = graph.conv(x, width * (2 if gated else 1), 3, dilation=1 << min(level, 6))
            if gated:
                left, right = graph.split(y, 2)
                y = graph.mul(graph.activate(left, "tanh"), graph.activate(right, "sigmoid"))
                skip = graph.conv(y, width, 1)
                total = skip if total is None else graph.add(total, skip)
                y = graph.conv(y, width, 1)
            else:
                y = graph.activate(graph.conv(graph.activate(y, "relu"), width, 1), "relu")
            x = graph.add(x, y)
    y = graph.activate(x if total is None else total, "relu")
    graph.output(graph.conv(y, dice.pick(1, 10, 256), 1))
    return f"{cycles} {depth}{' gated' * gated}"


def separable_signal(graph: GraphBuilder) -> str:
    """Depthwise and pointwise one-dimensional convolutions over a spectrogram, with residual blocks."""
    dice = graph.dice
    kind = dice.pick("relu", "silu", "hswish")
    width = dice.size(32, 512, 8)
    depth = dice.between(2, 12)
    kernel = dice.pick(5, 11, 25, 33)
    x = graph.unit(graph.input((dice.pick(1, 1, 1, 4), dice.pick(40, 64, 80), dice.size(64, 2000, 4))), width, 11, 2)
    for _ in range(depth):
        y = graph.unit(graph.depthwise(x, kernel, 1, ""), width, activation=kind)
        y = graph.unit(graph.depthwise(y, kernel, 1, ""), width, activation="")
        x = graph.activate(graph.add(x, y), kind)
    graph.output(graph.conv(x, dice.size(10, 256), 1))
    return f"{depth} k{kernel}"


def keywords(graph: GraphBuilder) -> str:
    """Small networks over a spectrogram as an image, as those of voice commands."""
    dice = graph.dice
    kind = dice.pick("relu", "relu6", "hswish")
    x = graph.input((dice.pick(1, 1, 1, 8), 1, dice.pick(49, 98, 101), dice.pick(10, 40, 64)))
    width = dice.size(8, 192, 8)
    depth = dice.between(1, 6)
    separable = dice.chance(0.6)
    x = graph.unit(x, width, (10, 4), 2, activation=kind)
    for _ in range(depth):
        x = graph.depthwise(x, 3, 1, kind) if separable else x
        x = graph.unit(x, width, 1 if separable else 3, activation=kind)
    y = graph.classifier(x, dice.between(2, 35))
    graph.output(graph.softmax(y))
    return f"{depth}{' separable' * separable}"


def points(graph: GraphBuilder) -> str:
    """A network over points: the same layers for each, then a maximum over all."""
    dice = graph.dice
    kind = dice.pick("relu", "lrelu")
    count = dice.size(128, 4096, 16)
    x = graph.input((dice.pick(1, 1, 1, 8), dice.pick(3, 6), count))
    widths = [dice.size(16, 1024, 16) for _ in range(dice.between(2, 5))]
    for width in sorted(widths):
        x = graph.unit(x, width, activation=kind)
    y = graph.mean(x, [2], op="ReduceMax")
    per_point = dice.chance(0.4)
    if per_point:
        shape = (x.shape[0], y.shape[1], count)
        wide = graph.node("Expand", [graph.reshape(y, (*y.shape, 1)), graph.constant(shape, "int64")], shape)
        graph.output(graph.conv(graph.unit(graph.concat([x, wide]), 128, activation=kind), dice.between(2, 50)))
    else:
        y = graph.activate(graph.linear(y, dice.size(64, 512, 8)), kind)
        graph.output(graph.linear(y, dice.between(2, 40)))
    return f"{len(widths)}{' each' * per_point}"


def video(graph: GraphBuilder) -> str:
    """Three-dimensional convolutions, whole or split into space and time."""
    dice = graph.dice
    side = dice.pick(32, 56, 64, 112)
    x = graph.input((1, 3, dice.pick(4, 8, 16), side, side))
    width = dice.size(4, 48, 4)
    split = dice.chance(0.5)
    depths = [dice.between(1, 2) for _ in range(dice.between(2, 4))]
    x = graph.unit(x, width, (3, 7, 7), (1, 2, 2))
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage and not block and min(x.shape[2:]) > 1 else 1
            size = width << stage
            if split:
                x = graph.unit(graph.unit(x, size, (1, 3, 3), (1, stride, stride)), size, (3, 1, 1), (stride, 1, 1))
            else:
                x = graph.unit(x, size, 3, stride)
    graph.output(graph.classifier(x, dice.pick(10, 101, 400)))
    return f"{'-'.join(map(str, depths))}{' split' * split}"


def layers_of_numbers(graph: GraphBuilder) -> str:
    """A multi-layer perceptron, plain or with residual blocks, over a table's rows."""
    dice = graph.dice
    kind = activation(graph)
    x = graph.input((dice.pick(1, 1, 1, 4, 16, 64, 256), dice.size(4, 4096)))
    depth = dice.between(1, 8)
    residual = dice.chance(0.3)
    normed = dice.pick("", "", "batch", "layer")
    width = dice.size(16, 4096, 8)
    kind = "relu" if kind == "prelu" else kind
    for _ in range(depth):
        y = graph.linear(x, width)
        y = graph.norm(y) if normed == "batch" else graph.layer_norm(y) if normed == "layer" else y
        y = graph.activate(y, kind)
        x = graph.add(x, y) if residual and x.shape == y.shape else y
        width = width if residual else max(width // dice.pick(1, 1, 2), 8)
    graph.output(graph.activate(graph.linear(x, dice.size(1, 1000)), dice.pick("", "sigmoid")))
    return f"{depth}{' residual' * residual} {normed}".strip()


def recommender(graph: GraphBuilder) -> str:
    """Embeddings of categories, their products with each other, and a perceptron."""
    dice = graph.dice
    batch = dice.pick(1, 16, 64, 256, 1024)
    width = dice.size(4, 128, 4)
    tables = dice.between(2, 26)
    parts = []
    for _ in range(tables):
        ids = graph.input((batch,), TensorProto.INT64)
        parts.append(graph.gather(graph.weight(dice.size(10, 20000), width, deviation=0.1), ids))
    x = graph.input((batch, dice.between(4, 64)))
    for size in (dice.size(32, 512, 8), width):
        x = graph.activate(graph.linear(x, size), "relu")
    crossed = dice.chance(0.6)
    if crossed:
        stacked = graph.reshape(graph.concat([x, *parts], axis=1), (batch, tables + 1, width))
        products = graph.matmul(stacked, graph.transpose(stacked, (0, 2, 1)))
        y = graph.concat([x, graph.reshape(products, (batch, (tables + 1) ** 2))], axis=1)
    else:
        y = graph.concat([x, *parts], axis=1)
    depth = dice.between(1, 4)
    for _ in range(depth):
        y = graph.activate(graph.linear(y, dice.size(16, 1024, 8)), "relu")
    graph.output(graph.activate(graph.linear(y, 1), "sigmoid"))
    return f"{tables} {depth}{' crossed' * crossed}"


def graph_convolution(graph: GraphBuilder) -> str:
    """Layers that mix the features of neighbours by a matrix of edges."""
    dice = graph.dice
    nodes = dice.size(16, 2048, 4)
    x = graph.input((1, nodes, dice.size(8, 512)))
    edges = graph.input((1, nodes, nodes))
    depth = dice.between(1, 6)
    attentive = dice.chance(0.3)
    for _ in range(depth):
        y = graph.linear(x, dice.size(8, 256, 8), bias=False)
        if attentive:
            scores = graph.matmul(y, graph.transpose(y, (0, 2, 1)))
            scale = graph.constant(1 / math.sqrt(y.shape[2]))
            y = graph.matmul(graph.softmax(graph.add(graph.mul(scores, scale), edges)), y)
        else:
            y = graph.matmul(edges, y)
        x = graph.activate(y, "relu")
    pooled = dice.chance(0.5)
    graph.output(graph.linear(graph.mean(x, [1]) if pooled else x, classes(graph)))
    return f"{depth}{' attentive' * attentive}{' pooled' * pooled}"


FAMILIES = (
    recurrent, text_lines, wave, dilated_wave, separable_signal, keywords, points, video, layers_of_numbers, recommender,
    graph_convolution,
)  # fmt: skip
