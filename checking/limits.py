"""Predictions of two versions of a file, and whether they keep to limits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from code_rlm.checking.versions import Change
from code_rlm.configuration_rlm import RLMConfig
from code_rlm.console import quantity
from code_rlm.distributions_rlm import Distribution
from code_rlm.errors_rlm import InputError, RLMError
from code_rlm.familiarity_rlm import UNFAMILIAR
from code_rlm.pipeline_rlm import CodeRegressionPipeline
from code_rlm.processing_rlm import CodeInput, expand_input
from code_rlm.units import parse_quantity, parse_share

_LEVELS = (np.arange(400) + 0.5) / 400  # of the values that stand for a distribution in P(grew)


@dataclass(frozen=True)
class Limits:
    """What is allowed.

    Attributes:
        most: Metric to the largest value, in the metric's unit.
        increase: Metric to the largest increase over the earlier version, as a share of it.
        probability: A limit is breached where it is exceeded with at least this probability.
        unfamiliar: Whether predictions for files unlike the training rows can breach a limit.
    """

    most: Mapping[str, float] = field(default_factory=dict)
    increase: Mapping[str, float] = field(default_factory=dict)
    probability: float = 0.5
    unfamiliar: bool = False

    def __post_init__(self) -> None:
        if not self.most and not self.increase:
            raise InputError("There are no limits: give --max METRIC=LIMIT or --max-increase METRIC=20%.")
        if not 0 < self.probability < 1:
            raise InputError(f"probability must lie strictly between 0 and 1, got {self.probability}.")

    @property
    def metrics(self) -> list[str]:
        """The metrics with a limit."""
        return list(dict.fromkeys([*self.most, *self.increase]))

    @classmethod
    def parse(cls, config: RLMConfig, most: Mapping[str, str], increase: Mapping[str, str], **others: Any) -> "Limits":
        """Returns the limits of texts such as {"peak_rss_bytes": "2GB"} and {"cpu_time_ms": "20%"}.

        Raises:
            InputError: A text that is no quantity, or no percentage.
            MetricError: A metric that the checkpoint does not know.
        """
        values = {name: parse_quantity(text, config.metric(name).unit, name) for name, text in most.items()}
        shares = {config.metric(name).name: parse_share(text, name) for name, text in increase.items()}
        return cls(values, shares, **others)


@dataclass
class Finding:
    """One metric of one file, or of one loop of it.

    Attributes:
        file: The file's name.
        line: Line that the finding is about, from 1.
        metric, unit: What is predicted.
        value, low, high, level: Median and interval of the later version; None where no number is expected.
        before: Median of the earlier version; None where there was none.
        limit: The largest value allowed; None for no limit.
        probability_exceeds: P(value > limit).
        most_increase: The largest increase allowed, as a share; None for no limit.
        probability_grew: P(later > earlier), the two taken as independent.
        probability_increase: P(later > (1 + most_increase) * earlier), the two taken as independent.
        familiarity: Of the later version with the training rows; None where nothing is known.
        reasons: Why it is unlike them.
        breaches: What is wrong, in words.
    """

    file: str
    line: int
    metric: str
    unit: str
    value: Any
    low: Any
    high: Any
    level: float
    before: Any = None
    limit: float | None = None
    probability_exceeds: float | None = None
    most_increase: float | None = None
    probability_grew: float | None = None
    probability_increase: float | None = None
    familiarity: float | None = None
    reasons: list[str] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)

    @property
    def is_unfamiliar(self) -> bool:
        """Whether the later version is unlike the training rows."""
        return self.familiarity is not None and self.familiarity < UNFAMILIAR

    @property
    def change(self) -> float | None:
        """How much the median grew, as a share of the earlier one."""
        if isinstance(self.before, float) and isinstance(self.value, float) and self.before > 0:
            return self.value / self.before - 1
        return None

    def as_dict(self) -> dict[str, Any]:
        """Returns JSON-ready fields."""
        return {**asdict(self), "change": self.change, "is_unfamiliar": self.is_unfamiliar}


def check_changes(
    pipe: CodeRegressionPipeline, changes: Iterable[Change], limits: Limits, **options: Any
) -> tuple[list[Finding], list[str]]:
    """Predicts both versions of changed files and compares them with limits.

    A metric is asked of the files in its languages. Files that cannot be read are left out and named.

    Args:
        pipe: The pipeline.
        changes: The files.
        limits: What is allowed.
        **options: Those of `CodeRegressionPipeline.distributions`.

    Returns:
        What was found, in the order of the files, and a line for each file left out.
    """
    pairs: list[tuple[Change, CodeInput | None, CodeInput]] = []
    skipped: list[str] = []
    for change in changes:
        try:
            later = _read(change.after, change.name, options)
            earlier = [] if change.before is None else _read(change.before, change.name, options)
        except RLMError as error:
            skipped.append(str(error) if change.name in str(error) else f"{change.name}: {error}")
            continue
        # Loops of an assembly file are compared one by one, as long as there are as many.
        earlier_ones = earlier if len(earlier) == len(later) else [None] * len(later)
        pairs += [(change, old, new) for old, new in zip(earlier_ones, later, strict=True)]
    findings = []
    for metric in limits.metrics:
        languages = pipe.model.config.metric(metric).languages
        asked = [pair for pair in pairs if pair[2].language in languages]
        findings += _compare(pipe, metric, asked, limits, options)
    order = {change.name: number for number, (change, _, _) in enumerate(pairs)}
    return sorted(findings, key=lambda each: (order[each.file], each.line)), skipped


def _read(path: Path, name: str, options: Mapping[str, Any]) -> list[CodeInput]:
    """Returns the inputs of a file, named as in the repository."""
    found = expand_input(path, language=options.get("language"))
    return [CodeInput(**{**vars(item), "source": item.source.replace(str(path), name)}) for item in found]


def _compare(
    pipe: CodeRegressionPipeline,
    metric: str,
    pairs: Sequence[tuple[Change, CodeInput | None, CodeInput]],
    limits: Limits,
    options: Mapping[str, Any],
) -> list[Finding]:
    """Returns what is found of one metric."""
    if not pairs:
        return []
    earlier = [old for _, old, _ in pairs if old is not None]
    above = {metric: limits.most[metric]} if metric in limits.most else None
    answers = pipe.distributions([*(new for _, _, new in pairs), *earlier], metric, above=above, **options)
    later, remaining = answers[: len(pairs)], iter(answers[len(pairs) :])
    findings = []
    for (change, old, new), (entry, whole) in zip(pairs, later, strict=True):
        finding = Finding(
            change.name,
            _first_line(new.source),
            metric,
            unit=entry["unit"],
            value=entry["value"],
            low=entry["low"],
            high=entry["high"],
            level=entry["level"],
            limit=limits.most.get(metric),
            probability_exceeds=entry.get("probability_above"),
            familiarity=entry.get("familiarity"),
            reasons=entry.get("reasons", []),
        )
        if old is not None:
            entry_before, whole_before = next(remaining)
            finding.before = entry_before["value"]
            finding.probability_grew = probability_of_growth(whole_before, whole)
            if metric in limits.increase:
                finding.most_increase = limits.increase[metric]
                finding.probability_increase = probability_of_growth(whole_before, whole, finding.most_increase)
        finding.breaches = _breaches(finding, limits)
        findings.append(finding)
    return findings


def probability_of_growth(before: Distribution, after: Distribution, share: float = 0.0) -> float:
    """Returns P(after > (1 + share) * before) of independent numbers, equal ones counted half.

    Each distribution stands for 400 equally likely values, so the error is of the order of 1/400.
    """
    earlier = np.sort(before.quantiles(_LEVELS.tolist())) * (1 + share)
    later = after.quantiles(_LEVELS.tolist())
    below = np.searchsorted(earlier, later, side="left")
    up_to = np.searchsorted(earlier, later, side="right")
    return float(((below + up_to) / 2).mean() / len(earlier))


def _breaches(finding: Finding, limits: Limits) -> list[str]:
    """Returns what is wrong with a finding, in words."""
    if finding.is_unfamiliar and not limits.unfamiliar:
        return []
    found = []
    value = quantity(finding.value, finding.unit)
    exceeds = finding.probability_exceeds
    if exceeds is not None and exceeds >= limits.probability:
        limit = quantity(finding.limit, finding.unit)
        found.append(f"{finding.metric} {value} is over the limit of {limit} with probability {exceeds:.0%}")
    grew = finding.probability_increase
    if grew is not None and grew >= limits.probability:
        found.append(
            f"{finding.metric} grew from {quantity(finding.before, finding.unit)} to {value}, by more than "
            f"{finding.most_increase:.0%} with probability {grew:.0%}"
        )
    return found


def _first_line(source: str) -> int:
    """Returns the first line of an input's source such as `a.s:12-19`, 1 for whole files."""
    first = source.rpartition(":")[2].partition("-")[0]
    return int(first) if first.isdigit() and ":" in source else 1


__all__ = ["Finding", "Limits", "check_changes", "probability_of_growth"]
