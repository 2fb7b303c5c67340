"""RLMTokenizer: byte-level BPE in, numbers out.

Text: lossless on whitespace, digits one by one, special tokens `<pad>` 0, `<eos>` 1, `<mask>` 2, `<cut>` 3. Numbers: the
exact codec of `numbers_rlm`, in the format that the tokenizer was saved with. Trained by `data/train_tokenizer.py`. The class
only adds the numbers, so it holds the text tokenizer of a published checkpoint as well (`hub/convert.py`).
"""

from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerFast

from .numbers_rlm import NumberCodec, NumberFormat


class RLMTokenizer(PreTrainedTokenizerFast):
    """Reads code and writes numbers.

    A subclass without `__init__`: one that defines it reloads silently wrong. The number format is the `number_format` entry of
    `tokenizer_config.json`. `input_layout`, where that has one, says how a text's token ids become an input
    (`processing_rlm.InputLayout`): `start` and `end`, ids around it, and `keep`, `head` or `ends`, what stays of a long one.
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    @property
    def codec(self) -> NumberCodec:
        """The number codec of this tokenizer's format."""
        cached = self.__dict__.get("_codec")
        if cached is None:
            cached = self.__dict__["_codec"] = NumberCodec(
                NumberFormat(**(self.init_kwargs.get("number_format") or {}))
            )
        return cached

    def encode_numbers(
        self, values: Any, *, out_of_range: Literal["error", "saturate"] = "error", return_saturated: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Number tokens int64 `(..., codec.length)` of numbers of any shape; see `NumberCodec.encode`."""
        return self.codec.encode(values, out_of_range=out_of_range, return_saturated=return_saturated)

    def decode_numbers(self, ids: Any) -> np.ndarray:
        """float64 `(...)` of number tokens `(..., codec.length)`; see `NumberCodec.decode`."""
        return self.codec.decode(ids)


RLMTokenizer.register_for_auto_class("AutoTokenizer")

__all__ = ["RLMTokenizer"]
