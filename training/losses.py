"""The loss of a training step: cross-entropy over the grammar's tokens, and optional losses beside it.

For cross-entropy a 9 in place of an 8 is as wrong as a 1. `digit_loss` is the Wasserstein-1 distance between the predicted
distribution and the label, position by position, so that near digits cost less. `ranking_loss` compares pairs of examples: the
larger number should have the larger expectation. `z_loss` keeps the logits' normaliser near one. `masked_token_loss` trains the
encoder to restore tokens that were hidden.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from torch import nn

from code_rlm.generation_rlm import NumberGrammar
from code_rlm.numbers_rlm import NumberCodec
from code_rlm.training.adapters import base_of
from code_rlm.training.options import TrainError, TrainOptions

IGNORE = -100


class Ordinals:
    """Order of the tokens of a number format.

    Attributes:
        scale: int `(vocabulary,)`: 0 no order, 1 digits, 2 exponents, 3 minus, zero, plus. Tokens of one scale compare.
        value: float `(vocabulary,)`: the digit, the exponent, or -1, 0, 1.
    """

    def __init__(self, codec: NumberCodec, device: torch.device | None = None):
        scale = torch.zeros(codec.vocab_size, dtype=torch.long)
        value = torch.zeros(codec.vocab_size)
        signs = {"<->": -1.0, "<zero>": 0.0, "<+>": 1.0}
        for token, index in codec.ids.items():
            inner = token[1:-1]
            if inner.isdigit():
                scale[index], value[index] = 1, float(inner)
            elif token in codec.exponents:
                scale[index], value[index] = 2, float(inner[1:])
            elif token in signs:
                scale[index], value[index] = 3, signs[token]
        self.scale, self.value = scale.to(device), value.to(device)


def digit_loss(logits: torch.Tensor, labels: torch.Tensor, grammar: NumberGrammar, ordinals: Ordinals) -> torch.Tensor:
    """Returns the sum over digit and exponent positions of the expected distance to the label, in digits and in decades.

    With a label that is certain, the Wasserstein-1 distance is `sum_t p(t) |t - label|` (the number token loss NTL-WAS of
    arXiv 2411.02083, equation 3; there over the digits of text, here over every ordered position of the code).

    Args:
        logits: `(batch, positions, vocabulary)`.
        labels: `(batch, positions)`; -100 is ignored.
        grammar: The tokens that are allowed at each position.
        ordinals: Their order.
    """
    tokens = labels.clamp_min(0)
    scale, value = ordinals.scale[tokens], ordinals.value[tokens]
    ordered = (labels != IGNORE) & ((scale == 1) | (scale == 2))
    probabilities = grammar.scores(logits, tokens)[ordered].softmax(-1)
    distance = (ordinals.value - value[ordered][:, None]).abs() * (ordinals.scale == scale[ordered][:, None])
    return (probabilities * distance).sum()


def ranking_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    metric: torch.Tensor,
    length: int,
    grammar: NumberGrammar,
    ordinals: Ordinals,
) -> torch.Tensor:
    """Returns the mean over pairs of examples of the logistic loss of their order (RankNet, Burges et al., ICML 2005).

    Two codes of the ordered format agree up to some position and are ordered by the token there. At that position both
    examples have read the same prefix, so their expected tokens compare: they are the expectation of the decoded number to the
    first digit in which the pair differs. Only the first number of each example counts; later ones have read earlier answers.

    Args:
        logits: `(batch, positions, vocabulary)`.
        labels: `(batch, positions)`.
        metric: Which metric each example's first number is, int64 `(batch,)`; only equal ones are compared.
        length: Tokens in a number.
        grammar: The tokens that are allowed at each position.
        ordinals: Their order.

    Returns:
        A scalar; zero where no two examples compare.
    """
    codes, logits = labels[:, :length], logits[:, :length]
    scale, value = ordinals.scale[codes.clamp_min(0)], ordinals.value[codes.clamp_min(0)]
    probabilities = grammar.scores(logits, codes.clamp_min(0)).softmax(-1)
    same_scale = ordinals.scale == scale[..., None]
    expected = (probabilities * same_scale * ordinals.value).sum(-1)
    differs = codes[:, None] != codes[None]
    first = differs.int().argmax(-1)

    def at_first(values: torch.Tensor) -> torch.Tensor:
        """Returns values `(batch, positions)` of the row's example at the first position that differs from the column's."""
        return values.gather(1, first)

    comparable = differs.any(-1) & (metric[:, None] == metric[None]) & (codes[:, 0] != IGNORE)[:, None]
    comparable &= (at_first(scale) > 0) & (at_first(scale).T > 0)
    comparable &= torch.ones_like(comparable).triu(1)
    # Below zero a larger exponent or digit is a smaller number.
    direction = torch.where((value[:, 0] < 0)[:, None] & (first > 0), -1.0, 1.0)
    gap = (at_first(expected) - at_first(expected).T) * direction
    truth = (at_first(value) - at_first(value).T).sign() * direction
    losses = F.softplus(-gap * truth)[comparable]
    return losses.sum() / max(1, losses.numel())


def z_loss(logits: torch.Tensor, labels: torch.Tensor, grammar: NumberGrammar) -> torch.Tensor:
    """Returns the sum over label positions of the squared logarithm of the softmax's normaliser over the allowed tokens.

    With a small weight it keeps logits from drifting, which low precision suffers from (PaLM, arXiv 2204.02311, section 5).

    Args:
        logits: `(batch, positions, vocabulary)`.
        labels: `(batch, positions)`; -100 is ignored.
        grammar: The tokens that are allowed at each position.
    """
    scores = grammar.scores(logits, labels.clamp_min(0))[labels != IGNORE]
    return scores.float().logsumexp(-1).square().sum()


def masked_token_loss(memory: torch.Tensor, embeddings: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Returns the summed cross-entropy of hidden tokens, predicted from the encoder's states at their positions.

    A masked language model whose output layer is the token embeddings (arXiv 1810.04805, section 3.1, with weights tied as in
    arXiv 1608.05859): nothing is added to the model. Spans instead of tokens as in SpanBERT (arXiv 1907.10529).

    Args:
        memory: What the decoder reads `(batch, at least length, size)`, positions of the text first.
        embeddings: `(vocabulary, size)`.
        hidden: The token of each hidden position, -100 elsewhere `(batch, length)`.
    """
    masked = hidden != IGNORE
    logits = memory[:, : hidden.shape[1]][masked].float() @ embeddings.float().T
    return F.cross_entropy(logits, hidden[masked], reduction="sum")


class Objective:
    """The loss of a batch's share, scaled so that the shares of all processes and batches of a step add up to its mean."""

    def __init__(self, options: TrainOptions, codec: NumberCodec, device: torch.device):
        if options.losses.ranking and not codec.ordered:
            raise TrainError(
                "ranking_loss needs the 'ordered' number format, whose tokens come in order of significance; this model "
                f"writes {codec.format.layout!r}."
            )
        self.weights = options.losses
        self.codec = codec
        self.grammar = NumberGrammar(codec)
        self.ordinals = Ordinals(codec, device)

    def __call__(
        self, model: nn.Module, batch: Mapping[str, torch.Tensor], num_items: int, num_hidden: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the loss, and the parts of it that are logged, `(2,)`: of numbers and of hidden tokens, in nats.

        Args:
            model: Takes the batch as keywords.
            batch: Tensors, `labels` among them.
            num_items: Labels in the whole step, over all batches and processes.
            num_hidden: Hidden tokens in the whole step.
        """
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("first_metric", "hidden")}
        output = model(**inputs, num_items_in_batch=num_items)
        loss, restored = output.loss, torch.zeros_like(output.loss)
        if self.weights.digits:
            distance = digit_loss(output.logits, batch["labels"], self.grammar, self.ordinals)
            loss = loss + self.weights.digits * distance / num_items
        if self.weights.ranking:
            share = int((batch["labels"] != IGNORE).sum()) / num_items
            pairs = ranking_loss(
                output.logits,
                batch["labels"],
                batch["first_metric"],
                self.codec.length,
                self.grammar,
                self.ordinals,
            )
            loss = loss + self.weights.ranking * share * pairs
        if self.weights.z:
            loss = loss + self.weights.z * z_loss(output.logits, batch["labels"], self.grammar) / num_items
        if self.weights.masked_tokens:
            embeddings: Any = base_of(extract_model_from_parallel(model)).get_input_embeddings()
            restored = masked_token_loss(output.encoder_last_hidden_state, embeddings.weight, batch["hidden"])
            restored = restored / max(1, num_hidden)
            loss = loss + self.weights.masked_tokens * restored
        return loss, torch.stack([output.loss, restored]).detach()


def count_labels(batch: Mapping[str, torch.Tensor], name: str = "labels") -> int:
    """Returns the number of labels in a batch: of numbers, or of `hidden` tokens."""
    return int((batch[name] != IGNORE).sum()) if name in batch else 0


__all__ = ["Objective", "Ordinals", "count_labels", "digit_loss", "masked_token_loss", "ranking_loss", "z_loss"]
