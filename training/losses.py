"""What a step minimises: cross-entropy over the grammar's tokens, and beside it, where asked for, two losses that know order.

Cross-entropy takes a 9 in place of an 8 for as wrong as a 1. `digit_loss` does not: the Wasserstein-1 distance between the
predicted distribution and the label, place by place. `ranking_loss` looks at pairs of examples and asks only that the larger
number be expected to be larger. `restore_loss` is not about numbers: the encoder is to tell which tokens were hidden from it.
"""

from collections.abc import Mapping

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
    """Which tokens of a number format have an order among themselves, and what it is.

    Attributes:
        kind: int `(vocabulary,)`: 0 none, 1 digits, 2 exponents, 3 minus, zero, plus.
        place: float `(vocabulary,)`: the digit, the exponent, or -1, 0, 1.
    """

    def __init__(self, codec: NumberCodec, device: torch.device | None = None):
        kind, place = torch.zeros(codec.vocab_size, dtype=torch.long), torch.zeros(codec.vocab_size)
        signs = {"<->": -1.0, "<zero>": 0.0, "<+>": 1.0}
        for token, index in codec.ids.items():
            inner = token[1:-1]
            if inner.isdigit():
                kind[index], place[index] = 1, float(inner)
            elif token in codec.exponents:
                kind[index], place[index] = 2, float(inner[1:])
            elif token in signs:
                kind[index], place[index] = 3, signs[token]
        self.kind, self.place = kind.to(device), place.to(device)


def digit_loss(logits: torch.Tensor, labels: torch.Tensor, grammar: NumberGrammar, ordinals: Ordinals) -> torch.Tensor:
    """Sum over digit and exponent places of the expected distance to the label, in digits and in decades.

    With a label that is certain, the Wasserstein-1 distance is `sum_t p(t) |t - label|` (the number token loss NTL-WAS of
    arXiv 2411.02083, equation 3; there over the digits of text, here over every ordered place of the code).

    Args:
        logits: `(batch, places, vocabulary)`.
        labels: `(batch, places)`; -100 is ignored.
        grammar: Which tokens can stand at each place.
        ordinals: Their order.
    """
    tokens = labels.clamp_min(0)
    kind, place = ordinals.kind[tokens], ordinals.place[tokens]
    ordered = (labels != IGNORE) & ((kind == 1) | (kind == 2))
    probabilities = grammar.scores(logits, tokens)[ordered].softmax(-1)
    distance = (ordinals.place - place[ordered][:, None]).abs() * (ordinals.kind == kind[ordered][:, None])
    return (probabilities * distance).sum()


def ranking_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    metric: torch.Tensor,
    length: int,
    grammar: NumberGrammar,
    ordinals: Ordinals,
) -> torch.Tensor:
    """Mean over pairs of examples of the logistic loss of their order (RankNet, Burges et al., ICML 2005).

    Two codes of the ordered format agree up to some place and are ordered by the token there. At that place both examples
    have read the same prefix, so their expected tokens there compare without either having seen more of its answer; this
    is the expectation of the decoded number, pair by pair, to the first digit in which the pair differs. Only the first
    number of each example counts, as later ones have read earlier answers.

    Args:
        logits: `(batch, places, vocabulary)`.
        labels: `(batch, places)`.
        metric: Which metric each example's first number is, int64 `(batch,)`; only equal ones are compared.
        length: Tokens in a number.
        grammar: Which tokens can stand at each place.
        ordinals: Their order.

    Returns:
        A scalar; zero where no two examples compare.
    """
    codes, logits = labels[:, :length], logits[:, :length]
    kind, place = ordinals.kind[codes.clamp_min(0)], ordinals.place[codes.clamp_min(0)]
    probabilities = grammar.scores(logits, codes.clamp_min(0)).softmax(-1)
    same_kind = ordinals.kind == kind[..., None]
    expected = (probabilities * same_kind * ordinals.place).sum(-1)
    differs = codes[:, None] != codes[None]
    first = differs.int().argmax(-1)

    def at_first(values: torch.Tensor) -> torch.Tensor:
        """Values `(batch, places)` of the row's example at the place where it parts from the column's."""
        return values.gather(1, first)

    comparable = differs.any(-1) & (metric[:, None] == metric[None]) & (codes[:, 0] != IGNORE)[:, None]
    comparable &= (at_first(kind) > 0) & (at_first(kind).T > 0)
    comparable &= torch.ones_like(comparable).triu(1)
    # Below zero a larger exponent or digit is a smaller number.
    direction = torch.where((place[:, 0] < 0)[:, None] & (first > 0), -1.0, 1.0)
    gap = (at_first(expected) - at_first(expected).T) * direction
    truth = (at_first(place) - at_first(place).T).sign() * direction
    losses = F.softplus(-gap * truth)[comparable]
    return losses.sum() / max(1, losses.numel())


def restore_loss(memory: torch.Tensor, embeddings: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy of hidden tokens by what the encoder makes of their places.

    A masked language model whose output layer is the token embeddings (arXiv 1810.04805, section 3.1, with weights tied as in
    arXiv 1608.05859): nothing is added to the model. Spans instead of tokens as in SpanBERT (arXiv 1907.10529).

    Args:
        memory: What the decoder reads `(batch, at least length, size)`, places of the text first.
        embeddings: `(vocabulary, size)`.
        hidden: The token of each hidden place, -100 elsewhere `(batch, length)`.
    """
    places = hidden != IGNORE
    logits = memory[:, : hidden.shape[1]][places].float() @ embeddings.float().T
    return F.cross_entropy(logits, hidden[places], reduction="sum")


class Objective:
    """The loss of a batch's share, so scaled that the shares of all processes and batches of a step add up to its mean."""

    def __init__(self, options: TrainOptions, codec: NumberCodec, device: torch.device):
        if options.ranking_loss and not codec.ordered:
            raise TrainError(
                "ranking_loss needs the 'ordered' number format, whose tokens come in order of significance; this model "
                f"writes {codec.format.layout!r}."
            )
        self.digits, self.ranking, self.restoring = options.digit_loss, options.ranking_loss, options.restore_loss
        self.codec, self.grammar, self.ordinals = codec, NumberGrammar(codec), Ordinals(codec, device)

    def __call__(
        self, model: nn.Module, batch: Mapping[str, torch.Tensor], num_items: int, num_hidden: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss to go backward from, and the parts of it that are logged, `(2,)`: of numbers and of hidden tokens, in nats.

        Args:
            model: Takes the batch as keywords.
            batch: Tensors, `labels` among them.
            num_items: Labels in the whole step, over all batches and processes.
            num_hidden: Hidden tokens in the whole step.
        """
        inputs = dict(batch)
        metric, hidden = inputs.pop("first_metric", None), inputs.pop("hidden", None)
        output = model(**inputs, num_items_in_batch=num_items)
        loss, restored = output.loss, torch.zeros_like(output.loss)
        if self.digits:
            loss = (
                loss + self.digits * digit_loss(output.logits, batch["labels"], self.grammar, self.ordinals) / num_items
            )
        if self.ranking:
            share = int((batch["labels"] != IGNORE).sum()) / num_items
            pairs = ranking_loss(output.logits, batch["labels"], metric, self.codec.length, self.grammar, self.ordinals)
            loss = loss + self.ranking * share * pairs
        if self.restoring:
            embeddings = base_of(extract_model_from_parallel(model)).get_input_embeddings().weight
            restored = restore_loss(output.encoder_last_hidden_state, embeddings, hidden) / max(1, num_hidden)
            loss = loss + self.restoring * restored
        return loss, torch.stack([output.loss, restored]).detach()


def count_labels(batch: Mapping[str, torch.Tensor], name: str = "labels") -> int:
    """Labels of a batch that count: of numbers, or of `hidden` tokens."""
    return int((batch[name] != IGNORE).sum()) if name in batch else 0


__all__ = ["Objective", "Ordinals", "count_labels", "digit_loss", "ranking_loss", "restore_loss"]
