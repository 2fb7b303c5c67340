"""How good the model is on validation rows: negative log-likelihood per number (of a regression head its squared error), and
Spearman's rank correlation of medians."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from scipy.stats import spearmanr

from code_rlm.data.mixture import Mixture, Source, share
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import is_failed
from code_rlm.training.options import TrainOptions
from code_rlm.training.sources import validation_rows

_BATCH = 32


@dataclass
class Scores:
    """What an evaluation found.

    Attributes:
        nll: Mean negative log-likelihood per number in nats, by source; of a regression head the mean squared error.
        spearman: Rank correlation of exact medians with the truth, by source and metric; empty where it is not asked for.
        total: The one number that checkpoints are compared by, smaller is better: the mean of `nll`, or minus the mean of
            `spearman`.
    """

    nll: dict[str, float]
    spearman: dict[str, dict[str, float]] = field(default_factory=dict)
    total: float = float("inf")

    def as_dict(self) -> dict:
        """For the log."""
        found = {"validation": {name: round(value, 4) for name, value in self.nll.items()}}
        if self.spearman:
            found["spearman"] = {
                name: {metric: round(value, 4) for metric, value in by.items()} for name, by in self.spearman.items()
            }
        return found


class Validation:
    """Scores a model on the same rows every time; several processes share the rows out.

    Args:
        sources: Validation rows of each source.
        mixture: Builds the inputs.
        options: Of the run.
        attach: Puts kept encoder outputs into a batch, or leaves it as it is.
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
        return validation_rows(source, self.options.eval_rows, self.options.seed)

    def _items(self, source: Source) -> list:
        limit = self.options.max_objectives
        return [
            self.mixture.build(source, row, np.flatnonzero(source.present[row])[:limit]) for row in self._rows(source)
        ]

    def inputs(self) -> list[list[int]]:
        """Token ids of everything that is scored by likelihood."""
        return [item.ids for source in self.sources for item in self._items(source)]

    @torch.no_grad()
    def __call__(self, accelerator: Accelerator, model: torch.nn.Module, plain: RLMForConditionalGeneration) -> Scores:
        """Scores a model.

        Args:
            accelerator: Of the run.
            model: As prepared for training; called.
            plain: The regression model inside it, for exact medians.
        """
        if not self:
            return Scores({})
        model.eval()
        nll = {source.name: self._loss(accelerator, model, plain, source) for source in self.sources}
        if self.options.score == "nll":
            return Scores(nll, total=float(np.mean(list(nll.values()))))
        spearman = {source.name: self._spearman(accelerator, plain, source) for source in self.sources}
        found = [value for by in spearman.values() for value in by.values() if np.isfinite(value)]
        return Scores(nll, spearman, -float(np.mean(found)) if found else float("inf"))

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
        # Losses of a decoder add up to those of numbers; a regression head's is the same for every label of its row.
        length = self.mixture.tokenizer.codec.length
        per_item = [len(item.labels) for item in items]
        numbers = sum(per_item) if plain.regression_head is not None else sum((n - 1) // length for n in per_item)
        return float(accelerator.reduce(total.to(accelerator.device, torch.float32), "sum")) / max(1, numbers)

    def _spearman(
        self, accelerator: Accelerator, plain: RLMForConditionalGeneration, source: Source
    ) -> dict[str, float]:
        rows, scores = self._rows(source), {}
        for column, metric in enumerate(source.metrics):
            values = source.values[:, column]
            chosen = [
                r for r in rows if source.present[r, column] and np.isfinite(values[r]) and not is_failed(values[r])
            ]
            if len(chosen) < 3:
                continue
            medians = torch.zeros(len(chosen))
            batches = list(range(0, len(chosen), _BATCH))[accelerator.process_index :: accelerator.num_processes]
            for start in batches:
                part = chosen[start : start + _BATCH]
                whole = self.mixture.collate([self.mixture.build(source, row, [column]) for row in part])
                if plain.regression_head is not None:
                    found = plain.regress(whole)
                else:
                    found = plain.predict(whole, (0.5,), metrics=[metric]).quantiles[:, 0, 0]
                medians[start : start + len(part)] = torch.from_numpy(np.nan_to_num(found)).float()
            medians = accelerator.reduce(medians.to(accelerator.device), "sum").cpu().numpy()
            same = len(np.unique(medians)) == 1 or len(np.unique(values[chosen])) == 1
            scores[metric] = 0.0 if same else float(spearmanr(medians, values[chosen]).statistic)
        return scores


__all__ = ["Scores", "Validation"]
