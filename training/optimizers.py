"""Optimisers, the learning rate over a run, and the running average of weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from code_rlm.training.options import TrainError, TrainOptions

_Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def build_optimizers(model: nn.Module, options: TrainOptions) -> list[torch.optim.Optimizer]:
    """Returns the optimisers of a run; together they hold every trained parameter once. Vectors have no weight decay.

    - adamw: betas .9 and .98
    - adafactor: as in the paper (arXiv 2509.26476, section 4; Adafactor is arXiv 1804.04235), updates relative to the
      size of each parameter
    - muon: the matrices of linear layers by orthogonalised momentum, scaled so that AdamW's learning rate serves (arXiv
      2502.16982); embeddings, the numeric head and vectors by AdamW

    Raises:
        TrainError: This torch has no Muon.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise TrainError("Nothing is left to train: every parameter is frozen.")
    rate = options.optimizer.learning_rate
    decay = options.optimizer.weight_decay
    if options.optimizer.name == "adafactor":
        return [torch.optim.Adafactor(_groups(trained, decay), lr=rate)]
    optimizers: list[torch.optim.Optimizer] = []
    if options.optimizer.name == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise TrainError(
                f"torch {torch.__version__} has no Muon; install torch 2.9 or later, or use optimizer: adamw."
            )
        names = _hidden_matrices(model)
        hidden = [trained.pop(name) for name in list(trained) if name in names]
        if hidden:
            optimizers.append(torch.optim.Muon(hidden, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    if trained:
        optimizers.append(torch.optim.AdamW(_groups(trained, decay), rate, betas=(0.9, 0.98)))
    return optimizers


def _groups(trained: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Returns matrices with weight decay and vectors without."""
    matrices = [p for p in trained.values() if p.ndim >= 2]
    vectors = [p for p in trained.values() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _hidden_matrices(model: nn.Module) -> set[str]:
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "number_head" not in name.split(".")
    }


def schedule(options: TrainOptions, step: float) -> float:
    """Returns the share of the peak learning rate at a step: linear warm-up, cosine to `final_learning_rate`.

    Under a time limit `step` is the position in the run by the clock, which may lie between two steps.
    """
    warm = max(1, int(options.schedule.warmup * options.schedule.steps))
    if step < warm:
        return min(1.0, (step + 1) / warm)
    done = (step - warm) / max(1, options.schedule.steps - 1 - warm)
    low = options.schedule.final_learning_rate
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_learning_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Sets one learning rate everywhere."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


class WeightAverage:
    """Exponential moving average of the trained parameters, by torch's `AveragedModel`; young averages forget faster.

    The decay after `n` steps is `min(decay, (1 + n) / (10 + n))`.

    Args:
        model: The model in training.
        decay: The decay of an old average.
    """

    def __init__(self, model: nn.Module, decay: float):
        def average(averages: _Tensors, parameters: _Tensors, steps: torch.Tensor | int) -> None:
            young = (1 + int(steps)) / (10 + int(steps))
            get_ema_multi_avg_fn(min(decay, young))(averages, parameters, steps)

        self._trained = nn.ParameterList([p for p in model.parameters() if p.requires_grad])
        self._averaged = AveragedModel(self._trained, multi_avg_fn=average)
        self._averaged.n_averaged.fill_(
            1
        )  # the first step is averaged with the initial weights, not put in their place

    def update(self) -> None:
        """Takes in the parameters after a step."""
        self._averaged.update_parameters(self._trained)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the average into the model for a while."""
        own = [p.detach().clone() for p in self._trained]
        self._set([p.detach() for p in self._averaged.parameters()])
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: list[torch.Tensor]) -> None:
        for p, value in zip(self._trained, values, strict=True):
            p.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the state of a checkpoint."""
        self._averaged.load_state_dict(state)


__all__ = ["WeightAverage", "build_optimizers", "schedule", "set_learning_rate"]
