"""Drops regressors of a checkpoint's feature ensemble that no text of their metric reaches.

    python -m code_rlm.hub.compact runs/mine/final --out runs/compact

A metric that is fitted again to texts of one language gets a second regressor for them, and the first one stays for all other
texts (`training/ensemble.py`). Where the metric has no other texts, the second one takes the place of the first here. Scores of
texts of that language stay the same. The decoder reads the scores of all metrics, also those of other languages, which change:
on the weights that ship, answers moved by 0.1% to 0.7% in the median.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from code_rlm.distributions_rlm import Regressor
from code_rlm.ensemble_rlm import EnsembleConfig
from code_rlm.errors_rlm import CheckpointError, RLMError
from code_rlm.features_rlm import STRUCTURES
from code_rlm.loading import load
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.training.ensemble import carry_over


def only_languages(model: RLMForConditionalGeneration) -> dict[str, str]:
    """Returns the metrics whose every training row is of one language that has a regressor of its own, with that language."""
    if model.ensemble is None:
        return {}
    settings = model.ensemble.settings
    familiarity = model.config.fitted.familiarity
    found = {}
    for metric, domains in settings.domains.items():
        references = [familiarity.references[name] for name in familiarity.metrics.get(metric, ())]
        languages = {language for reference in references for language in reference.languages}
        if len(languages) == 1 and languages <= set(domains) & set(STRUCTURES):
            found[metric] = languages.pop()
    return found


def compact(model: RLMForConditionalGeneration) -> list[str]:
    """Drops the regressors that no text reaches from a model, in place.

    Args:
        model: Its fitted state says which languages the rows of each metric are of.

    Returns:
        The metrics that lost their first regressor.

    Raises:
        CheckpointError: There is no feature ensemble.
    """
    if model.ensemble is None:
        raise CheckpointError("The checkpoint has no feature ensemble, so there is nothing to drop.")
    old = model.ensemble
    moved = only_languages(model)
    settings = _without_first(old.settings, moved)
    model.add_ensemble(settings)
    places = {regressor: number for number, regressor in enumerate(old.settings.regressors)}
    taken = {places[_origin(each, moved)]: number for number, each in enumerate(settings.regressors)}
    carry_over(old, model.ensemble, taken, range(len(settings.metrics)))
    if settings.mlp_features:
        model.ensemble.mlps.load_state_dict(old.mlps.state_dict())  # their outputs keep their order
    return sorted(moved)


def _origin(regressor: Regressor, moved: Mapping[str, str]) -> Regressor:
    """Returns the regressor of before that a regressor of now was."""
    metric, domain = regressor
    return (metric, moved[metric]) if domain is None and metric in moved else regressor


def _without_first(old: EnsembleConfig, moved: Mapping[str, str]) -> EnsembleConfig:
    """Returns settings in which the regressor of a language is the first one of its metric.

    Args:
        old: Settings of before.
        moved: Metric to that language.
    """
    domains = {}
    for metric, names in old.domains.items():
        left = tuple(name for name in names if name != moved.get(metric))
        if left:
            domains[metric] = left
    mlps = []
    for answered in old.mlps:
        renamed = [(metric, None if moved.get(metric, "") == domain else domain) for metric, domain in answered]
        mlps.append(tuple(renamed))
    errors = dict(zip(old.regressors, old.residual_scales, strict=True))
    settings = replace(old, domains=domains, mlps=(), residual_scales=())
    scales = tuple(errors[_origin(each, moved)] for each in settings.regressors)
    return replace(settings, mlps=tuple(mlps), residual_scales=scales)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 and one line on a checkpoint that cannot be compacted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the copy")
    args = parser.parse_args(argv)
    try:
        if args.out.exists():
            raise CheckpointError(f"{args.out} is there already; choose another folder.")
        model, processor = load(args.checkpoint)
        dropped = compact(model)
        model.save_pretrained(args.out)
        processor.save_pretrained(args.out)
    except RLMError as error:
        print(f"compact: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {len(dropped)} regressors dropped ({', '.join(dropped)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
