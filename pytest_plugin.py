"""A pytest plugin: a test that fails where its code is predicted to need more than allowed.

    @pytest.mark.predicted(max_memory="500MB")                       # the test's own source
    def test_report(): ...

    @pytest.mark.predicted("solve.py", max_time="2s")                # a file, relative to the test's folder
    @pytest.mark.predicted(solve, limits={"latency_ms": "3ms"})      # a function or a class
    def test_solve(): ...

Nothing is imported before a marked test runs. `code_rlm_model` in pytest's configuration names another checkpoint than the
one that ships. Predictions for code unlike the training rows only warn, unless the marker has `unfamiliar="breach"`.
"""

import inspect
import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

_MARKER = "predicted"
_NAMED = {
    "max_memory": ("peak_rss_bytes", "peak_memory_bytes"),
    "max_time": ("cpu_time_ms", "wall_time_ms", "latency_ms"),
}
_PIPELINE = pytest.StashKey[Any]()


class PredictedCostWarning(UserWarning):
    """Code that was not checked against its limits, as it is unlike the training rows."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the setting that names the checkpoint."""
    parser.addini(
        "code_rlm_model", "checkpoint folder or hub id of predicted(); by default the weights that ship", default=""
    )


def pytest_configure(config: pytest.Config) -> None:
    """Describes the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(target=None, *, max_memory=None, max_time=None, limits=None, language='python', context=None, "
        "probability=0.5, unfamiliar='report'): fails where the code (a file, a function, or the test itself) is predicted to "
        "need more, with at least that probability",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Checks the markers of a test before it runs."""
    for marker in item.iter_markers(_MARKER):
        _check(item, *marker.args, **marker.kwargs)


def _check(
    item: pytest.Item,
    target: Any = None,
    *,
    max_memory: str | None = None,
    max_time: str | None = None,
    limits: Mapping[str, str] | None = None,
    language: str | None = None,
    context: Any = None,
    probability: float = 0.5,
    unfamiliar: str = "report",
) -> None:
    """Fails the test where its target is predicted to need more than allowed."""
    from code_rlm.checking.limits import Limits
    from code_rlm.console import quantity
    from code_rlm.errors_rlm import RLMError
    from code_rlm.familiarity_rlm import UNFAMILIAR

    if unfamiliar not in ("report", "breach"):
        pytest.fail(f"predicted(): unfamiliar must be 'report' or 'breach', got {unfamiliar!r}", pytrace=False)
    pipe = _pipeline(item.config)
    try:
        source = _source_of(item, target, language)
        named = {"max_memory": max_memory, "max_time": max_time}
        texts = {_metric(pipe, name, source["language"]): text for name, text in named.items() if text is not None}
        allowed = Limits.parse(pipe.model.config, {**texts, **dict(limits or {})}, {}, probability=probability)
        answers = pipe(source, metrics=allowed.metrics, above=allowed.most, context=context)
    except (RLMError, OSError, TypeError) as error:
        pytest.fail(f"predicted(): {error}", pytrace=False)
    breaches = []
    for entry in answers:
        described = (
            f"{entry['metric']} {quantity(entry['value'], entry['unit'])}, over {quantity(entry['limit'], entry['unit'])} "
            f"with probability {entry['probability_above']:.0%}"
        )
        is_unfamiliar = entry.get("familiarity") is not None and entry["familiarity"] < UNFAMILIAR
        if is_unfamiliar and unfamiliar == "report":
            reasons = "; ".join(entry["reasons"]) or "no single reason"
            warnings.warn(PredictedCostWarning(f"{described}; not checked: {reasons}"), stacklevel=1)
        elif entry["probability_above"] >= probability:
            breaches.append(described)
    if breaches:
        pytest.fail("predicted cost is over its limit: " + "; ".join(breaches), pytrace=False)


def _pipeline(config: pytest.Config) -> Any:
    """Returns the pipeline of a run, loaded once."""
    if _PIPELINE not in config.stash:
        from code_rlm.loading import pipeline

        config.stash[_PIPELINE] = pipeline(config.getini("code_rlm_model") or None)
    return config.stash[_PIPELINE]


def _metric(pipe: Any, name: str, language: str) -> str:
    """Returns the metric that `max_memory` or `max_time` stands for, of those that the checkpoint knows for a language."""
    from code_rlm.errors_rlm import MetricError

    known = [each["name"] for each in pipe.model.config.metrics if language in each["languages"]]
    found = next((metric for metric in _NAMED[name] if metric in known), None)
    if found is None:
        raise MetricError(
            f"{name} stands for {' or '.join(_NAMED[name])}, which the checkpoint does not predict for {language}; name a "
            f"metric: limits={{...}} with any of {', '.join(known) or 'none'}."
        )
    return found


def _source_of(item: pytest.Item, target: Any, language: str | None) -> dict[str, Any]:
    """Returns text and language of a file, of a function, or of the test itself without its decorators."""
    from code_rlm.processing_rlm import read_input

    if isinstance(target, (str, Path)):
        read = read_input(Path(item.path).parent / target, language=language)
        return {"text": read.text, "language": read.language or "python", "context": list(read.context)}
    function: Any = target if target is not None else getattr(item, "function", None)
    text = textwrap.dedent(inspect.getsource(function))
    if target is None:
        lines = text.splitlines(keepends=True)
        start = next(number for number, line in enumerate(lines) if line.startswith(("def ", "async def ")))
        text = "".join(lines[start:])
    return {"text": text, "language": language or "python"}


__all__ = ["PredictedCostWarning"]
