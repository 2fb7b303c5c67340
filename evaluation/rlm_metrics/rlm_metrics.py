"""The scores of `code-rlm evaluate` as a metric of Hugging Face evaluate; loads from this folder, offline.

    import evaluate

    scores = evaluate.load("evaluation/rlm_metrics")
    scores.compute(predictions=median, references=target, groups=problem, quantiles={0.05: low, 0.95: high})

In an installed package the folder is `code_rlm.evaluation.METRIC_FOLDER`.
"""

from typing import Any

import datasets
import evaluate
from code_rlm.evaluation.report import Predictions
from code_rlm.evaluation.report import score_predictions

_DESCRIPTION = """\
Scores of numeric predictions: Spearman, Kendall tau-b, MAPE and median APE with bootstrap intervals by group, rank agreement
inside groups, choice of the best, coverage and width of intervals, CRPS, negative log-likelihood. The numbers are those of
report.json of `code-rlm evaluate`.
"""

_INPUTS = """
Args:
    predictions: Point estimates, such as medians, one a row.
    references: True values, one a row.
    groups: Name of each row's group; each row is its own when not given.
    quantiles: Quantile level, between 0 and 1, to quantiles, one a row each.
    log_probs: Natural logarithm of the probability that the model gave to each true value.
    languages: Language of each row's input, for scores by language.
    baselines: Name of another predictor to its predictions.
    smaller_is_better: Direction of the metric.
    level: Coverage of the confidence intervals, 0.95 by default.
    resamples: Bootstrap resamples of each, 1000 by default.
    seed: Of the resampling.

Returns:
    A dictionary, see `code_rlm.evaluation.report.score_predictions`: `spearman`, `kendall`, `mape` and `median_ape` as
    {"value", "low", "high"}, `coverage`, `width`, `crps`, `nll`, `within_groups`, `selection`, `languages`, `baselines`, ...
"""

_CITATION = "Regression Language Models for Code, arXiv 2509.26476."


class RLMMetrics(evaluate.Metric):
    """All scores of a report from one call."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        groups: Any = None,
        quantiles: dict[float, Any] | None = None,
        log_probs: Any = None,
        languages: Any = None,
        baselines: dict[str, Any] | None = None,
        smaller_is_better: bool = True,
        level: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> dict[str, Any]:
        rows = Predictions(
            target=references,
            median=predictions,
            quantiles=quantiles or {},
            groups=groups,
            log_probs=log_probs,
            languages=languages,
            baselines=baselines or {},
            smaller_is_better=smaller_is_better,
        )
        return score_predictions(rows, level=level, resamples=resamples, seed=seed)
