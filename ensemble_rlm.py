"""The feature ensemble: regressors on a text's features, whose scores the decoder reads beside the encoder's memory.

A transformer of a few million parameters learns a table of a thousand programs by heart; ridge regression on their n-grams
does not. So a checkpoint may carry regressors for some of its metrics, fitted before the first step
(`training/ensemble.py`), and the decoder reads each score as one more memory token. In training the scores are
out-of-fold predictions: those of regressors that have not seen the row's group, so that the decoder learns how far to trust
them.

The features (`features_rlm.py`) are an input of the model like the token ids. A metric's score is a linear function of them,
on a scale of its own (`ScoreScale`). With `trees` it is that plus boosted regression trees (`training/trees.py`), and with
`mlp_features` small networks on the features that the trees split by most (`training/mlp.py`), which several metrics may
share; each base learner has a stacking weight, fitted to out-of-fold predictions.

Hidden states of a language model are thousands of correlated features, so regressors read their principal components, which are
fitted to the texts of the first fit.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .distributions_rlm import Regressor, ScoreScale
from .errors_rlm import CheckpointError
from .features_rlm import STRUCTURES, FeatureLayout

TREE_NODES = 31  # of a tree: 16 leaves
FALLBACK = "fallback"  # in place of a domain: the regressor of a metric for inputs unlike the training rows
_KNOTS = 24  # radial basis functions over a score, from -4 to 4 standard deviations
MLP_WIDTH, MLP_LAYERS = 128, 3  # units of a hidden layer, hidden layers
MLP_REACH = 8.0  # a feature's distance from its mean, scaled, is clamped to this
# The least value of each size in an ensemble.
_LEAST = {"trees": 0, "tree_grams": 1, "tree_numbers": 0, "mlp_features": 0, "mlp_count": 1}


@dataclass(frozen=True)
class EnsembleConfig:
    """Which features the ensemble reads, and which regressors it has.

    Attributes:
        features: The `FeatureLayout` of its input.
        metrics: Metrics with a regressor, in the order of the scores.
        trees: The most boosted trees of a regressor, of at most `TREE_NODES` nodes each; 0: none.
        tree_grams: How many n-gram buckets a regressor's trees can split by, those whose counts vary most among its texts.
        tree_numbers: How many buckets of the code's and its names' numbers they can split by, chosen likewise.
        scales: For each metric its `ScoreScale`; None for metrics that nothing was fitted to yet.
        mlp_features: The most features that an MLP reads, those that the trees of its regressors split by most; 0: no MLPs.
        mlp_count: How many MLPs are averaged, each of another random initialisation.
        domains: Metric to the domains of texts that have a regressor of their own: a language of `STRUCTURES`, or that and
            words that such a text has, with spaces between. The last domain that a text belongs to gives its score. They are
            fitted after the first regressor, which the decoder was trained with and which stays for all other texts.
        fallbacks: Metrics with one more regressor, for inputs unlike the training rows. It may be fitted to rows that the
            decoder never saw, on a scale of its own (`familiarity_rlm.NoveltyPool`); the decoder does not read its score.
        unread: Metrics whose scores are no memory tokens: the decoder was never trained with them.
        mlps: Which of `regressors` each MLP answers, in the order of its outputs.
        residual_scales: For each of `regressors` the scale of the logistic distribution that has the median distance between
            its out-of-fold predictions and the true scores; 0 where it is not known.
    """

    features: FeatureLayout = field(default_factory=FeatureLayout)
    metrics: tuple[str, ...] = ()
    trees: int = 0
    tree_grams: int = 384
    tree_numbers: int = 1536
    scales: tuple[ScoreScale | None, ...] = ()
    mlp_features: int = 0
    mlp_count: int = 1
    domains: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fallbacks: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    mlps: tuple[tuple[Regressor, ...], ...] = ()
    residual_scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", FeatureLayout.from_dict(self.features))
        object.__setattr__(self, "metrics", tuple(self.metrics))
        for name, least in _LEAST.items():
            size = getattr(self, name)
            if not isinstance(size, int) or size < least:
                raise CheckpointError(f"ensemble.{name} must be a whole number of at least {least}, got {size!r}.")
        object.__setattr__(self, "domains", self._checked_domains())
        for name in ("fallbacks", "unread"):
            named = tuple(getattr(self, name))
            object.__setattr__(self, name, named)
            if not set(named) <= set(self.metrics):
                raise CheckpointError(f"ensemble.{name} names metrics of the ensemble, got {named!r:.200}.")
        object.__setattr__(self, "scales", self._checked_scales())
        object.__setattr__(self, "mlps", self._checked_mlps())
        object.__setattr__(self, "residual_scales", self._checked_residual_scales())

    def _checked_domains(self) -> dict[str, tuple[str, ...]]:
        """The domains in the order in which configs are written; a single one may stand by itself."""
        if not isinstance(self.domains, Mapping):
            raise CheckpointError(f"ensemble.domains must be a mapping, got {self.domains!r:.200}.")
        domains: dict[str, tuple[str, ...]] = {}
        for metric, names in sorted(self.domains.items()):
            domains[metric] = tuple(names) if isinstance(names, (list, tuple)) else (names,)
        valid = all(metric in self.metrics and _are_domains(names) for metric, names in domains.items())
        if not valid or (domains and not self.features.reads_structure):
            raise CheckpointError(
                f"ensemble.domains names metrics and domains of texts, each once, that begin with a language of "
                f"{sorted(STRUCTURES)}, and needs structure_buckets or position_buckets, got {domains!r:.200}."
            )
        return domains

    def _checked_scales(self) -> tuple[ScoreScale | None, ...]:
        scales = tuple(None if scale is None else ScoreScale.from_dict(scale) for scale in self.scales)
        scales = scales or (None,) * len(self.metrics)
        if len(scales) != len(self.metrics):
            raise CheckpointError(f"ensemble.scales must have one entry for each of {len(self.metrics)} metrics.")
        return scales

    def _checked_mlps(self) -> tuple[tuple[Regressor, ...], ...]:
        try:
            mlps = tuple(_regressors_of(each) for each in self.mlps)
        except (TypeError, ValueError):
            raise CheckpointError(
                f"ensemble.mlps must be a list of lists of regressors, got {self.mlps!r:.200}."
            ) from None
        known = set(self.regressors)
        valid = all(each and set(each) <= known and len(set(each)) == len(each) for each in mlps)
        if not valid or (mlps and not (self.mlp_features and self.trees)):
            raise CheckpointError(
                f"Each of ensemble.mlps names some of the regressors {self.regressors}, each once, and needs "
                f"mlp_features and trees, got {mlps!r:.200}."
            )
        return mlps

    def _checked_residual_scales(self) -> tuple[float, ...]:
        if not isinstance(self.residual_scales, (list, tuple)):
            raise CheckpointError(f"ensemble.residual_scales must be a list, got {self.residual_scales!r:.200}.")
        scales = tuple(self.residual_scales) or (0.0,) * len(self.regressors)
        valid = all(isinstance(scale, (int, float)) and 0 <= scale < math.inf for scale in scales)
        if len(scales) != len(self.regressors) or not valid:
            raise CheckpointError(
                f"ensemble.residual_scales must be a number of at least 0 for each of {len(self.regressors)} regressors, got "
                f"{scales!r:.200}."
            )
        return scales

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "EnsembleConfig":
        """Builds the settings from their JSON form; unknown keys are an error."""
        known = {each.name for each in fields(cls)}
        if unknown := sorted(set(entry) - known):
            raise CheckpointError(f"ensemble has unknown keys {unknown}.")
        return cls(**entry)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready fields."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {
            **plain,
            "features": self.features.to_dict(),
            "scales": [None if scale is None else scale.to_dict() for scale in self.scales],
            "domains": {name: list(domains) for name, domains in self.domains.items()},
            "mlps": [[list(regressor) for regressor in each] for each in self.mlps],
        }

    def changed(self, **changes: Any) -> "EnsembleConfig":
        """A copy with other fields; those of the feature layout are named beside those of the ensemble."""
        layout = {each.name for each in fields(FeatureLayout)}
        features = {name: value for name, value in changes.items() if name in layout}
        others = {name: value for name, value in changes.items() if name not in layout}
        return replace(self, features=replace(self.features, **features), **others)

    def scale_of(self, metric: str) -> ScoreScale | None:
        """The scale of a metric's scores, None where nothing was fitted to it yet."""
        return self.scales[self.metrics.index(metric)]

    @property
    def regressors(self) -> list[Regressor]:
        """The metric of every regressor and the domain of texts that it is for, in their order.

        The domain is None for all other texts, `FALLBACK` for inputs unlike the training rows.
        """
        further = [(metric, domain) for metric, domains in self.domains.items() for domain in domains]
        fallbacks = [(metric, FALLBACK) for metric in self.fallbacks]
        return [*((metric, None) for metric in self.metrics), *further, *fallbacks]

    @property
    def domain_names(self) -> tuple[str, ...]:
        """Every domain once: the last columns of the features, see `RLMFeatureExtractor`."""
        return tuple(dict.fromkeys(domain for domains in self.domains.values() for domain in domains))

    @property
    def input_size(self) -> int:
        """Number of features, domains included."""
        return self.features.size + len(self.domain_names)


def _are_domains(names: Sequence[Any]) -> bool:
    """Whether these are names of domains, one or more, each once."""
    if not names or not all(isinstance(name, str) for name in names):
        return False
    languages = {name.partition(" ")[0] for name in names}
    return languages <= set(STRUCTURES) and len(set(names)) == len(names)


def _regressors_of(mlp: Sequence[Any]) -> tuple[Regressor, ...]:
    """The regressors that an MLP answers. One that answers a single one may stand as that."""
    single = isinstance(mlp, (list, tuple)) and len(mlp) > 0 and isinstance(mlp[0], str)
    found = tuple((name, domain) for name, domain in ([mlp] if single else mlp))
    if not all(isinstance(name, str) and isinstance(domain, (str, type(None))) for name, domain in found):
        raise TypeError("names and domains are strings")
    return found


class FeatureEnsemble(nn.Module):
    """Scores of the features by metric, and the memory tokens made of them.

    Attributes:
        weight: Ridge regression, `(features that are read, regressors)`, fitted in closed form, never by gradients.
        bias: `(regressors,)`.
        idf: Inverse document frequency by bucket `(buckets,)`.
        tree_feature, tree_left, tree_right: For each node the feature it splits by and the nodes that follow, itself for a
            leaf, int `(regressors, trees, TREE_NODES)`; these buffers are there only with `trees`.
        tree_threshold, tree_value: Up to what it goes left, and what a leaf adds, `(regressors, trees, TREE_NODES)`.
        mlps: The `MLPs` of some regressors; there only with `mlp_features`.
        fallback_rates: What a unit of each cost feature's amount adds to the metric of each fallback regressor, in the metric's
            unit, `(fallbacks, cost features)`; there only with fallbacks.
        fallback_line: Slope and intercept from the logarithm of that sum to the score, `(fallbacks, 2)`; 0 without a cost
            model.
        hidden_center, hidden_scale: A hidden state is read as (state - center) * scale, at most `MLP_REACH`, `(hidden,)`; scale
            0 before they are fitted. These buffers are there only with `language_model`.
        hidden_directions: Of the principal components of what is read so, `(hidden, components)`.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    idf: torch.Tensor
    tree_feature: torch.Tensor
    tree_left: torch.Tensor
    tree_right: torch.Tensor
    tree_threshold: torch.Tensor
    tree_value: torch.Tensor
    mlps: "MLPs"
    fallback_rates: torch.Tensor
    fallback_line: torch.Tensor
    hidden_center: torch.Tensor
    hidden_scale: torch.Tensor
    hidden_directions: torch.Tensor

    def __init__(self, settings: EnsembleConfig, memory_size: int):
        super().__init__()
        self.settings = settings
        metrics, regressors = len(settings.metrics), len(settings.regressors)
        self.register_buffer("weight", torch.zeros(settings.features.read_size, regressors))
        self.register_buffer("bias", torch.zeros(regressors))
        self.register_buffer("idf", torch.ones(settings.features.buckets))
        if settings.trees:
            shape = (regressors, settings.trees, TREE_NODES)
            self.register_buffer("tree_feature", torch.zeros(shape, dtype=torch.int32))
            for name in ("tree_left", "tree_right"):
                self.register_buffer(name, torch.zeros(shape, dtype=torch.int16))
            for name in ("tree_threshold", "tree_value"):
                self.register_buffer(name, torch.zeros(shape))
        if settings.mlp_features:
            self.mlps = MLPs([len(each) for each in settings.mlps], settings.mlp_features)
        if settings.fallbacks:
            amounts = settings.features.parts["costs"]
            self.register_buffer("fallback_rates", torch.zeros(len(settings.fallbacks), amounts))
            self.register_buffer("fallback_line", torch.zeros(len(settings.fallbacks), 2))
        if (model := settings.features.language_model) is not None:
            for name in ("hidden_center", "hidden_scale"):
                self.register_buffer(name, torch.zeros(model.size))
            self.register_buffer("hidden_directions", torch.zeros(model.size, model.components))
        self.score_embedding = nn.Parameter(torch.zeros(metrics, memory_size))
        self.score_proj = nn.Linear(_KNOTS + 1, memory_size, bias=False)

    def take_over(self, old: "FeatureEnsemble") -> None:
        """Copies all that an ensemble was fitted to and has learned; this one may have room for more behind it."""
        own = self.state_dict()
        for name, tensor in old.state_dict().items():
            own[name][tuple(slice(size) for size in tensor.shape)] = tensor

    def standardised(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states `(batch, hidden)` by their mean and spread, float32 of the same shape."""
        centered = (hidden.float() - self.hidden_center.float()) * self.hidden_scale.float()
        return centered.clamp(-MLP_REACH, MLP_REACH)

    def components(self, hidden: torch.Tensor) -> torch.Tensor:
        """Principal components of hidden states `(batch, hidden)`, float32 `(batch, components)`."""
        return self.standardised(hidden) @ self.hidden_directions.float()

    def read(self, raw: torch.Tensor) -> torch.Tensor:
        """Features `(batch, size)` with principal components in place of hidden states, `(batch, read size)`."""
        if self.settings.features.language_model is None:
            return raw
        hidden = self.settings.features.token_size
        return torch.cat([raw[:, :hidden], self.components(raw[:, hidden:])], 1)

    def weighted(self, raw: torch.Tensor) -> torch.Tensor:
        """Features `(batch, size)` whose n-grams are weighted by `idf` and scaled to length 1, as the ridge reads them."""
        buckets = self.settings.features.buckets
        grams = raw[:, :buckets] * self.idf.float()
        grams = grams / grams.norm(dim=1, keepdim=True).clamp_min(1e-6)
        return torch.cat([grams, raw[:, buckets:]], 1)

    def scores(self, features: torch.Tensor, metrics: Collection[str] | None = None) -> torch.Tensor:
        """Score of each metric `(batch, metrics)`, on the metric's scale.

        Args:
            features: float32 `(batch, settings.input_size)`, see `RLMFeatureExtractor`.
            metrics: What is asked for, None for all. The scores of metrics that are neither asked for nor memory tokens are
                NaN: nothing reads them.

        Raises:
            ValueError: Features of another layout.
        """
        members = self._members(features)
        present = {name for name, some in zip(self.settings.domain_names, members.any(0), strict=True) if some}
        unused = set(self.settings.unread) - set(self.settings.metrics if metrics is None else metrics)
        needed = [
            regressor
            for regressor in self.settings.regressors
            if regressor[0] not in unused and regressor[1] in {None, *present}
        ]
        numbers = self._numbers(needed)
        scores = features.new_full((len(features), len(self.settings.regressors)), math.nan)
        scores[:, numbers] = self._regressor_scores(features, needed)
        return self.chosen(scores, members)

    def fallback_scores(self, features: torch.Tensor, metrics: Sequence[str] | None = None) -> torch.Tensor:
        """Scores for inputs unlike the training rows `(batch, metrics)`, each on the scale of its `NoveltyPool`.

        Args:
            features: As for `scores`.
            metrics: Some of `EnsembleConfig.fallbacks`, None for all.
        """
        self._members(features)  # checks their shape
        names = self.settings.fallbacks if metrics is None else metrics
        regressors = [(name, FALLBACK) for name in names]
        return self._regressor_scores(features, regressors) + self._cost_scores(features, names)

    def _cost_scores(self, features: torch.Tensor, metrics: Sequence[str]) -> torch.Tensor:
        """What the cost models add to the scores of the fallback regressors of metrics, float32 `(batch, metrics)`."""
        layout = self.settings.features
        first = layout.first("costs")
        rows = [self.settings.fallbacks.index(name) for name in metrics]
        amounts = torch.expm1(features[:, first : first + layout.parts["costs"]].double())
        total = (amounts @ self.fallback_rates[rows].double().T).clamp_min(1e-30)
        slope, intercept = self.fallback_line[rows].double().T
        return (slope * torch.log(total) + intercept).float()

    def _numbers(self, regressors: Sequence[Regressor]) -> list[int]:
        """Number of each of some regressors."""
        numbers = {regressor: number for number, regressor in enumerate(self.settings.regressors)}
        return [numbers[regressor] for regressor in regressors]

    def _regressor_scores(self, features: torch.Tensor, regressors: Sequence[Regressor]) -> torch.Tensor:
        """The scores of some regressors `(batch, regressors)`; nothing is evaluated for others."""
        numbers = self._numbers(regressors)
        with torch.autocast(features.device.type, enabled=False):
            raw = self.read(features[:, : self.settings.features.size].float())
            scores = self._ridge(raw)[:, numbers]
            if self.settings.trees:
                scores = scores + self.further(raw, numbers)
            return scores

    def _ridge(self, raw: torch.Tensor) -> torch.Tensor:
        """What the ridge regression of each regressor predicts, `(batch, regressors)`, for features `(batch, size)`."""
        read = self.weighted(raw)
        # Of tens of thousands of features few are in any text of a batch.
        present = (read != 0).any(0).nonzero()[:, 0]
        return read[:, present] @ self.weight[present].float() + self.bias.float()

    def residual_scales(self, features: torch.Tensor) -> np.ndarray:
        """Scale of each score's error on the metric's scale, float64 `(batch, metrics)`; see `EnsembleConfig`.

        Where that of the chosen regressor is not known, it is that of the metric's worst; 1 where none is known.

        Args:
            features: As for `scores`.
        """
        settings = self.settings
        known = np.array(settings.residual_scales)
        widest = np.zeros(len(settings.metrics))
        for (metric, domain), scale in zip(settings.regressors, settings.residual_scales, strict=True):
            column = settings.metrics.index(metric)
            widest[column] = max(widest[column], scale if domain != FALLBACK else 0.0)
        scales = known[self._regressor_of(self._members(features))]
        return np.where(scales > 0, scales, np.where(widest > 0, widest, 1.0))

    def _members(self, features: torch.Tensor) -> np.ndarray:
        """Which domains each text belongs to, bool `(batch, domains)`: the last columns of its features."""
        if features.ndim != 2 or features.shape[1] != self.settings.input_size:
            raise ValueError(
                f"features must be (batch, {self.settings.input_size}), got {tuple(features.shape)}. Make them with the "
                "processor of this checkpoint."
            )
        return (features[:, self.settings.features.size :] > 0).cpu().numpy()

    def chosen(self, scores: torch.Tensor, members: np.ndarray) -> torch.Tensor:
        """The score of each metric `(batch, metrics)` from those of all regressors `(batch, regressors)`.

        Args:
            scores: Of all regressors.
            members: Which of `EnsembleConfig.domain_names` each text belongs to, bool `(batch, domains)`.
        """
        return scores.gather(1, torch.from_numpy(self._regressor_of(members)).to(scores.device))

    def _regressor_of(self, members: np.ndarray) -> np.ndarray:
        """Which regressor gives the score of each metric, int64 `(batch, metrics)`: the last whose domain the text is of."""
        settings = self.settings
        chosen = np.tile(np.arange(len(settings.metrics)), (len(members), 1))
        domains = {name: column for column, name in enumerate(settings.domain_names)}
        for number, (metric, domain) in enumerate(settings.regressors):
            if domain not in (None, FALLBACK):
                chosen[members[:, domains[domain]], settings.metrics.index(metric)] = number
        return chosen

    def further(self, raw: torch.Tensor, numbers: Sequence[int] | None = None) -> torch.Tensor:
        """What trees and MLPs add to the scores of regressors `(batch, regressors)`.

        Args:
            raw: Features without domains, `(batch, size)`.
            numbers: Numbers of the regressors, None for all.
        """
        wanted = range(len(self.settings.regressors)) if numbers is None else numbers
        added = self._tree_sums(raw, wanted)
        if not self.settings.mlps:
            return added
        columns = {number: column for column, number in enumerate(wanted)}
        answered = [self._numbers(each) for each in self.settings.mlps]
        used = [mlp for mlp, own in enumerate(answered) if any(number in columns for number in own)]
        if not used:
            return added
        outputs = self.mlps(raw, used)
        targets = [columns.get(number, -1) for mlp in used for number in answered[mlp]]
        kept = [output for output, column in enumerate(targets) if column >= 0]
        index = torch.tensor([targets[output] for output in kept], device=added.device)
        return added.index_add_(1, index, outputs[:, kept])

    def _tree_sums(self, raw: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
        """What the trees add to the scores of regressors `(batch, regressors)`."""
        used = torch.tensor(list(numbers), dtype=torch.long, device=raw.device)
        reached = self.tree_value[used, :, 0].float().repeat(len(raw), 1, 1)
        grown = self.tree_left[used, :, 0] > 0  # trees of one leaf go nowhere
        # All regressors, trees and nodes in one row: a node is a number, and so is a root.
        trees = torch.arange(self.settings.trees, device=raw.device)
        roots = ((used[:, None] * self.settings.trees + trees) * TREE_NODES)[grown]
        feature, left, right, threshold, value = (
            getattr(self, f"tree_{name}").flatten() for name in ("feature", "left", "right", "threshold", "value")
        )
        at = roots.expand(len(raw), len(roots))
        while True:
            goes_left = raw.gather(1, feature[at].long()) <= threshold[at].float()
            after = roots + torch.where(goes_left, left[at], right[at]).long()
            if torch.equal(after, at):
                break
            at = after
        reached[:, grown] = value[at].float()
        return reached.sum(2)

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """Memory tokens `(batch, metrics that are read, memory size)` of scores `(batch, metrics)`."""
        knots = torch.linspace(-4, 4, _KNOTS, device=scores.device)
        width = 8 / (_KNOTS - 1)
        scores = scores.float().clamp(-8, 8)[..., None]
        basis = torch.cat([torch.exp(-0.5 * ((scores - knots) / width) ** 2), scores], -1)
        tokens = self.score_proj(basis.to(self.score_proj.weight.dtype)) + self.score_embedding
        if not self.settings.unread:
            return tokens
        return tokens[
            :, [number for number, name in enumerate(self.settings.metrics) if name not in self.settings.unread]
        ]


def changed_slices(tensor: torch.Tensor, base: torch.Tensor | None, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What of a tensor is not in another one, for adapters, see `composed`.

    Args:
        tensor: Any shape.
        base: Of the same sizes along all other axes; None or of another shape: all is new.
        axis: Along which both are divided into slices.

    Returns:
        `source`, int32 `(slices,)`: number of the equal slice of the base, or -1 - k for the k-th new slice; and the new slices
        `(new slices, other axes)`.
    """
    rows = tensor.movedim(axis, 0)
    known: dict[bytes, int] = {}
    if base is not None and base.ndim == tensor.ndim:
        for number, row in enumerate(base.to(tensor.dtype).movedim(axis, 0)):
            known.setdefault(_row_bytes(row), number)
    source: list[int] = []
    new: list[torch.Tensor] = []
    for row in rows:
        place = known.get(_row_bytes(row))
        source.append(-1 - len(new) if place is None else place)
        if place is None:
            new.append(row)
    changed = torch.stack(new) if new else rows[:0]
    return torch.tensor(source, dtype=torch.int32), changed.clone(memory_format=torch.contiguous_format)


def _row_bytes(row: torch.Tensor) -> bytes:
    """Type-safe key of a slice: its shape and bytes."""
    plain = row.detach().cpu().contiguous()
    return str(tuple(plain.shape)).encode() + plain.view(-1).view(torch.uint8).numpy().tobytes()


def composed(source: torch.Tensor, changed: torch.Tensor, base: torch.Tensor | None, axis: int) -> torch.Tensor:
    """The tensor that `changed_slices` divided.

    Args:
        source, changed: As returned there.
        base: The tensor that it was compared with; None only where all is new.
        axis: As there.
    """
    slices = [
        changed[-1 - number] if number < 0 else base.movedim(axis, 0)[number].to(changed) for number in source.tolist()
    ]
    rows = torch.stack(slices) if slices else changed
    return rows.movedim(0, axis).contiguous()


class MLPs(nn.Module):
    """The multilayer perceptrons (MLPs) of some regressors, side by side.

    Args:
        outputs: Number of regressors that each of them answers.
        features: The most features that one of them reads.

    Attributes:
        owner: Index of the MLP that each output belongs to.
        feature: Which features each reads, int `(count, features)`.
        center, scale: A feature is read as (feature - center) * scale, at most `MLP_REACH`, `(count, features)`; scale 0 where
            nothing is read.
        first: Weights of the first hidden layer `(count, features, MLP_WIDTH)`.
        hidden: Those of the others `(count, MLP_LAYERS - 1, MLP_WIDTH, MLP_WIDTH)`.
        bias: Of the hidden layers `(count, MLP_LAYERS, MLP_WIDTH)`.
        last: Weights of the outputs, those of one MLP after those of another, `(outputs, MLP_WIDTH)`; their biases are the
            regressors'.
    """

    feature: torch.Tensor
    center: torch.Tensor
    scale: torch.Tensor
    first: torch.Tensor
    hidden: torch.Tensor
    bias: torch.Tensor
    last: torch.Tensor

    def __init__(self, outputs: Sequence[int], features: int):
        super().__init__()
        count = len(outputs)
        self.owner: list[int] = []
        for number, width in enumerate(outputs):
            self.owner += [number] * width
        self.register_buffer("feature", torch.zeros(count, features, dtype=torch.int32))
        for name in ("center", "scale"):
            self.register_buffer(name, torch.zeros(count, features))
        self.register_buffer("first", torch.zeros(count, features, MLP_WIDTH))
        self.register_buffer("hidden", torch.zeros(count, MLP_LAYERS - 1, MLP_WIDTH, MLP_WIDTH))
        self.register_buffer("bias", torch.zeros(count, MLP_LAYERS, MLP_WIDTH))
        self.register_buffer("last", torch.zeros(len(self.owner), MLP_WIDTH))

    def forward(self, raw: torch.Tensor, used: Sequence[int] | None = None) -> torch.Tensor:
        """What each output adds to its regressor's score, float32 `(batch, outputs)`.

        Args:
            raw: Features `(batch, features)`.
            used: Which of the MLPs to evaluate, in their order, None for all; the outputs of the others are left out.
        """
        chosen = list(range(len(self.feature)) if used is None else used)
        slots = {mlp: slot for slot, mlp in enumerate(chosen)}
        outputs = [output for output, mlp in enumerate(self.owner) if mlp in slots]
        feature = self.feature[chosen].long()
        read = raw[:, feature.flatten()].view(len(raw), *feature.shape).transpose(0, 1)
        center, scale = self.center[chosen].float(), self.scale[chosen].float()
        read = ((read - center[:, None]) * scale[:, None]).clamp(-MLP_REACH, MLP_REACH)
        weights = [self.first[chosen], *self.hidden[chosen].unbind(1)]
        for weight, bias in zip(weights, self.bias[chosen].float().unbind(1), strict=True):
            read = F.silu(torch.baddbmm(bias[:, None], read, weight.float()))
        owner = [slots[self.owner[output]] for output in outputs]
        return (read[owner] * self.last[outputs].float()[:, None]).sum(2).T


__all__ = [
    "FALLBACK",
    "MLP_LAYERS",
    "MLP_REACH",
    "MLP_WIDTH",
    "TREE_NODES",
    "EnsembleConfig",
    "FeatureEnsemble",
    "MLPs",
    "ScoreScale",
    "changed_slices",
    "composed",
]
