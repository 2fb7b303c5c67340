"""Small networks beside the trees of the lexical path: what trees cut into steps, these tell smoothly.

Trees and perceptrons err in different places, so both together tell more than either. A perceptron reads those features of a
text that its regressors' trees ask for most, and answers one metric or several that rank texts alike
(`training/perceptron.py`); its output layer carries what it is worth beside the trees.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, LAYERS = 128, 3  # units of a hidden layer, hidden layers
REACH = 8.0  # a feature's distance from its mean, scaled, goes no farther


class Perceptrons(nn.Module):
    """The perceptrons of some regressors, side by side.

    Args:
        answers: How many regressors each of them answers.
        columns: The most features that one of them reads.

    Attributes:
        owner: Which perceptron each output is of.
        feature: Which features each reads, int `(count, columns)`.
        center, scale: A feature is read as (feature - center) * scale, at most `REACH`, `(count, columns)`; scale 0 where
            nothing is read.
        first: Weights of the first hidden layer `(count, columns, WIDTH)`.
        hidden: Those of the others `(count, LAYERS - 1, WIDTH, WIDTH)`.
        bias: Of the hidden layers `(count, LAYERS, WIDTH)`.
        last: Weights of the outputs, those of one perceptron after those of another, `(outputs, WIDTH)`; their biases are the
            regressors'.
    """

    def __init__(self, answers: Sequence[int], columns: int):
        super().__init__()
        self.owner = [number for number, outputs in enumerate(answers) for _ in range(outputs)]
        count = len(answers)
        self.register_buffer("feature", torch.zeros(count, columns, dtype=torch.int32))
        for name in ("center", "scale"):
            self.register_buffer(name, torch.zeros(count, columns))
        self.register_buffer("first", torch.zeros(count, columns, WIDTH))
        self.register_buffer("hidden", torch.zeros(count, LAYERS - 1, WIDTH, WIDTH))
        self.register_buffer("bias", torch.zeros(count, LAYERS, WIDTH))
        self.register_buffer("last", torch.zeros(len(self.owner), WIDTH))

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """What each output adds to its regressor's score, float32 `(batch, outputs)`, for features `(batch, features)`."""
        count, columns = self.feature.shape
        read = raw[:, self.feature.flatten().long()].view(len(raw), count, columns).transpose(0, 1)
        read = ((read - self.center.float()[:, None]) * self.scale.float()[:, None]).clamp(-REACH, REACH)
        weights = [self.first, *self.hidden.unbind(1)]
        for weight, bias in zip(weights, self.bias.float().unbind(1), strict=True):
            read = F.silu(torch.baddbmm(bias[:, None], read, weight.float()))
        return (read[self.owner] * self.last.float()[:, None]).sum(2).T


__all__ = ["LAYERS", "REACH", "WIDTH", "Perceptrons"]
