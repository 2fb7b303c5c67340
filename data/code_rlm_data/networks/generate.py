"""Draws networks: a family, a style, and sizes for which the latency of all networks together is spread evenly.

network = draw_network(seed=7)
network.family, network.group, network.model()
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx

from code_rlm_data.networks import attention, convolutional, dense_prediction, sequences
from code_rlm_data.networks.builder import Dice, GraphBuilder, Style

FAMILIES: dict[str, Callable[[GraphBuilder], str]] = {
    family.__name__: family
    for module in (convolutional, dense_prediction, attention, sequences)
    for family in module.FAMILIES
}
LATENCIES_MS = (0.05, 3000.0)
_CANDIDATES = 8  # networks drawn, of which the one nearest to the wanted latency is kept
_MACS_PER_MS = 3.5e7  # about that of one core with AVX2
_WRITTEN_PER_MS = 1.6e6
_NODE_MS = 0.002
_MOST_PARAMETERS = 120_000_000
_MOST_WRITTEN = 400_000_000
_QUANTISED = 0.15  # share of the networks


@dataclass
class Network:
    """A drawn network.

    Attributes:
        seed: Draws the same network again.
        family: Name of the function that made it.
        group: Family and skeleton: networks of one group differ in widths, sizes and style.
        graph: Its graph.
    """

    seed: int
    family: str
    group: str
    graph: GraphBuilder

    @property
    def expected_ms(self) -> float:
        """A rough latency from multiply-adds, elements and nodes."""
        return _expected_ms(self.graph)

    def model(self, *, weights: bool = True) -> onnx.ModelProto:
        """Returns the model; see `GraphBuilder.model`."""
        return self.graph.model(weights=weights)


def _expected_ms(graph: GraphBuilder) -> float:
    share = 0.5 if graph.style.quantised else 1.0
    return share * graph.macs / _MACS_PER_MS + graph.written / _WRITTEN_PER_MS + _NODE_MS * graph.node_count


def draw_network(seed: int, family: str | None = None) -> Network:
    """Draws a network.

    A latency is drawn first, then some candidates of one family and style; the one whose rough latency is nearest is kept.

    Args:
        seed: Equal seeds draw equal networks.
        family: One of `FAMILIES`; drawn by default.
    """
    dice = Dice(seed)
    name = family or dice.pick(*FAMILIES)
    least, most = map(math.log, LATENCIES_MS)
    wanted = least + (most - least) * float(dice.random.beta(1.7, 1.5))
    style = Style.drawn(dice, dice.chance(_QUANTISED))
    best: Network | None = None
    for candidate in range(_CANDIDATES):
        graph = GraphBuilder(Dice(seed * _CANDIDATES + candidate), style)
        skeleton = FAMILIES[name](graph)
        if best is not None and (graph.parameters > _MOST_PARAMETERS or graph.written > _MOST_WRITTEN):
            continue
        drawn = Network(seed, name, f"{name} {skeleton}", graph)
        if best is None or _distance(drawn, wanted) < _distance(best, wanted):
            best = drawn
    assert best is not None  # the first candidate is kept whatever it is
    return best


def _distance(network: Network, wanted: float) -> float:
    if network.graph.parameters > _MOST_PARAMETERS or network.graph.written > _MOST_WRITTEN:
        return math.inf
    return abs(math.log(network.expected_ms) - wanted)
