"""Families that answer with images or boxes: U-shapes, segmentation, detection, super-resolution, style transfer, decoders.

Each function adds a network to a graph and returns its skeleton, as in `convolutional`.
"""

from __future__ import annotations

from code_rlm_data.networks.builder import GraphBuilder, Tensor
from code_rlm_data.networks.convolutional import activation, image


def unet(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph, 64, channels=dice.pick(1, 3, 3))
    kind = activation(graph)
    width = dice.size(4, 64, 4)
    depth = dice.between(2, 5)
    while any(size % (1 << depth) for size in x.shape[2:]):
        depth -= 1  # as each level doubles the size that the one below has
    up = dice.pick("deconv2", "deconv4", "nearest", "linear")
    join = dice.pick("concat", "concat", "add")
    convolutions = dice.between(1, 2)
    kept = []

    def block(y: Tensor, size: int) -> Tensor:
        for _ in range(convolutions):
            y = graph.unit(y, size, 3, activation=kind)
        return y

    for level in range(depth):
        x = block(x, width << level)
        kept.append(x)
        x = graph.pool(x, 2) if dice.chance(0.8) else graph.unit(x, x.width, 3, 2, activation=kind)
    x = block(x, width << depth)
    for level in reversed(range(depth)):
        size = width << level
        if up.startswith("deconv"):
            x = graph.upconv(x, size, int(up[-1]))
        else:
            x = graph.unit(graph.resize(x, 2, up), size, activation="")
        x = graph.concat([kept[level], x]) if join == "concat" else graph.add(kept[level], x)
        x = block(x, size)
    x = graph.conv(x, dice.between(1, 21))
    graph.output(graph.activate(x, dice.pick("", "sigmoid")))
    return f"d{depth} {up} {join} {convolutions}"


def _backbone(graph: GraphBuilder, x: Tensor, width: int, kind: str, deep: int = 5) -> tuple[list[Tensor], str]:
    """Adds a backbone; returns its feature maps, each half as large as the one before, and what it is made of."""
    dice = graph.dice
    style = dice.pick("residual", "inverted", "separable", "csp")
    depths = [dice.between(1, 3) for _ in range(deep - 1)]
    x = graph.unit(x, width, 3, 2, activation=kind)
    levels = [x]
    for level, depth in enumerate(depths):
        size = min(width << (level + 1), 512)
        if style == "csp":
            x = _csp(graph, graph.unit(x, size, 3, 2, activation=kind), size, depth, kind)
        for block in range(depth if style != "csp" else 0):
            stride = 1 if block else 2
            if style == "separable":
                y = graph.unit(graph.depthwise(x, 3, stride, kind), size, activation=kind)
            elif style == "inverted":
                y = graph.depthwise(graph.unit(x, 4 * x.width, activation=kind), 3, stride, kind)
                y = graph.unit(y, size, activation="")
            else:
                y = graph.unit(graph.unit(x, size, 3, stride, activation=kind), size, 3, activation="")
            x = graph.add(x, y) if block else y
        levels.append(x)
    return levels, f"{style} {'-'.join(map(str, depths))}"


def _csp(graph: GraphBuilder, x: Tensor, width: int, depth: int, kind: str) -> Tensor:
    half = max(width // 2, 1)
    left = graph.unit(x, half, activation=kind)
    right = graph.unit(x, half, activation=kind)
    for _ in range(depth):
        y = graph.unit(graph.unit(right, half, activation=kind), half, 3, activation=kind)
        right = graph.add(right, y)
    return graph.unit(graph.concat([left, right]), width, activation=kind)


def _square(graph: GraphBuilder, least: int, most: int) -> Tensor:
    """Adds an image whose sides are multiples of 64."""
    dice = graph.dice
    side = dice.between(least // 64, most // 64) * 64
    return graph.input((dice.pick(1, 1, 1, 1, 2), 3, side, dice.pick(side, side, max(side // 128, 1) * 64)))


def detector(graph: GraphBuilder) -> str:
    """A backbone, a feature pyramid, and heads for classes and boxes on each of its levels."""
    dice = graph.dice
    kind = dice.pick("relu", "silu", "lrelu", "relu6", "hswish", "mish")
    x = _square(graph, 64, 512)
    levels, skeleton = _backbone(graph, x, dice.size(8, 48, 8), kind)
    width = dice.size(16, 192, 8)
    sides = [graph.unit(level, width, activation="") for level in levels[-3:]]
    two_ways = dice.chance(0.4)
    for index in (1, 0):
        sides[index] = graph.add(sides[index], graph.resize(sides[index + 1], 2))
    if two_ways:
        for index in (1, 2):
            sides[index] = graph.add(sides[index], graph.unit(sides[index - 1], width, 3, 2, activation=kind))
    depth = dice.between(0, 3)
    labels = dice.pick(1, 20, 80, 80)
    anchors = dice.pick(1, 3, 9)
    separable = dice.chance(0.4)
    parts: list[list[Tensor]] = [[], []]
    for side in sides:
        for outputs, found in ((labels * anchors, parts[0]), (4 * anchors, parts[1])):
            y = side
            for _ in range(depth):
                y = graph.depthwise(y, 3, 1, "") if separable else y
                y = graph.unit(y, width, 1 if separable else 3, activation=kind)
            y = graph.transpose(graph.conv(y, outputs, dice.pick(1, 3)), (0, 2, 3, 1))
            found.append(graph.reshape(y, (y.shape[0], y.shape[1] * y.shape[2] * anchors, outputs // anchors)))
    graph.output(graph.activate(graph.concat(parts[0]), "sigmoid"), graph.concat(parts[1]))
    return f"{skeleton} heads{depth}{' both' * two_ways}"


def yolo(graph: GraphBuilder) -> str:
    """CSP blocks, spatial pyramid pooling, a path down and up, one head a level."""
    dice = graph.dice
    kind = dice.pick("silu", "silu", "lrelu", "mish", "relu")
    x = _square(graph, 128, 512)
    width = dice.size(8, 40, 8)
    depth = dice.between(1, 3)
    levels = []
    x = graph.unit(x, width, dice.pick(3, 6), 2, activation=kind)
    for level in range(4):
        x = _csp(graph, graph.unit(x, width << (level + 1), 3, 2, activation=kind), width << (level + 1), depth, kind)
        levels.append(x)
    y = graph.unit(x, x.width // 2, activation=kind)
    pools = [y]
    for _ in range(3):
        pools.append(graph.pool(pools[-1], 5, 1, padded=True))
    x = graph.unit(graph.concat(pools), x.width, activation=kind)
    found = []
    for level in (2, 1):
        x = graph.unit(x, levels[level].width, activation=kind)
        x = _csp(graph, graph.concat([graph.resize(x, 2), levels[level]]), levels[level].width, depth, kind)
        found.append(x)
    outputs = []
    for y in [*found, x]:
        z = graph.conv(graph.unit(y, y.width, 3, activation=kind), dice.pick(85, 144, 84))
        outputs.append(graph.reshape(z, (z.shape[0], z.width, z.shape[2] * z.shape[3])))
    graph.output(graph.activate(graph.concat(outputs[:1]), "sigmoid"), *outputs[1:])
    return f"csp{depth}"


def segmentation(graph: GraphBuilder) -> str:
    """A backbone, dilated convolutions side by side, and a resize to the image's size."""
    dice = graph.dice
    kind = dice.pick("relu", "relu6", "hswish", "silu")
    x = _square(graph, 64, 512)
    levels, skeleton = _backbone(graph, x, dice.size(8, 48, 8), kind, dice.between(3, 4))
    y = levels[-1]
    width = dice.size(16, 256, 8)
    rates = dice.between(1, 3)
    branches = [graph.unit(y, width, activation=kind)]
    branches += [graph.unit(y, width, 3, activation=kind, dilation=2 * (rate + 1)) for rate in range(rates)]
    y = graph.unit(graph.concat(branches), width, activation=kind)
    y = graph.squeeze_excite(y, width // 4) if dice.chance(0.3) else y
    low = dice.chance(0.5)
    if low:
        y = graph.resize(y, 2, "linear")
        y = graph.unit(graph.concat([y, graph.unit(levels[-2], 24, activation=kind)]), width, 3, activation=kind)
    y = graph.conv(y, dice.pick(2, 19, 21))
    graph.output(graph.resize(y, x.shape[2] // y.shape[2], "linear"))
    return f"{skeleton} rates{rates}{' low' * low}"


def super_resolution(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph, 32, 256, dice.pick(1, 3))
    kind = dice.pick("relu", "relu", "prelu", "lrelu", "gelu")
    width = dice.size(8, 96, 4)
    depth = dice.between(1, 16)
    how = dice.pick("shuffle", "deconv", "nearest", "none")
    residual = dice.chance(0.6)
    y = first = graph.activate(graph.conv(x, width, dice.pick(3, 5, 9)), kind)
    for _ in range(depth):
        z = graph.activate(graph.conv(y, width, 3), kind)
        y = graph.add(y, graph.conv(z, width, 3)) if residual else z
    y = graph.add(y, first) if residual else y
    if how == "shuffle":
        y = graph.depth_to_space(graph.conv(y, x.width * 4, 3), 2)
    elif how == "deconv":
        y = graph.upconv(y, x.width, 4)
    else:
        y = graph.conv(graph.resize(y, 2) if how == "nearest" else y, x.width, 3)
    graph.output(y)
    return f"{depth} {how}{' residual' * residual}"


def style_transfer(graph: GraphBuilder) -> str:
    """Instance norms, reflected edges, residual blocks between two strided and two enlarging convolutions."""
    dice = graph.dice
    x = image(graph, 64)
    width = dice.size(8, 40, 8)
    depth = dice.between(1, 7)

    def layer(y: Tensor, size: int, kernel: int, stride: int = 1, kind: str = "relu") -> Tensor:
        y = graph.conv(graph.pad(y, kernel // 2, "reflect"), size, kernel, stride, padded=False)
        scales = [graph.weight(size, mean=1.0, deviation=0.1), graph.weight(size, deviation=0.1)]
        return graph.activate(graph.node("InstanceNormalization", [y, *scales], y.shape), kind)

    y = layer(layer(layer(x, width, 9), 2 * width, 3, 2), 4 * width, 3, 2)
    for _ in range(depth):
        y = graph.add(y, layer(layer(y, 4 * width, 3), 4 * width, 3, kind=""))
    deconvolved = dice.chance(0.4)
    for size in (2 * width, width):
        y = graph.activate(graph.upconv(y, size, 4), "relu") if deconvolved else layer(graph.resize(y, 2), size, 3)
    graph.output(graph.activate(graph.conv(graph.pad(y, 4, "reflect"), 3, 9, padded=False), "tanh"))
    return f"{depth}{' deconv' * deconvolved}"


def decoder(graph: GraphBuilder) -> str:
    """A vector becomes an image, as in generators of adversarial networks and autoencoders."""
    dice = graph.dice
    batch = dice.pick(1, 1, 1, 4, 16)
    width = dice.size(32, 512, 16)
    kind = dice.pick("relu", "lrelu", "elu", "silu")
    levels = dice.between(3, 6)
    how = dice.pick("deconv", "nearest", "linear")
    z = graph.input((batch, dice.size(16, 512, 4)))
    x = graph.reshape(graph.linear(z, width * 16), (batch, width, 4, 4))
    for _ in range(levels):
        size = max(x.width // 2, 8)
        if how == "deconv":
            x = graph.upconv(x, size, 4, bias=graph.style.folded)
            x = graph.activate(x if graph.style.folded else graph.norm(x), kind)
        else:
            x = graph.unit(graph.resize(x, 2, how), size, 3, activation=kind)
    graph.output(graph.activate(graph.conv(x, dice.pick(1, 3), 3), dice.pick("tanh", "sigmoid")))
    return f"{levels} {how}"


def autoencoder(graph: GraphBuilder) -> str:
    dice = graph.dice
    x = image(graph, 32, 256)
    kind = activation(graph)
    width = dice.size(8, 64, 8)
    levels = dice.between(2, 4)
    for level in range(levels):
        x = graph.unit(x, width << level, 3, 2, activation=kind)
    shape = x.shape
    x = graph.activate(
        graph.linear(graph.linear(graph.flatten(x), dice.size(8, 256)), x.width * x.shape[2] * x.shape[3]), kind
    )
    x = graph.reshape(x, shape)
    for level in reversed(range(levels)):
        x = graph.activate(graph.upconv(x, max((width << level) // 2, 4), dice.pick(2, 4)), kind)
    graph.output(graph.activate(graph.conv(x, 3, 3), "sigmoid"))
    return str(levels)


def high_resolution(graph: GraphBuilder) -> str:
    """Branches of several resolutions that exchange features."""
    dice = graph.dice
    x = _square(graph, 64, 320)
    width = dice.size(8, 48, 8)
    branches = dice.between(2, 4)
    modules = dice.between(1, 3)
    x = graph.unit(graph.unit(x, 2 * width, 3, 2), width, 3, 2)
    sides = [x]
    for level in range(1, branches):
        sides.append(graph.unit(sides[-1], width << level, 3, 2))
        for _ in range(modules):
            sides = [
                graph.activate(graph.add(y, graph.unit(graph.unit(y, y.width, 3), y.width, 3, activation="")), "relu")
                for y in sides
            ]
            sides = [_exchanged(graph, sides, target) for target in range(len(sides))]
    y = sides[0]
    for level, side in enumerate(sides[1:], 1):
        y = graph.concat([y, graph.resize(side, 1 << level, "linear")])
    graph.output(graph.conv(y, dice.pick(17, 19)))
    return f"{branches} {modules}"


def _exchanged(graph: GraphBuilder, sides: list[Tensor], target: int) -> Tensor:
    total = sides[target]
    for source, side in enumerate(sides):
        y = side
        if source > target:
            y = graph.resize(graph.unit(y, total.width, activation=""), 1 << (source - target))
        for step in range(target - source):
            last = step == target - source - 1
            y = graph.unit(y, total.width if last else y.width, 3, 2, activation="" if last else "relu")
        total = total if source == target else graph.add(total, y)
    return graph.activate(total, "relu")


FAMILIES = (
    unet, detector, yolo, segmentation, super_resolution, style_transfer, decoder, autoencoder, high_resolution,
)  # fmt: skip
