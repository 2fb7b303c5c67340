"""Scores on validation rows: negative log-likelihood per number (of a regression head the squared error), and Spearman's rank
correlation of medians."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from scipy.stats import spearmanr

from code_rlm.data.mixture import Item, Mixture, Source, share
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import is_failed
from code_rlm.training.options import TrainOptions
from code_rlm.training.sources import validation_rows

_BATCH = 32


@dataclass
class Scores:
    """Scores of an evaluation.

    Attributes:
        nll: Mean negative log-likelihood per number in nats, by source; of a regression head the mean squared error.
        spearman: Rank correlation of exact medians with the truth, by source and metric; empty where it is not asked for.
        total: The one number that checkpoints are compared by, smaller is better: the mean of `nll`, or minus the mean of
            `spearman`.
    """

    nll: dict[str, float]
    spearman: dict[str, dict[str, float]] = field(default_factory=dict)
    total: float = float("inf")

    def as_dict(self) -> dict[str, Any]:
        """Returns the scores as a log entry has them, with four digits."""
        entry: dict[str, Any] = {"validation": {name: round(value, 4) for name, value in self.nll.items()}}
        if self.spearman:
            entry["spearman"] = {}
            for name, by_metric in self.spearman.items():
                entry["spearman"][name] = {metric: round(value, 4) for metric, value in by_metric.items()}
        return entry


class Validation:
    """Scores a model on the same rows every time; several processes share the rows out.

    Args:
        sources: Validation rows of each source.
        mixture: Builds the inputs.
        options: Of the run.
        attach: Puts cached encoder outputs into a batch, or leaves it as it is.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        mixture: Mixture,
        options: TrainOptions,
        attach: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    ):
        self.sources, self.mixture, self.options, self.attach = sources, mixture, options, attach

    def __bool__(self) -> bool:
        return bool(self.sources)

    def _rows(self, source: Source) -> list[int]:
        return validation_rows(source, self.options.evaluation.rows, self.options.seed)

    def _items(self, source: Source) -> list[Item]:
        """Returns the inputs of a source's rows, each with as many of its metrics as a model answers at once."""
        limit = self.options.data.max_objectives
        items = []
        for row in self._rows(source):
            columns = np.flatnonzero(source.present[row])[:limit].tolist()
            items.append(self.mixture.build(source, row, columns))
        return items

    def inputs(self) -> list[list[int]]:
        """Returns the token ids of every input that is scored by likelihood."""
        return [item.input_ids for source in self.sources for item in self._items(source)]

    @torch.no_grad()
    def __call__(self, accelerator: Accelerator, model: torch.nn.Module, plain: RLMForConditionalGeneration) -> Scores:
        """Returns the scores of a model.

        Args:
            accelerator: Of the run.
            model: As prepared for training; called.
            plain: The regression model inside it, for exact medians.
        """
        if not self:
            return Scores({})
        model.eval()
        nll = {source.name: self._loss(accelerator, model, plain, source) for source in self.sources}
        if self.options.evaluation.score == "nll":
            return Scores(nll, total=float(np.mean(list(nll.values()))))
        spearman = {source.name: self._spearman(accelerator, plain, source) for source in self.sources}
        values = [value for by_metric in spearman.values() for value in by_metric.values()]
        finite = [value for value in values if np.isfinite(value)]
        return Scores(nll, spearman, -float(np.mean(finite)) if finite else float("inf"))

    def _loss(
        self, accelerator: Accelerator, model: torch.nn.Module, plain: RLMForConditionalGeneration, source: Source
    ) -> float:
        items = self._items(source)
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(items), _BATCH):
            whole = self.mixture.collate(items[start : start + _BATCH])
            batch = self.attach(share(whole, accelerator.process_index, accelerator.num_processes))
            batch.pop("first_metric", None)
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            total += model(**batch, num_items_in_batch=1).loss.double().cpu()
        # A decoder's loss is summed over the tokens of numbers; a regression head's is the same for every label of its row.
        length = self.mixture.tokenizer.codec.length
        per_item = [len(item.labels) for item in items]
        numbers = sum(per_item) if plain.regression_head is not None else sum((n - 1) // length for n in per_item)
        return float(accelerator.reduce(total.to(accelerator.device, torch.float32), "sum")) / max(1, numbers)

    def _spearman(
        self, accelerator: Accelerator, plain: RLMForConditionalGeneration, source: Source
    ) -> dict[str, float]:
        """Returns the rank correlation of each metric that has at least three values."""
        scores = {}
        for column, metric in enumerate(source.metrics):
            rows = self._ranked_rows(source, column)
            if len(rows) < 3:
                continue
            medians = self._medians(accelerator, plain, source, rows, column)
            values = source.values[rows, column]
            constant = len(np.unique(medians)) == 1 or len(np.unique(values)) == 1
            scores[metric] = 0.0 if constant else float(spearmanr(medians, values).statistic)
        return scores

    def _ranked_rows(self, source: Source, column: int) -> list[int]:
        """Returns the rows that have a finite value of a metric."""
        values = source.values[:, column]
        return [
            row
            for row in self._rows(source)
            if source.present[row, column] and np.isfinite(values[row]) and not is_failed(values[row])
        ]

    def _medians(
        self,
        accelerator: Accelerator,
        plain: RLMForConditionalGeneration,
        source: Source,
        rows: Sequence[int],
        column: int,
    ) -> np.ndarray:
        """Returns the model's answers for rows, `(rows,)`; each process computes its share."""
        medians = torch.zeros(len(rows))
        starts = list(range(0, len(rows), _BATCH))
        for start in starts[accelerator.process_index :: accelerator.num_processes]:
            part = rows[start : start + _BATCH]
            batch = self.mixture.collate([self.mixture.build(source, row, [column]) for row in part])
            if plain.regression_head is not None:
                answers = plain.regress(batch)
            else:
                answers = plain.predict(batch, (0.5,), metrics=[source.metrics[column]]).quantiles[:, 0, 0]
            medians[start : start + len(part)] = torch.from_numpy(np.nan_to_num(answers)).float()
        return accelerator.reduce(medians.to(accelerator.device), "sum").cpu().numpy()


__all__ = ["Scores", "Validation"]
