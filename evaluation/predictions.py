"""Predictions of a checkpoint for a table in the schema: exact quantiles and log-probabilities, row by row."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset

from code_rlm.console import progress
from code_rlm.evaluation.encoding import RowEncoder
from code_rlm.evaluation.report import Predictions
from code_rlm.evaluation.rows import measured
from code_rlm.evaluation.shards import map_shards
from code_rlm.familiarity_rlm import Familiarity, observe
from code_rlm.generation_rlm import EncodedInputs
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.processing_rlm import CodeInput, EncodedInput, RLMProcessor, length_batches

QUANTILE_DRAWS = 1024  # for layouts without exact quantiles
# Central intervals of 50, 80, 90 and 95%, the median, and enough between them for the CRPS.
LEVELS = (0.025, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.65, 0.75, 0.85, 0.9, 0.95, 0.975)


@dataclass
class EncodedRows:
    """The rows of a table that have one metric, ready to run.

    Attributes:
        metric: Its name.
        rows: Those rows.
        target: Its values, float64 `(rows,)`.
        written: As the number format writes them, `(rows,)`.
        saturated: Which lie outside the format's range, bool `(rows,)`.
        inputs: Token ids of each, unpadded.
        truncated: Whether a part of the text was left out, bool `(rows,)`.
        codes: What they were made of.
    """

    metric: str
    rows: Dataset
    target: np.ndarray
    written: np.ndarray
    saturated: np.ndarray
    inputs: list[EncodedInput]
    truncated: np.ndarray
    codes: list[CodeInput]

    @classmethod
    def of(cls, rows: Dataset, metric: str, processor: RLMProcessor) -> "EncodedRows":
        """Tokenises the rows that have the metric, asked for alone."""
        index, target = measured(rows, metric)
        chosen = rows.select(index)
        inputs = []
        for number, row in zip(index, chosen, strict=True):
            inputs.append(CodeInput(row["text"], row["language"], tuple(row["context"]), f"row {number}"))
        encoded = processor.encode(inputs, [(metric,)] * len(inputs))
        tokenizer = processor.tokenizer
        codes, saturated = tokenizer.encode_numbers(target, out_of_range="saturate", return_saturated=True)
        written = tokenizer.decode_numbers(codes)
        truncated = np.array([item.truncated_tokens > 0 for item in encoded])
        return cls(metric, chosen, target, written, saturated, encoded, truncated, inputs)

    def run(
        self,
        model: RLMForConditionalGeneration,
        processor: RLMProcessor,
        ask: Callable[[EncodedInputs, np.ndarray], Sequence[np.ndarray]],
        batch_size: int,
        encode: RowEncoder | None = None,
    ) -> list[np.ndarray]:
        """Runs the encoder over batches of like length, shared out over processes.

        Args:
            model, processor: The checkpoint.
            ask: Given a batch's memory and its rows' numbers, returns arrays `(batch, ...)`. A checkpoint that answers with a
                regression head gives its answers alone, and nothing is asked.
            batch_size: Rows run together.
            encode: Encodes the batches; None: the model, all of every text.

        Returns:
            The arrays of all batches joined, `(rows, ...)` each.
        """
        batches = length_batches([len(item.input_ids) for item in self.inputs], batch_size=batch_size)

        def work(batch: np.ndarray) -> Sequence[np.ndarray]:
            items = [self.inputs[i] for i in batch]
            bar.advance(len(batch))
            if model.regression_head is not None:
                return [model.regress(processor.collate(items))]
            return ask(model.encode(processor.collate(items)) if encode is None else encode(items, self.metric), batch)

        back = np.argsort(np.concatenate(batches))
        with progress(len(self.inputs), f"rows of {self.metric}") as bar:
            found = map_shards(work, batches)
        return [np.concatenate(parts)[back] for parts in zip(*found, strict=True)]


def novelty_weights(familiarity: Familiarity, encoded: EncodedRows) -> np.ndarray | None:
    """Share of the novelty pool in what the pipeline answers, in [0, 1], `(rows,)`; None where it has no pool."""
    pool = familiarity.pools.get(encoded.metric)
    if pool is None or encoded.metric not in familiarity.metrics:
        return None
    weights = []
    for code, item in zip(encoded.codes, encoded.inputs, strict=True):
        row = observe(code.text, code.language or "", code.context, item.code_ids)
        comparison = familiarity.compare(encoded.metric, code.language, row)
        weights.append(0.0 if comparison is None else pool.weight_at(comparison.familiarity))
    return np.array(weights)


def cut_by_bound(familiarity: Familiarity, encoded: EncodedRows, low: np.ndarray) -> np.ndarray:
    """Which rows have a lower bound above the low end of their intervals `(rows,)`, bool `(rows,)`."""
    bounds = [familiarity.lower_bound(encoded.metric, code.language, code.text) for code in encoded.codes]
    return np.array([bound is not None and end < bound for bound, end in zip(bounds, low, strict=True)])


def seen_text(row: dict) -> str:
    """What the baselines read of a row: its context as header lines, then its code, as the model does."""
    return "".join(f"# {line}\n" for line in row["context"]) + row["text"]


def predict_rows(
    model: RLMForConditionalGeneration,
    processor: RLMProcessor,
    rows: Dataset,
    metric: str,
    *,
    levels: Sequence[float] = LEVELS,
    batch_size: int = 32,
    calibrated: bool = True,
) -> Predictions:
    """Predicts one metric, asked for alone, for all rows that have it.

    Args:
        model, processor: The checkpoint.
        rows: A table in the schema.
        metric: Its name.
        levels: Of the quantiles; 0.5 among them.
        batch_size: Rows run together.
        calibrated: Use the checkpoint's calibration where it has one of the metric; the model's own quantiles are then
            returned beside.

    Returns:
        `Predictions` without baselines, in the order of the rows.
    """
    encoded = EncodedRows.of(rows, metric, processor)
    has_calibration = calibrated and model.config.fitted.calibration_of(metric) is not None

    # Layouts that write the exponent last have no exact quantiles.
    draws = None if model.codec.ordered_digits else QUANTILE_DRAWS

    def ask(memory: EncodedInputs, batch: np.ndarray) -> list[np.ndarray]:
        own = model.predict(memory, levels, metrics=[metric], draws=draws, calibrated=False).quantiles[:, 0]
        log_probs = model.log_prob(memory, encoded.written[batch], metrics=[metric])[:, 0]
        if not has_calibration:
            return [own, log_probs]
        return [own, log_probs, model.predict(memory, levels, metrics=[metric], calibrated=True).quantiles[:, 0]]

    began = time.perf_counter()
    found = encoded.run(model, processor, ask, batch_size)
    seconds = time.perf_counter() - began

    def by_level(array: np.ndarray) -> dict[float, np.ndarray]:
        return {level: array[:, k] for k, level in enumerate(levels)}

    answer = Predictions(
        target=encoded.target,
        written=encoded.written,
        median=found[0],
        groups=np.array(encoded.rows["group"]),
        languages=np.array(encoded.rows["language"]),
        truncated=encoded.truncated,
        smaller_is_better=model.config.metric(metric).smaller_is_better,
        out_of_range=int(encoded.saturated.sum()),
        seconds_per_row=seconds / len(encoded.target),
    )
    if len(found) == 1:  # a regression head: numbers, no distributions
        return answer
    own, log_probs, *calibrated_ones = found
    quantiles = by_level(calibrated_ones[0] if calibrated_ones else own)
    familiarity = model.config.fitted.familiarity
    return replace(
        answer,
        median=quantiles[0.5],
        quantiles=quantiles,
        uncalibrated=by_level(own) if has_calibration else {},
        log_probs=np.where(encoded.saturated, -np.inf, log_probs),
        unfamiliar=novelty_weights(familiarity, encoded) if has_calibration else None,
        bounded=cut_by_bound(familiarity, encoded, quantiles[min(levels)]) if has_calibration else None,
    )


__all__ = ["LEVELS", "EncodedRows", "measured", "predict_rows", "seen_text"]
