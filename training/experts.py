"""Fits the experts of a checkpoint (`expert_rlm.py`) on rows held out from training.

For each metric with a lexical channel the spread of the scores' errors and the two powers of the pool are chosen from a small
grid by the mean log-probability of the held-out values, each group weighing the same. An expert stays where that gain over the
decoder alone is larger than its standard error over groups; with many groups any gain will do, as an expert also guards against
answers that are wrong by orders of magnitude, which are too rare for a sample to show.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from code_rlm.data.mixture import Mixture, Source
from code_rlm.expert_rlm import LexicalExpert, token_cells
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import is_failed

OWN_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
SPREADS = (0.6, 0.8, 1.0, 1.3)  # of the logistic distribution that fits the scores' errors
MOST_ROWS = 1000
LEAST_GROUPS = 5
MANY_GROUPS = 100
_BATCH = 32


@dataclass
class Evidence:
    """What the decoder and the path say of held-out rows of one metric.

    Attributes:
        log_probs: The decoder's at each place of the true number, float64 `(rows, places, vocabulary)`.
        codes: The true number, int `(rows, places)`.
        low, high, finite: See `expert_rlm.token_cells`, `(rows, places, vocabulary)`; the ends on the channel's scale.
        scores: The path's, `(rows,)`.
        truth: The true values on the channel's scale, `(rows,)`.
        groups: Name of each row's group `(rows,)`.
    """

    log_probs: np.ndarray
    codes: np.ndarray
    low: np.ndarray
    high: np.ndarray
    finite: np.ndarray
    scores: np.ndarray
    truth: np.ndarray
    groups: np.ndarray

    def log_likelihood(self, expert: LexicalExpert | None) -> np.ndarray:
        """Log-probability of each true number, float64 `(rows,)`."""
        rows, places, vocabulary = self.log_probs.shape
        log_probs = self.log_probs
        if expert is not None:
            masses = expert.masses(self.low, self.high, self.scores[:, None, None])
            flat = [a.reshape(rows * places, vocabulary) for a in (log_probs, masses, self.finite)]
            log_probs = expert.pool(*flat).reshape(log_probs.shape)
        return np.take_along_axis(log_probs, self.codes[..., None], 2)[..., 0].sum(1)


def fit_experts(
    model: RLMForConditionalGeneration,
    sources: Sequence[Source],
    mixture: Mixture,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Gives the model's config an expert for every metric that it serves better than the decoder alone.

    Experts of metrics that no source has stay as they are.

    Args:
        model: With a lexical path; otherwise nothing happens.
        sources: Rows held out from training, with the path's scores.
        mixture: Builds the inputs, as in training.
        say: Told what each metric gains.
    """
    if model.lexical is None or not model.codec.ordered_digits:
        return
    settings = model.lexical.settings
    experts = dict(model.config.experts or {})
    for metric, scale in zip(settings.channels, settings.scales, strict=True):
        held = [source for source in sources if metric in source.metrics and source.lexical_scores is not None]
        if scale is None or not held:
            continue
        experts.pop(metric, None)
        evidence = gather(model, held, mixture, metric)
        groups = len(np.unique(evidence.groups))
        if groups < LEAST_GROUPS:
            say(f"expert: {metric} has {groups} groups to validate on, none fitted")
            continue
        expert, gain, error = best_expert(evidence)
        kept = expert.power > 0 and (gain > error or (groups >= MANY_GROUPS and gain > 0))
        if kept:
            experts[metric] = expert.to_dict()
        say(
            f"expert: {metric}, {len(evidence.codes)} rows in {groups} groups, gains {gain:.3f} nats (+- {error:.3f}) with "
            f"powers {expert.own_power:g} and {expert.power:g}" + ("" if kept else ": left out")
        )
    model.config.experts = experts


def gather(model: RLMForConditionalGeneration, sources: Sequence[Source], mixture: Mixture, metric: str) -> Evidence:
    """Asks the decoder about at most `MOST_ROWS` rows of the sources, each for this metric alone."""
    whole = replace(mixture, max_tokens=model.config.max_input_tokens)
    channel, scale = model.lexical.settings.channels.index(metric), model.lexical.settings.scale_of(metric)
    chosen = []
    for source in sources:
        column = source.metrics.index(metric)
        values = source.values[:, column]
        usable = np.flatnonzero(source.present[:, column] & np.isfinite(values) & ~is_failed(values))
        chosen += [(source, int(row), column) for row in usable]
    if len(chosen) > MOST_ROWS:
        chosen = [chosen[i] for i in np.random.default_rng(0).permutation(len(chosen))[:MOST_ROWS]]
    items = [whole.build(source, row, [column]) for source, row, column in chosen]
    codes = np.stack([source.codes[row, column] for source, row, column in chosen])
    logits = np.empty((*codes.shape, model.codec.vocab_size))
    order = np.argsort([len(item.ids) for item in items], kind="stable")
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        logits[part] = model.place_logits(whole.collate([items[i] for i in part]), codes[part])
    states = model.codec.states(codes)[:, :-1]
    scores = np.where(model.codec.allowed[states], logits, -np.inf)
    scores -= scores.max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        log_probs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    cells = [token_cells(model.codec, codes[:, :place], states[:, place]) for place in range(codes.shape[1])]
    low, high, finite = (np.stack(parts, 1) for parts in zip(*cells, strict=True))
    return Evidence(
        log_probs,
        codes,
        scale.score(low),
        scale.score(high),
        finite,
        scores=np.array([source.lexical_scores[row, channel] for source, row, _ in chosen], dtype=np.float64),
        truth=scale.score(np.array([source.values[row, column] for source, row, column in chosen])),
        groups=np.array([source.groups[row] for source, row, _ in chosen]),
    )


def best_expert(evidence: Evidence) -> tuple[LexicalExpert, float, float]:
    """The expert of the highest mean log-likelihood, its gain over the decoder alone and that gain's standard error."""
    errors = np.abs(evidence.truth - evidence.scores)
    middle = max(float(np.median(errors)) / np.log(3), 1e-4)  # the median of |x| of a standard logistic x is log 3
    _, group = np.unique(evidence.groups, return_inverse=True)
    counts = np.bincount(group)

    def by_group(expert: LexicalExpert | None) -> np.ndarray:
        return np.bincount(group, evidence.log_likelihood(expert)) / counts

    alone = by_group(None)
    best, found = None, -np.inf
    for spread in SPREADS:
        for own_power in OWN_POWERS:
            for power in POWERS:
                if own_power + power == 0:
                    continue
                expert = LexicalExpert(middle * spread, own_power, power, rows=len(group), groups=len(counts))
                mean = float(by_group(expert).mean())
                if mean > found:
                    best, found = expert, mean
    gains = by_group(best) - alone
    return best, float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))


__all__ = ["Evidence", "best_expert", "fit_experts", "gather"]
