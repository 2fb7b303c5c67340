"""What a checkpoint says of a table in the schema: exact quantiles and log-probabilities, row by row."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset

from code_rlm.evaluation.report import Predictions
from code_rlm.inputs_rlm import CodeInput, encode_inputs
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.tokenization_rlm import RLMTokenizer

# Central intervals of 50, 80, 90 and 95%, and the median.
LEVELS = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)


def measured(rows: Dataset, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rows that have a finite value of the metric, and the values."""
    index, values = [], []
    for i, (names, numbers) in enumerate(zip(rows["metrics"], rows["values"], strict=True)):
        if metric in names and numbers[names.index(metric)] is not None:
            index.append(i)
            values.append(numbers[names.index(metric)])
    return np.array(index, dtype=np.int64), np.array(values, dtype=np.float64)


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
) -> Predictions:
    """Predicts one metric, asked for alone, for all rows that have it.

    Returns:
        `Predictions` without baselines, in the order of the rows.
    """
    index, target = measured(rows, metric)
    chosen = rows.select(index)
    inputs = [CodeInput(r["text"], r["language"], tuple(r["context"]), f"row {i}") for i, r in zip(index, chosen)]
    config = model.config
    encoded = encode_inputs(
        tokenizer, inputs, [(metric,)] * len(inputs), config.max_input_tokens_of(metric), config.templates
    )
    order = np.argsort([len(ids) for ids in encoded.input_ids], kind="stable")
    quantiles, log_probs = np.empty((len(inputs), len(levels))), np.empty(len(inputs))
    codes, saturated = tokenizer.encode_numbers(target, out_of_range="saturate", return_saturated=True)
    written = tokenizer.decode_numbers(codes)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        padded = tokenizer.pad({"input_ids": [encoded.input_ids[i] for i in batch]}, return_tensors="pt")
        memory = model.encode({k: torch.as_tensor(padded[k]) for k in ("input_ids", "attention_mask")})
        quantiles[batch] = model.predict(memory, levels, metrics=[metric]).quantiles[:, 0]
        log_probs[batch] = model.log_prob(memory, written[batch], metrics=[metric])[:, 0]
    return Predictions(
        target=target,
        median=quantiles[:, list(levels).index(0.5)],
        quantiles={level: quantiles[:, k] for k, level in enumerate(levels)},
        groups=np.array(chosen["group"]),
        truncated=np.array(encoded.truncated_tokens) > 0,
        log_probs=np.where(saturated, -np.inf, log_probs) if saturated.any() else log_probs,
    )


__all__ = ["LEVELS", "measured", "predict_rows", "seen_text"]
