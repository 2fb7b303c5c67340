"""Families of convolutional classifiers, from VGG to ConvNeXt, with drawn depths, widths and resolutions.

Each function adds a network to a graph and returns its skeleton: what remains of the architecture without widths and sizes.
"""

from __future__ import annotations

from code_rlm_data.networks.builder import GraphBuilder, Tensor

_RESOLUTIONS = (32, 48, 64, 96, 112, 128, 160, 192, 224, 224, 224, 240, 256, 288, 320, 384, 448, 512)
_ACTIVATIONS = (
    "relu",
    "relu",
    "relu",
    "relu6",
    "silu",
    "hswish",
    "gelu",
    "elu",
    "lrelu",
    "selu",
    "mish",
    "prelu",
    "tanh",
)


def image(graph: GraphBuilder, least: int = 32, most: int = 512, channels: int = 3) -> Tensor:
    """Adds an image as input, mostly one, sometimes a batch of 2 to 16."""
    dice = graph.dice
    size = dice.pick(*[each for each in _RESOLUTIONS if least <= each <= most])
    batch = dice.pick(1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 16)
    width = size if dice.chance(0.85) else dice.pick(size // 2, size * 3 // 4) // 32 * 32 or size
    return graph.input((batch, channels, size, width))


def activation(graph: GraphBuilder) -> str:
    """Draws an activation."""
    return graph.dice.pick(*_ACTIVATIONS)


def classes(graph: GraphBuilder) -> int:
    """Draws how many classes a classifier has."""
    return graph.dice.pick(10, 100, 1000, 1000, graph.dice.size(2, 2000))


def stem(graph: GraphBuilder, x: Tensor, width: int, kind: str) -> tuple[Tensor, str]:
    """Adds the first convolutions, which shrink a large image by four; returns the result and what they are."""
    small = min(x.shape[2:]) <= 64
    how = graph.dice.pick("plain", "deep", "patch") if not small else "small"
    if how == "small":
        return graph.unit(x, width, 3, activation=kind), how
    if how == "patch":
        return graph.unit(x, width, 4, 4, activation=kind), how
    if how == "plain":
        x = graph.unit(x, width, 7, 2, activation=kind)
    else:
        for size, stride in ((width // 2, 2), (width // 2, 1), (width, 1)):
            x = graph.unit(x, max(size, 8), 3, stride, activation=kind)
    return graph.pool(x, 3, 2, padded=True), how


def shortcut(graph: GraphBuilder, x: Tensor, width: int, stride: int) -> Tensor:
    """Returns what a residual block adds to: its input, or a projection where sizes differ."""
    return x if x.width == width and stride == 1 else graph.unit(x, width, 1, stride, activation="")


def vgg(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph)
    kind = activation(graph)
    width = dice.size(8, 80, 8)
    depths = [dice.between(1, 4) for _ in range(dice.between(2, 5))]
    for depth in depths:
        for _ in range(depth):
            x = graph.unit(x, width, dice.pick(3, 3, 3, 5) if depth == 1 else 3, activation=kind)
        x = graph.pool(x, 2, mean=dice.chance(0.1))
        width = min(width * 2, 512)
    hidden = dice.pick(0, 1, 2)
    x = graph.flatten(graph.global_pool(x) if hidden == 0 or x.shape[2] > 8 else x)
    for _ in range(hidden):
        x = graph.activate(graph.linear(x, dice.size(64, 4096, 8)), kind)
    graph.output(graph.linear(x, classes(graph)))
    return f"{'-'.join(map(str, depths))} fc{hidden}"


def _basic_block(graph: GraphBuilder, x: Tensor, width: int, stride: int, kind: str, excite: bool) -> Tensor:
    y = graph.unit(x, width, 3, stride, activation=kind)
    y = graph.unit(y, width, 3, activation="")
    y = graph.squeeze_excite(y, width // 16) if excite else y
    return graph.activate(graph.add(y, shortcut(graph, x, width, stride)), kind)


def _bottleneck(
    graph: GraphBuilder, x: Tensor, width: int, stride: int, kind: str, excite: bool, expansion: float, groups: int
) -> Tensor:
    inner = max(round(width / expansion / groups), 1) * groups
    y = graph.unit(x, inner, 1, activation=kind)
    y = graph.unit(y, inner, 3, stride, activation=kind, groups=groups)
    y = graph.squeeze_excite(y, max(x.width // 4, 4)) if excite and expansion < 2 else y
    y = graph.unit(y, width, 1, activation="")
    y = graph.squeeze_excite(y, width // 16) if excite and expansion >= 2 else y
    return graph.activate(graph.add(y, shortcut(graph, x, width, stride)), kind)


def resnet_basic(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph)
    kind = activation(graph)
    width = dice.size(8, 96, 8)
    x, first = stem(graph, x, width, kind)
    depths = [dice.between(1, 6) for _ in range(dice.between(3, 4))]
    excite = dice.chance(0.2)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            x = _basic_block(graph, x, width << stage, 2 if stage and not block else 1, kind, excite)
    graph.output(graph.classifier(x, classes(graph)))
    return f"{first} {'-'.join(map(str, depths))}{' se' * excite}"


def resnet_preactivation(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph)
    kind = activation(graph)
    width = dice.size(8, 96, 8)
    x = graph.conv(x, width, 3, 2 if x.shape[2] > 96 else 1, bias=False)
    depths = [dice.between(1, 6) for _ in range(3)]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            y = graph.activate(graph.norm(x), kind)
            same = x if stride == 1 and x.width == width << stage else graph.conv(y, width << stage, 1, stride)
            y = graph.activate(graph.norm(graph.conv(y, width << stage, 3, stride, bias=False)), kind)
            x = graph.add(graph.conv(y, width << stage, 3, bias=False), same)
    x = graph.activate(graph.norm(x), kind)
    graph.output(graph.classifier(x, classes(graph)))
    return "-".join(map(str, depths))


def resnet_bottleneck(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph)
    kind = activation(graph)
    width = dice.size(32, 320, 32)
    x, first = stem(graph, x, max(width // 4, 8), kind)
    depths = [dice.between(1, 6) for _ in range(dice.between(3, 4))]
    excite = dice.chance(0.2)
    groups = dice.pick(1, 1, 1, 4, 8, 32)
    expansion = dice.pick(4, 4, 2)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            x = _bottleneck(graph, x, width << stage, stride, kind, excite, expansion, groups)
    graph.output(graph.classifier(x, classes(graph)))
    return f"{first} {'-'.join(map(str, depths))}{' se' * excite} grp{groups}"


def regnet(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph, 64)
    kind = dice.pick("relu", "relu", "silu")
    group_width = dice.pick(8, 16, 24, 40, 64)
    x = graph.unit(x, 32, 3, 2, activation=kind)
    excite = dice.chance(0.5)
    depths = [dice.between(1, most) for most in (2, 4, 9, 2)]
    width = dice.size(group_width, 160, group_width)
    growth = dice.random.uniform(1.4, 2.5)
    for depth in depths:
        for block in range(depth):
            x = _bottleneck(graph, x, width, 1 if block else 2, kind, excite, 1, width // group_width)
        width = max(round(width * growth / group_width), 1) * group_width
    graph.output(graph.classifier(x, classes(graph)))
    return f"{'-'.join(map(str, depths))}{' se' * excite}"


def densenet(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph)
    growth = dice.size(8, 48, 4)
    x, first = stem(graph, x, 2 * growth, "relu")
    depths = [dice.between(2, 14) for _ in range(dice.between(2, 4))]
    bottleneck = dice.chance(0.7)
    for stage, depth in enumerate(depths):
        if stage:
            x = graph.conv(graph.activate(graph.norm(x), "relu"), x.width // 2, bias=False)
            x = graph.pool(x, 2, mean=True)
        for _ in range(depth):
            y = graph.activate(graph.norm(x), "relu")
            if bottleneck:
                y = graph.unit(y, 4 * growth, activation="relu")
            x = graph.concat([x, graph.conv(y, growth, 3, bias=False)])
    x = graph.activate(graph.norm(x), "relu")
    graph.output(graph.classifier(x, classes(graph)))
    return f"{first} {'-'.join(map(str, depths))}"


def inception(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph, 64)
    kind = dice.pick("relu", "relu", "silu", "elu")
    width = dice.size(8, 64, 8)
    x = graph.unit(x, width, 3, 2, activation=kind)
    x = graph.pool(graph.unit(x, 2 * width, 3, activation=kind), 3, 2, padded=True)
    kinds = []
    for stage in range(dice.between(1, 3)):
        style = dice.pick("five", "double", "factored", "wide")
        depth = dice.between(1, 4)
        kinds.append(f"{style}{depth}")
        for _ in range(depth):
            x = _inception_block(graph, x, width << stage, style, kind)
        x = graph.pool(x, 3, 2, padded=True)
    graph.output(graph.classifier(x, classes(graph)))
    return "-".join(kinds)


def _inception_block(graph: GraphBuilder, x: Tensor, width: int, style: str, kind: str) -> Tensor:
    one = graph.unit(x, width, 1, activation=kind)
    pooled = graph.unit(graph.pool(x, 3, 1, mean=True, padded=True), width, 1, activation=kind)
    y = graph.unit(x, width, 1, activation=kind)
    kernels: list[list[int | tuple[int, int]]] = {
        "five": [[3], [5]],
        "double": [[3], [3, 3]],
        "factored": [[(1, 7), (7, 1)], [(7, 1), (1, 7), (7, 1)]],
        "wide": [[(1, 3)], [(3, 1)]],
    }[style]  # type: ignore[assignment]
    branches = [one, pooled]
    for chain in kernels:
        z = y
        for kernel in chain:
            z = graph.unit(z, width, kernel, activation=kind)
        branches.append(z)
    return graph.concat(branches)


def mobilenet_v1(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph)
    kind = dice.pick("relu", "relu6", "relu6", "hswish", "lrelu")
    width = dice.size(8, 48, 8)
    x = graph.unit(x, width, 3, 2, activation=kind)
    depths = [dice.between(1, 5) for _ in range(dice.between(3, 5))]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            x = graph.depthwise(x, dice.pick(3, 3, 5), 2 if stage and not block else 1, kind)
            x = graph.unit(x, min(width << (stage + 1), 1024), activation=kind)
    graph.output(graph.classifier(x, classes(graph)))
    return "-".join(map(str, depths))


def _inverted(
    graph: GraphBuilder, x: Tensor, width: int, kernel: int, stride: int, expansion: int, kind: str, gate: str
) -> Tensor:
    y = graph.unit(x, x.width * expansion, activation=kind) if expansion > 1 else x
    y = graph.depthwise(y, kernel, stride, kind)
    if gate:
        y = graph.squeeze_excite(y, x.width // 4, kind if gate == "sigmoid" else "relu", gate)
    y = graph.unit(y, width, activation="")
    return graph.add(x, y) if stride == 1 and x.width == width else y


def _inverted_network(
    graph: GraphBuilder, kinds: tuple[str, ...], gates: tuple[str, ...], kernels: tuple[int, ...]
) -> str:
    dice = graph.dice
    x = image(graph)
    width = dice.size(8, 40, 8)
    kind = dice.pick(*kinds)
    gate = dice.pick(*gates)
    x = graph.unit(x, width, 3, 2, activation=kind)
    depths = [dice.between(1, 5) for _ in range(dice.between(4, 7))]
    growth = dice.random.uniform(1.3, 1.8)
    expansion = dice.pick(2, 3, 4, 6, 6)
    for stage, depth in enumerate(depths):
        kernel = dice.pick(*kernels)
        first = 1 if stage == 0 else expansion
        stride = 1 if min(x.shape[2:]) <= 7 else dice.pick(1, 2, 2)
        late = gate if gate != "hsigmoid" or stage > len(depths) // 3 else ""
        for block in range(depth):
            x = _inverted(graph, x, width, kernel, 1 if block else stride, first, kind, late)
        width = max(round(width * growth / 8), 1) * 8
    x = graph.unit(x, min(x.width * 6, 1536), activation=kind)
    if gate == "hsigmoid":
        x = graph.activate(graph.linear(graph.flatten(graph.global_pool(x)), 1280), kind)
        graph.output(graph.linear(x, classes(graph)))
    else:
        graph.output(graph.classifier(x, classes(graph)))
    return f"{'-'.join(map(str, depths))} e{expansion}"


def mobilenet_v2(graph: GraphBuilder) -> str:
    return _inverted_network(graph, ("relu6", "relu6", "relu"), ("",), (3, 3, 5))


def mobilenet_v3(graph: GraphBuilder) -> str:
    return _inverted_network(graph, ("hswish",), ("hsigmoid",), (3, 5))


def efficientnet(graph: GraphBuilder) -> str:
    return _inverted_network(graph, ("silu", "silu", "relu6", "gelu"), ("sigmoid",), (3, 5))


def fused_inverted(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph)
    kind = dice.pick("silu", "relu", "hswish")
    width = dice.size(8, 40, 8)
    x = graph.unit(x, width, 3, 2, activation=kind)
    depths = [dice.between(1, 4) for _ in range(4)]
    expansion = dice.pick(2, 4)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            if stage < 2:
                y = graph.unit(x, x.width * expansion, 3, stride, activation=kind)
                y = graph.unit(y, width, activation="")
                x = graph.add(x, y) if stride == 1 and x.width == width else y
            else:
                x = _inverted(graph, x, width, 3, stride, expansion, kind, "sigmoid")
        width = max(round(width * 1.6 / 8), 1) * 8
    graph.output(graph.classifier(graph.unit(x, 4 * x.width, activation=kind), classes(graph)))
    return "-".join(map(str, depths))


def shufflenet_v1(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph, 64)
    groups = dice.pick(2, 3, 4, 8)
    width = dice.size(24, 480, 4 * groups)
    x = graph.pool(graph.unit(x, 24, 3, 2), 3, 2, padded=True)
    depths = [dice.between(1, 7) for _ in range(3)]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            wanted = (width << stage) - (0 if block else x.width)
            if wanted <= 0:
                continue
            inner = (width << stage) // 4
            y = graph.unit(x, inner, groups=groups if x.width % groups == 0 else 1)
            y = graph.depthwise(graph.channel_shuffle(y, groups), 3, 1 if block else 2, "")
            wanted = max(wanted // groups, 1) * groups
            y = graph.unit(y, wanted, groups=groups, activation="")
            if block:
                x = graph.activate(graph.add(x, y) if x.width == wanted else y, "relu")
            else:
                x = graph.activate(graph.concat([graph.pool(x, 3, 2, mean=True, padded=True), y]), "relu")
    graph.output(graph.classifier(x, classes(graph)))
    return f"{'-'.join(map(str, depths))} g{groups}"


def shufflenet_v2(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph, 64)
    kind = dice.pick("relu", "relu", "lrelu", "hswish")
    width = dice.size(24, 256, 4)
    x = graph.pool(graph.unit(x, 24, 3, 2, activation=kind), 3, 2, padded=True)
    depths = [dice.between(1, 7) for _ in range(3)]
    for stage, depth in enumerate(depths):
        half = width << stage
        for block in range(depth):
            if block:
                left, y = graph.split(x, 2)
            else:
                left = graph.unit(graph.depthwise(x, 3, 2, ""), half, activation=kind)
                y = x
            y = graph.unit(y, half, activation=kind)
            y = graph.unit(graph.depthwise(y, 3, 1 if block else 2, ""), half, activation=kind)
            x = graph.channel_shuffle(graph.concat([left, y]), 2)
    graph.output(graph.classifier(graph.unit(x, 1024, activation=kind), classes(graph)))
    return "-".join(map(str, depths))


def ghostnet(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph)
    width = dice.size(8, 48, 8)
    x = graph.unit(x, width, 3, 2)
    depths = [dice.between(1, 4) for _ in range(dice.between(3, 5))]

    def ghost(y: Tensor, size: int, kind: str) -> Tensor:
        half = graph.unit(y, size // 2, activation=kind)
        return graph.concat([half, graph.depthwise(half, 3, 1, kind)])

    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            y = ghost(x, x.width * 3, "relu")
            y = graph.depthwise(y, dice.pick(3, 5), 2, "") if stride == 2 else y
            y = graph.squeeze_excite(y, y.width // 4, "relu", "hsigmoid") if dice.chance(0.4) else y
            y = ghost(y, width, "")
            same = graph.depthwise(x, 3, 2, "") if stride == 2 else x
            x = graph.add(y, shortcut(graph, same, width, 1))
        width = max(round(width * 1.6 / 8), 1) * 8
    graph.output(graph.classifier(x, classes(graph)))
    return "-".join(map(str, depths))


def squeezenet(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph, 64)
    width = dice.size(8, 48, 8)
    x = graph.activate(graph.conv(x, 2 * width, dice.pick(3, 7), 2), "relu")
    depths = [dice.between(1, 4) for _ in range(dice.between(2, 4))]
    residual = dice.chance(0.3)
    for stage, depth in enumerate(depths):
        x = graph.pool(x, 3, 2)
        for _ in range(depth):
            small = graph.activate(graph.conv(x, width * (stage + 1)), "relu")
            sides = [graph.activate(graph.conv(small, 4 * width * (stage + 1), kernel), "relu") for kernel in (1, 3)]
            y = graph.concat(sides)
            x = graph.add(x, y) if residual and x.width == y.width else y
    x = graph.activate(graph.conv(x, classes(graph)), "relu")
    graph.output(graph.flatten(graph.global_pool(x)))
    return "-".join(map(str, depths))


def convnext(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph, 64)
    width = dice.size(16, 160, 8)
    kernel = dice.pick(5, 7, 7, 9)
    last = dice.chance(0.5)  # channels last inside a block, or convolutions of one pixel
    depths = [dice.between(1, most) for most in (3, 3, 9, 3)[: dice.between(3, 4)]]
    x = graph.conv(x, width, 4, 4, padded=False)
    for stage, depth in enumerate(depths):
        if stage and min(x.shape[2:]) >= 2:
            x = graph.conv(_channel_norm(graph, x), width << stage, 2, 2, padded=False)
        for _ in range(depth):
            y = graph.conv(x, x.width, kernel, groups=x.width)
            if last:
                z = graph.layer_norm(graph.transpose(y, (0, 2, 3, 1)))
                z = graph.linear(graph.activate(graph.linear(z, 4 * x.width), "gelu"), x.width)
                z = graph.mul(z, graph.weight(x.width, deviation=0.1))
                y = graph.transpose(z, (0, 3, 1, 2))
            else:
                y = graph.conv(graph.activate(graph.conv(_channel_norm(graph, y), 4 * x.width), "gelu"), x.width)
            x = graph.add(x, y)
    y = graph.layer_norm(graph.flatten(graph.global_pool(x)))
    graph.output(graph.linear(y, classes(graph)))
    return f"{'-'.join(map(str, depths))} k{kernel}{' last' * last}"


def _channel_norm(graph: GraphBuilder, x: Tensor) -> Tensor:
    """Adds a layer norm over the channels of an image."""
    y = graph.layer_norm(graph.transpose(x, (0, 2, 3, 1)))
    return graph.transpose(y, (0, 3, 1, 2))


def repvgg(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph)
    fused = dice.chance(0.5)
    width = dice.size(8, 64, 8)
    depths = [dice.between(1, 5) for _ in range(dice.between(3, 5))]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            size = width << min(stage, 4)
            stride = 1 if block else 2
            if fused:
                x = graph.activate(graph.conv(x, size, 3, stride), "relu")
                continue
            y = graph.add(graph.unit(x, size, 3, stride, activation=""), graph.unit(x, size, 1, stride, activation=""))
            if block:
                y = graph.add(y, graph.norm(x))
            x = graph.activate(y, "relu")
    graph.output(graph.classifier(x, classes(graph)))
    return f"{'-'.join(map(str, depths))}{' fused' * fused}"


def random_cell(graph: GraphBuilder) -> str:
    """A cell of random operators, repeated, as in architecture search."""
    dice = graph.dice
    x = image(graph)
    kind = dice.pick("relu", "relu", "silu", "hswish", "relu6")
    width = dice.size(8, 64, 8)
    nodes = dice.between(2, 6)
    operators = ("conv1", "conv3", "conv5", "separable3", "separable5", "dilated3", "grouped3", "max", "mean", "skip")
    joined = dice.chance(0.5)
    edges = [
        [(source, dice.pick(*operators)) for source in {dice.between(0, node), dice.between(max(node - 1, 0), node)}]
        for node in range(nodes)
    ]
    x = graph.unit(x, width, 3, 2 if min(x.shape[2:]) > 64 else 1, activation=kind)
    stages = dice.between(2, 3)
    depth = dice.between(1, 4)
    for stage in range(stages):
        x = graph.unit(x, width << stage, 3, 2, activation=kind) if stage else x
        for _ in range(depth):
            values = [x]
            for incoming in edges:
                y = _cell_operator(graph, values[incoming[0][0]], incoming[0][1], kind)
                for source, operator in incoming[1:]:
                    y = graph.add(y, _cell_operator(graph, values[source], operator, kind))
                values.append(y)
            x = graph.unit(graph.concat(values[1:]), width << stage, activation=kind) if joined else values[-1]
    graph.output(graph.classifier(x, classes(graph)))
    cell = "/".join("+".join(f"{operator}:{source}" for source, operator in incoming) for incoming in edges)
    return f"{cell}{' concat' * joined}"


def _cell_operator(graph: GraphBuilder, x: Tensor, operator: str, kind: str) -> Tensor:
    if operator == "skip":
        return x
    if operator in ("max", "mean"):
        return graph.pool(x, 3, 1, mean=operator == "mean", padded=True)
    kernel = int(operator[-1])
    if operator.startswith("separable"):
        return graph.unit(graph.depthwise(x, kernel, 1, kind), x.width, activation=kind)
    if operator.startswith("dilated"):
        return graph.unit(graph.depthwise(x, kernel, 1, "", dilation=2), x.width, activation=kind)
    return graph.unit(x, x.width, kernel, activation=kind, groups=8 if operator.startswith("grouped") else 1)


def plain_layers(graph: GraphBuilder) -> str:
    """One to six layers of a kind, where a single operator decides."""
    dice = graph.dice
    x = image(graph, 32, 256, dice.pick(3, 8, 16, 32, 64, 128, 256))
    what = dice.pick(
        "conv", "depthwise", "pointwise", "grouped", "pool", "activation", "dilated", "up", "strided", "norm"
    )
    kind = dice.pick("relu", "relu", "silu", "hswish", "gelu", "sigmoid", "tanh", "softplus", "elu", "mish")
    depth = dice.between(1, 6)
    kernel = dice.pick(3, 3, 5, 7)
    for _ in range(depth):
        if what in ("conv", "strided", "dilated"):
            stride = 2 if what == "strided" and min(x.shape[2:]) > 8 else 1
            x = graph.unit(
                x, dice.size(8, 256, 8), kernel, stride, activation=kind, dilation=2 if what == "dilated" else 1
            )
        elif what == "depthwise":
            x = graph.depthwise(x, kernel, 1, kind)
        elif what == "pointwise":
            x = graph.unit(x, dice.size(8, 768, 8), activation=kind)
        elif what == "grouped":
            groups = dice.pick(2, 4, 8) if x.width % 8 == 0 else 1
            x = graph.unit(x, dice.size(16, 256, 8), kernel, groups=groups, activation=kind)
        elif what == "up":
            x = graph.resize(x, 2, dice.pick("nearest", "linear")) if x.shape[2] <= 128 else graph.activate(x, kind)
        elif what == "pool":
            x = graph.pool(x, kernel, dice.pick(1, 2), mean=dice.chance(0.5), padded=True)
        elif what == "norm":
            x = graph.activate(graph.norm(x), kind)
        else:
            x = graph.activate(x, kind)
    graph.output(x)
    return f"{what}{depth}"


FAMILIES = (
    vgg, resnet_basic, resnet_preactivation, resnet_bottleneck, regnet, densenet, inception, mobilenet_v1, mobilenet_v2,
    mobilenet_v3, efficientnet, fused_inverted, shufflenet_v1, shufflenet_v2, ghostnet, squeezenet, convnext, repvgg,
    random_cell, plain_layers,
)  # fmt: skip
