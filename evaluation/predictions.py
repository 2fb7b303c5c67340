"""What a checkpoint says of a table in the schema: exact quantiles, probabilities, log-probabilities, row by row."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from code_rlm.configuration_rlm import RLMConfig
from code_rlm.evaluation.report import Predictions
from code_rlm.evaluation.rows import measured
from code_rlm.evaluation.shards import map_shards
from code_rlm.generation_rlm import EncodedInputs
from code_rlm.inputs_rlm import CodeInput, encode_inputs
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.tokenization_rlm import RLMTokenizer

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
        input_ids: Token ids of each, unpadded.
        truncated: Whether a part of the text was left out, bool `(rows,)`.
    """

    metric: str
    rows: Dataset
    target: np.ndarray
    written: np.ndarray
    saturated: np.ndarray
    input_ids: list[list[int]]
    truncated: np.ndarray

    @classmethod
    def of(cls, rows: Dataset, metric: str, tokenizer: RLMTokenizer, config: RLMConfig) -> "EncodedRows":
        """Tokenises the rows that have the metric, asked for alone."""
        index, target = measured(rows, metric)
        chosen = rows.select(index)
        inputs = [CodeInput(r["text"], r["language"], tuple(r["context"]), f"row {i}") for i, r in zip(index, chosen)]
        limit = config.max_input_tokens_of(metric)
        encoded = encode_inputs(tokenizer, inputs, [(metric,)] * len(inputs), limit, config.templates)
        codes, saturated = tokenizer.encode_numbers(target, out_of_range="saturate", return_saturated=True)
        written, truncated = tokenizer.decode_numbers(codes), np.array(encoded.truncated_tokens) > 0
        return cls(metric, chosen, target, written, saturated, encoded.input_ids, truncated)

    def run(
        self,
        model: RLMForConditionalGeneration,
        tokenizer: RLMTokenizer,
        ask: Callable[[EncodedInputs, np.ndarray], Sequence[np.ndarray]],
        batch_size: int,
    ) -> list[np.ndarray]:
        """Runs the encoder over batches of like length, shared out over processes.

        Args:
            model, tokenizer: The checkpoint.
            ask: Given a batch's memory and its rows' numbers, returns arrays `(batch, ...)`. A checkpoint that answers with a
                regression head gives its answers alone, and nothing is asked.
            batch_size: Rows run together.

        Returns:
            The arrays of all batches joined, `(rows, ...)` each.
        """
        order = np.argsort([len(ids) for ids in self.input_ids], kind="stable")
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

        def work(batch: np.ndarray) -> Sequence[np.ndarray]:
            padded = tokenizer.pad({"input_ids": [self.input_ids[i] for i in batch]}, return_tensors="pt")
            inputs = {k: torch.as_tensor(padded[k]) for k in ("input_ids", "attention_mask")}
            return [model.regress(inputs)] if model.regression_head is not None else ask(model.encode(inputs), batch)

        back = np.argsort(order)
        return [np.concatenate(parts)[back] for parts in zip(*map_shards(work, batches), strict=True)]


def seen_text(row: dict) -> str:
    """What the baselines read of a row: its context as header lines, then its code, as the model does."""
    return "".join(f"# {line}\n" for line in row["context"]) + row["text"]


def predict_rows(
    model: RLMForConditionalGeneration,
    tokenizer: RLMTokenizer,
    rows: Dataset,
    metric: str,
    *,
    levels: Sequence[float] = LEVELS,
    batch_size: int = 32,
    calibrated: bool = True,
) -> Predictions:
    """Predicts one metric, asked for alone, for all rows that have it.

    Args:
        model, tokenizer: The checkpoint.
        rows: A table in the schema.
        metric: Its name.
        levels: Of the quantiles; 0.5 among them.
        batch_size: Rows run together.
        calibrated: Use the checkpoint's calibration where it has one of the metric; the model's own quantiles are then
            returned beside.

    Returns:
        `Predictions` without baselines, in the order of the rows.
    """
    encoded = EncodedRows.of(rows, metric, tokenizer, model.config)
    mended = calibrated and model.config.calibration_of(metric) is not None

    # Layouts that write the exponent last have no exact quantiles.
    draws = None if model.codec.ordered_digits else QUANTILE_DRAWS

    def ask(memory: EncodedInputs, batch: np.ndarray) -> list[np.ndarray]:
        own = model.predict(memory, levels, metrics=[metric], draws=draws).quantiles[:, 0]
        log_probs = model.log_prob(memory, encoded.written[batch], metrics=[metric])[:, 0]
        if not mended:
            return [own, log_probs]
        return [own, log_probs, model.predict(memory, levels, metrics=[metric], calibrated=True).quantiles[:, 0]]

    began = time.perf_counter()
    found = encoded.run(model, tokenizer, ask, batch_size)
    seconds = time.perf_counter() - began

    def by_level(array: np.ndarray) -> dict[float, np.ndarray]:
        return {level: array[:, k] for k, level in enumerate(levels)}

    if len(found) == 1:  # a regression head: numbers, no distributions
        answer = {"median": found[0]}
    else:
        own, log_probs, *calibrated_ones = found
        quantiles = by_level(calibrated_ones[0] if calibrated_ones else own)
        answer = {"median": quantiles[0.5], "quantiles": quantiles, "uncalibrated": by_level(own) if mended else {}}
        answer["log_probs"] = np.where(encoded.saturated, -np.inf, log_probs)
    return Predictions(
        target=encoded.target,
        written=encoded.written,
        **answer,
        groups=np.array(encoded.rows["group"]),
        languages=np.array(encoded.rows["language"]),
        truncated=encoded.truncated,
        smaller_is_better=model.config.metric(metric).smaller_is_better,
        out_of_range=int(encoded.saturated.sum()),
        seconds_per_row=seconds / len(encoded.target),
    )


__all__ = ["LEVELS", "EncodedRows", "measured", "predict_rows", "seen_text"]
