"""Encodes held-out rows for the fits that ask about them in turn: pooling first, then calibration.

The encoder is most of what such a fit costs. Each batch is read once and kept, as far as memory allows. Where the pooling
component of a metric leaves the decoder no weight, the text is not read at all: only the ensemble's scores count then, and the
decoder enters P(y < t) by the component's floor alone (`PoolingComponent.floor`, one millionth).
"""

from collections.abc import Sequence

import torch

from code_rlm.generation_rlm import EncodedInputs
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.processing_rlm import EncodedInput, RLMProcessor

BATCH = 16  # rows that run together; the same in all fits, so that they ask for the same batches
MOST_BYTES = 1 << 30  # of memory keys and values that are kept


class RowEncoder:
    """Encodes batches of rows, each once.

    Args:
        model, processor: The checkpoint. Its weights stay as they are while this is used.
        most_bytes: Of what is kept; batches beyond are encoded again when they are asked for again.
    """

    def __init__(self, model: RLMForConditionalGeneration, processor: RLMProcessor, most_bytes: int = MOST_BYTES):
        self.model, self.processor = model, processor
        self._room = most_bytes
        self._kept: dict[tuple[tuple[int, ...], ...], EncodedInputs] = {}

    def __call__(self, items: Sequence[EncodedInput], metric: str) -> EncodedInputs:
        """Returns rows that ask for a metric alone, encoded with as much as its distribution depends on."""
        return self.scores_alone(items) if self.ignores_text(metric) else self.whole(items)

    def ignores_text(self, metric: str) -> bool:
        """Returns whether the distribution of a metric depends on the ensemble's scores alone."""
        component = self.model.config.fitted.pooling_of(metric)
        has_scores = self.processor.feature_extractor is not None and self.model.ensemble is not None
        return has_scores and component is not None and component.decoder_weight == 0

    def whole(self, items: Sequence[EncodedInput]) -> EncodedInputs:
        """Returns rows encoded with their text."""
        key = tuple(tuple(item.input_ids) for item in items)
        if (known := self._kept.get(key)) is not None:
            return known
        encoded = self.model.encode(self.processor.collate(items))
        size = sum(tensor.nbytes for layer in encoded.memory for tensor in layer)
        if size <= self._room:
            self._room -= size
            self._kept[key] = encoded
        return encoded

    def scores_alone(self, items: Sequence[EncodedInput]) -> EncodedInputs:
        """Returns rows encoded with the ensemble's scores, and of their text the first token alone."""
        inputs = dict(self.processor.collate(items))
        first = inputs["input_ids"][:, :1]
        return self.model.encode({**inputs, "input_ids": first, "attention_mask": torch.ones_like(first)})


__all__ = ["BATCH", "RowEncoder"]
