"""Fits the experts of a checkpoint (`expert_rlm.py`) on rows held out from training.

For each metric with a lexical channel the spread of the scores' errors and the two powers of the pool are chosen from a small
grid by the mean log-probability of the held-out values, each group weighing the same. An expert stays where that gain over the
decoder alone is larger than its standard error over groups; with many groups any gain will do. Where none stays there is a
guard, an expert too wide to say which of two likely answers is right. It makes answers that are wrong by orders of magnitude,
in another metric's unit for one, some twenty times less likely; they are too rare for a sample to show.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from code_rlm.data.mixture import Mixture, Source
from code_rlm.expert_rlm import LexicalExpert, token_cells
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.training.lexical import usable_rows

OWN_POWERS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
POWERS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25)
SPREADS = (0.4, 0.6, 0.8, 1.0, 1.3)  # of the logistic distribution that fits the scores' errors
GUARD = {"own_power": 1.0, "power": 0.25}
GUARD_SPREAD = 3.0
MOST_COST = 0.02  # nats that a guard may cost
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
        if not any(len(usable_rows(source, metric)) for source in held):
            say(f"expert: {metric} has no finite values to validate on, none fitted")
            continue
        evidence = gather(model, held, mixture, metric)
        groups = len(np.unique(evidence.groups))
        if groups < LEAST_GROUPS:
            say(f"expert: {metric} has {groups} groups to validate on, none fitted")
            continue
        found = best_expert(evidence)
        kept = found.expert.power > 0 and (found.gain > found.error or (groups >= MANY_GROUPS and found.gain > 0))
        note = ""
        if not kept:
            found, note = guard(evidence), ", a guard"
            kept = found.gain > -MOST_COST
        if kept:
            experts[metric] = found.expert.to_dict()
        say(
            f"expert: {metric}, {len(evidence.codes)} rows in {groups} groups, gains {found.gain:.3f} nats (+- "
            f"{found.error:.3f}) with powers {found.expert.own_power:g} and {found.expert.power:g}{note}"
            + ("" if kept else ": left out")
        )
    model.config.experts = experts


def gather(model: RLMForConditionalGeneration, sources: Sequence[Source], mixture: Mixture, metric: str) -> Evidence:
    """Asks the decoder about at most `MOST_ROWS` rows of the sources, each for this metric alone."""
    whole = replace(mixture, max_tokens=model.config.max_input_tokens)
    channel, scale = model.lexical.settings.channels.index(metric), model.lexical.settings.scale_of(metric)
    chosen = []
    for source in sources:
        column = source.metrics.index(metric)
        chosen += [(source, int(row), column) for row in usable_rows(source, metric)]
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


@dataclass
class Judged:
    """An expert, its gain over the decoder alone in nats, and that gain's standard error over groups."""

    expert: LexicalExpert
    gain: float
    error: float


def best_expert(evidence: Evidence) -> Judged:
    """The expert of the highest mean log-likelihood."""
    middle = _spread(evidence)
    tried = [
        LexicalExpert(middle * spread, own_power, power)
        for spread in SPREADS
        for own_power in OWN_POWERS
        for power in POWERS
        if own_power + power > 0
    ]
    return judge(evidence, max(tried, key=lambda expert: _by_group(evidence, expert).mean()))


def guard(evidence: Evidence) -> Judged:
    """An expert that speaks only where an answer is far off."""
    return judge(evidence, LexicalExpert(GUARD_SPREAD * _spread(evidence), **GUARD))


def judge(evidence: Evidence, expert: LexicalExpert) -> Judged:
    """What an expert is worth."""
    gains = _by_group(evidence, expert) - _by_group(evidence, None)
    expert = replace(expert, rows=len(evidence.codes), groups=len(gains))
    return Judged(expert, float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains))))


def _by_group(evidence: Evidence, expert: LexicalExpert | None) -> np.ndarray:
    """Mean log-likelihood of each group's values."""
    _, group = np.unique(evidence.groups, return_inverse=True)
    return np.bincount(group, evidence.log_likelihood(expert)) / np.bincount(group)


def _spread(evidence: Evidence) -> float:
    """Scale of the logistic distribution that has the scores' median error."""
    errors = np.abs(evidence.truth - evidence.scores)
    errors = errors[np.isfinite(errors)]  # no score stands for a value of 0 where logarithms were fitted
    if not len(errors):
        return 1.0
    return max(float(np.median(errors)) / np.log(3), 1e-4)  # the median of |x| of a standard logistic x is log 3


__all__ = ["Evidence", "Judged", "best_expert", "fit_experts", "gather", "guard", "judge"]
