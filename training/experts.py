"""Fits the experts of a checkpoint (`expert_rlm.py`) on rows held out from training.

For each metric with a lexical channel the spread of the scores' errors and the two powers of the pool are chosen from a small
grid by the mean continuous ranked probability score (CRPS, Gneiting and Raftery 2007, JASA 102) on the channel's scale, each
group weighing the same. A number's log-probability would mind its last digit as much as its first: of programs measured to the
byte it prefers a decoder that knows common byte counts by heart to scores that know which program takes more. An expert stays
where its gain over the decoder alone is larger than its standard error over groups; with many groups any gain will do. Where
none stays there is a guard, an expert too wide to say which of two likely answers is right. It makes answers that are wrong by
orders of magnitude, in another metric's unit for one, some twenty times less likely; they are too rare for a sample to show.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from code_rlm.data.mixture import Mixture, Source
from code_rlm.expert_rlm import LexicalExpert, token_cells
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.training.lexical import logistic_scale, usable_rows

OWN_POWERS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
POWERS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25)
SPREADS = (0.4, 0.6, 0.8, 1.0, 1.3)  # of the logistic distribution that fits the scores' errors
# At which distances from the truth and from the score a distribution is looked at, in spreads; they go on doubling, to FAR.
REACHES = (0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.5, *(4.5 * 2.0**k for k in range(1, 11)))
FAR = 8.0  # on the scale of normal scores; what lies farther out is counted as if it lay there
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
        errors: How far these may be from the truth, as the path knows it, `(rows,)`.
        truth: The true values on the channel's scale, `(rows,)`.
        groups: Name of each row's group `(rows,)`.
    """

    log_probs: np.ndarray
    codes: np.ndarray
    low: np.ndarray
    high: np.ndarray
    finite: np.ndarray
    scores: np.ndarray
    errors: np.ndarray
    truth: np.ndarray
    groups: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "Evidence":
        return Evidence(*(getattr(self, each.name)[rows] for each in fields(self)))

    def log_likelihood(self, expert: LexicalExpert | None) -> np.ndarray:
        """Log-probability of each true number, float64 `(rows,)`."""
        return np.take_along_axis(self._pooled(expert), self.codes[..., None], 2)[..., 0].sum(1)

    def _pooled(self, expert: LexicalExpert | None) -> np.ndarray:
        """Log-probabilities at each place of the true number, `(rows, places, vocabulary)`."""
        if expert is None:
            return self.log_probs
        rows, places, vocabulary = self.log_probs.shape
        masses = expert.masses(self.low, self.high, self.scores[:, None, None], self.errors[:, None, None])
        flat = [a.reshape(rows * places, vocabulary) for a in (self.log_probs, masses, self.finite)]
        return expert.pool(*flat).reshape(self.log_probs.shape)

    def crps(self, expert: LexicalExpert | None, ruler: "Ruler") -> np.ndarray:
        """CRPS of each row's distribution on the channel's scale, float64 `(rows,)`; the less the better.

        The tokens beside each token of the true number divide all other numbers into cells, whose masses are exact; where in
        its cell a number lies is the ruler's guess.
        """
        log_probs = self._pooled(expert)
        true = np.take_along_axis(log_probs, self.codes[..., None], 2)
        before = np.cumsum(true, 1) - true
        masses = np.where(ruler.cells, np.exp(before + log_probs), 0.0).reshape(len(self.codes), -1)
        masses = np.take_along_axis(masses, ruler.order, 1)
        # A decoder may be sure that there is no number at all: then nothing is reached.
        reached = np.einsum("rc,rcp->rp", masses, ruler.share) / np.maximum(masses.sum(1, keepdims=True), 1e-300)
        # Up to the truth all that is reached is wrong, beyond it all that is not.
        wrong = np.where(ruler.beyond, 1 - reached, reached) ** 2
        first = np.where(ruler.beyond[:, 1:], 1 - reached[:, :-1], reached[:, :-1]) ** 2  # a step lies on one side
        return ((first + wrong[:, 1:]) / 2 * np.diff(ruler.points, axis=1)).sum(1)


class Ruler:
    """Points about the true values and the scores, and what share of each cell's numbers lies below each.

    Inside a cell numbers are taken to lie as a logistic distribution about the score has them: of a cell of tens, the score
    says which end.

    Args:
        evidence: The rows.
        spread: Of that distribution, in units of the errors.

    Attributes:
        points: `(rows, points)` on the channel's scale, rising; the truth is one of them.
        beyond: Which lie beyond the truth, bool `(rows, points)`.
        cells: Which tokens at which places are cells, bool `(rows, places, vocabulary)`: finite ones beside the true number's,
            and its last.
        order: Their numbers among all `places * vocabulary`, some others behind them where a row has fewer, `(rows, cells)`.
        share: `(rows, cells, points)`.
    """

    def __init__(self, evidence: Evidence, spread: float):
        reaches = np.array([*(-reach for reach in REACHES), 0.0, *REACHES])
        offsets = np.clip(spread * evidence.errors[:, None] * reaches, -FAR, FAR)
        self.points = np.sort(
            np.concatenate([evidence.truth[:, None] + offsets, evidence.scores[:, None] + offsets], 1), 1
        )
        self.beyond = self.points > evidence.truth[:, None]
        true = np.zeros(evidence.finite.shape, dtype=bool)
        np.put_along_axis(true, evidence.codes[..., None], True, 2)
        true[:, -1] = False
        self.cells = evidence.finite & ~true
        expert = LexicalExpert(spread, 1.0, 0.0)
        flat = self.cells.reshape(len(true), -1)
        self.order = np.argsort(~flat, axis=1, kind="stable")[:, : flat.sum(1).max()]
        low, high = (
            np.take_along_axis(np.where(self.cells, ends, 0.0).reshape(len(true), -1), self.order, 1)[..., None]
            for ends in (evidence.low, evidence.high)
        )
        scores, errors, points = evidence.scores[:, None, None], evidence.errors[:, None, None], self.points[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            whole = expert.masses(low, high, scores, errors)
            part = expert.masses(low, np.clip(points, low, high), scores, errors) / whole
        # So far out that no mass is left all of it lies at the end that is nearer to the score.
        share = np.where(whole > 1e-300, part, points >= np.where(low > scores, low, high))
        self.share = share.astype(np.float32)


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
        found, kept = None, False
        if np.isfinite(evidence.truth).any():  # no score stands for a value of 0 where logarithms were fitted
            found = best_expert(evidence)
            kept = found.expert.power > 0 and (found.gain > found.error or (groups >= MANY_GROUPS and found.gain > 0))
        note = ""
        if not kept:
            found, note = guard(evidence), ", a guard"
            kept = found.gain > -MOST_COST
        if kept:
            experts[metric] = found.expert.to_dict()
        say(
            f"expert: {metric}, {len(evidence.codes)} rows in {groups} groups, {found} with powers "
            f"{found.expert.own_power:g} and {found.expert.power:g}{note}" + ("" if kept else ": left out")
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
    logits, errors = np.empty((*codes.shape, model.codec.vocab_size)), np.empty(len(items))
    order = np.argsort([len(item.ids) for item in items], kind="stable")
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        batch = whole.collate([items[i] for i in part])
        logits[part] = model.place_logits(batch, codes[part])
        errors[part] = model.lexical.errors(model.lexical.words(batch["input_ids"], batch["attention_mask"]))[
            :, channel
        ]
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
        errors=errors,
        truth=scale.score(np.array([source.values[row, column] for source, row, column in chosen])),
        groups=np.array([source.groups[row] for source, row, _ in chosen]),
    )


@dataclass
class Judged:
    """An expert, its gain over the decoder alone, and that gain's standard error over groups.

    Attributes:
        expert: It.
        gain: In nats of a number's log-probability, or of the CRPS as a share of the decoder's.
        error: Likewise.
        unit: Which of them.
    """

    expert: LexicalExpert
    gain: float
    error: float
    unit: str

    def __str__(self) -> str:
        return f"gains {self.gain:.3f} {self.unit} (+- {self.error:.3f})"


def best_expert(evidence: Evidence) -> Judged:
    """The expert of the lowest mean CRPS."""
    middle = _spread(evidence)
    known = evidence[np.isfinite(evidence.truth)]
    ruler = Ruler(known, middle)
    tried = [
        LexicalExpert(middle * spread, own_power, power)
        for spread in SPREADS
        for own_power in OWN_POWERS
        for power in POWERS
        if own_power + power > 0
    ]
    alone = _by_group(known, known.crps(None, ruler))
    found = [_by_group(known, known.crps(expert, ruler)) for expert in tried]
    best = int(np.argmin([each.mean() for each in found]))
    return _judged(evidence, tried[best], (alone - found[best]) / alone.mean(), "of the CRPS")


def guard(evidence: Evidence) -> Judged:
    """An expert that speaks only where an answer is far off."""
    expert = LexicalExpert(GUARD_SPREAD * _spread(evidence), **GUARD)
    gains = evidence.log_likelihood(expert) - evidence.log_likelihood(None)
    return _judged(evidence, expert, _by_group(evidence, gains), "nats")


def _judged(evidence: Evidence, expert: LexicalExpert, gains: np.ndarray, unit: str) -> Judged:
    """What an expert is worth, by its gains `(groups,)`."""
    expert = replace(expert, rows=len(evidence.codes), groups=len(np.unique(evidence.groups)))
    return Judged(expert, float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains))), unit)


def _by_group(evidence: Evidence, values: np.ndarray) -> np.ndarray:
    """The mean of each group's values."""
    _, group = np.unique(evidence.groups, return_inverse=True)
    return np.bincount(group, values) / np.bincount(group)


def _spread(evidence: Evidence) -> float:
    """Scale of the logistic distribution that has the scores' median error, in units of what the path knows of it."""
    errors = np.abs(evidence.truth - evidence.scores) / evidence.errors
    errors = errors[np.isfinite(errors)]  # no score stands for a value of 0 where logarithms were fitted
    return max(logistic_scale(errors), 1e-4) if len(errors) else 1.0


__all__ = ["Evidence", "Judged", "Ruler", "best_expert", "fit_experts", "gather", "guard"]
