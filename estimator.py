"""`CodeRegressor`: fit a table of code, predict numbers with exact quantiles, with the conventions of scikit-learn.

    from code_rlm import CodeRegressor

    regressor = CodeRegressor(metric="latency_ms", language="python")
    regressor.fit(codes, latencies, groups=kernels)
    regressor.predict_interval(new_codes, level=0.9)

`fit` is `code-rlm train` and its calibration: rows are split by group, the feature ensemble of a checkpoint is fitted to the
training rows, and pooling and calibration to the validation rows. Without gradient steps (`steps=0`, the default) that takes
half a minute on one core for 1,200 short programs (`benchmarks/fine_tune.py`).
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from transformers.utils import cached_file, logging

from code_rlm import console
from code_rlm.data.schema import DataError, Example, to_dataset, validate
from code_rlm.errors_rlm import CheckpointError, InputError, MetricError
from code_rlm.loading import load, pipeline
from code_rlm.pipeline_rlm import CodeRegressionPipeline
from code_rlm.processing_rlm import CodeInput, context_lines, read_input

_SETTINGS_NAME = "regressor.json"  # beside a saved regressor's checkpoint
_TEXT_COLUMNS = ("text", "code")
_STEPS_OPTIONS = {"lora": {"rank": 16}, "learning_rate": 3e-4}  # of the README's fine-tuning, where there are steps


class CodeRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Predicts one number or several from code, with exact quantiles, calibrated on rows held out by group.

    Inputs X: a list, a NumPy array or a pandas Series of whatever the pipeline takes (code as str, dicts with `text`,
    `language` and `context`, paths, ONNX graphs); or a pandas DataFrame or a `datasets.Dataset` with a column `text` or `code`
    and, where they are there, `language` and `context`. A cell of `context` is a mapping, a text or a list of texts.

    Args:
        metric: Name of what is predicted, its unit in it ("latency_ms"), or several names for several targets. None: the name
            of the Series or the columns of the DataFrame y, else "value".
        language: Language of inputs that do not name their own; None: told by the input.
        init: Checkpoint folder or hub id that `fit` starts from; None: the weights that ship.
        steps: Optimiser steps of LoRA; 0 fits the feature ensemble alone, which is quick.
        validation: Share of the groups that pooling and calibration are fitted to.
        smaller_is_better: Direction for `rank`.
        options: Further options of `code-rlm train` by name, such as `{"ensemble": {"trees": 200}}`.
        batch_size: Inputs that are predicted together.
        random_state: Seed of the split, the fit and the samples.
        verbose: 0: quiet; 1: log lines of the fit, and on a terminal progress bars.

    Attributes:
        metrics_: Names of the targets.
        pipeline_: The fitted `CodeRegressionPipeline`.
        fit_log_: What the fit logged, a list of lines.
        is_multi_target_: Whether y had two dimensions, and answers have one more.
    """

    def __init__(
        self,
        metric: str | Sequence[str] | None = None,
        *,
        language: str | None = None,
        init: str | os.PathLike | None = None,
        steps: int = 0,
        validation: float = 0.15,
        smaller_is_better: bool = True,
        options: Mapping[str, Any] | None = None,
        batch_size: int = 32,
        random_state: int = 0,
        verbose: int = 0,
    ):
        self.metric = metric
        self.language = language
        self.init = init
        self.steps = steps
        self.validation = validation
        self.smaller_is_better = smaller_is_better
        self.options = options
        self.batch_size = batch_size
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        tags.target_tags.multi_output = True
        return tags

    # ------------------------------------------------------------------------------------------------ fit

    def fit(self, X: Any, y: ArrayLike, groups: ArrayLike | None = None) -> "CodeRegressor":
        """Fits a table.

        Args:
            X: Inputs, see the class.
            y: Targets `(rows,)`, or `(rows, targets)` for several, in which NaN is a missing value.
            groups: What each row belongs to `(rows,)`, such as the problem that several programs solve: no group is both
                trained and calibrated on. None: equal texts make a group.

        Returns:
            The regressor.

        Raises:
            InputError: Inputs that cannot be read, or of another number than the targets.
            DataError: Targets that cannot be learned from.
            TrainError: Options that cannot be used.
        """
        from code_rlm.train import train  # imports accelerate
        from code_rlm.training.ensemble import LEAST_ROWS
        from code_rlm.training.options import make_options

        inputs = self._read(X)
        names, targets, several = _targets(y, self.metric)
        if len(inputs) != len(targets):
            raise InputError(f"X has {len(inputs)} rows and y has {len(targets)}.")
        rows = _examples(inputs, names, targets, groups)
        lines: list[str] = []
        bars = contextlib.nullcontext() if self.verbose else console.without_bars()
        with tempfile.TemporaryDirectory(prefix="code-rlm-") as folder, _without_library_bars(), bars:
            table = Path(folder) / "rows.parquet"
            pq.write_table(rows.data.table, table)
            options = make_options(**self._train_options(table, Path(folder) / "run", names))
            model, processor = load(train(options, lambda text: self._log(text, lines)))
        for name in names:
            if not self.steps and name not in model.config.fitted.score_scales:
                raise DataError(
                    f"{name}: {len(inputs)} rows leave too few to fit without steps: {LEAST_ROWS} training rows with different "
                    "values are needed. Give more rows, or a smaller validation share."
                )
        self.pipeline_: CodeRegressionPipeline = pipeline(model, processor)
        self.metrics_ = names
        self.is_multi_target_ = several
        self.fit_log_ = lines
        return self

    def _log(self, text: str, lines: list[str]) -> None:
        """Keeps a line of the fit, and prints it where the regressor is verbose."""
        lines.append(text)
        if self.verbose:
            console.log(text)

    def _train_options(self, table: Path, out: Path, names: Sequence[str]) -> dict[str, Any]:
        """Returns the options of `code-rlm train` for a table in the schema."""
        steps = {**_STEPS_OPTIONS, "eval_every": max(1, int(self.steps) // 10)} if self.steps else {}
        registry = [{"name": name, "smaller_is_better": bool(self.smaller_is_better)} for name in names]
        return {
            "data": [{"file": str(table), "validation": self.validation, "test": 0.0}],
            "init": os.fspath(self.init or "default"),
            "steps": self.steps,
            "seed": self.random_state,
            "max_objectives": 1,  # every target is asked for alone
            "metrics": registry,
            **steps,
            **dict(self.options or {}),
            "out": str(out),
        }

    # ------------------------------------------------------------------------------------------------ answers

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Returns medians, float64 `(rows,)`, or `(rows, targets)`; NaN where the model expects no number."""
        return self._squeezed(self._quantiles(X, ())[:, :, 1])

    def predict_quantiles(self, X: Any, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> NDArray[np.float64]:
        """Returns exact quantiles, float64 `(rows, levels)`, or `(rows, targets, levels)`.

        Args:
            X: Inputs.
            quantiles: Levels, each inside (0, 1).

        Raises:
            MetricError: A level outside (0, 1).
        """
        levels = tuple(np.atleast_1d(np.asarray(quantiles, dtype=float)).tolist())
        if not levels:
            raise MetricError("quantiles is empty; name at least one level, such as 0.5.")
        return self._squeezed(self._quantiles(X, levels)[:, :, 3:])

    def predict_interval(self, X: Any, level: float = 0.9) -> NDArray[np.float64]:
        """Returns the ends of central intervals, float64 `(rows, 2)`, or `(rows, targets, 2)`.

        Args:
            X: Inputs.
            level: Probability that the interval holds, inside (0, 1).

        Raises:
            MetricError: A level outside (0, 1).
        """
        return self._squeezed(self._quantiles(X, (), interval=level)[:, :, [0, 2]])

    def prob_above(self, X: Any, limit: float | Sequence[float]) -> NDArray[np.float64]:
        """Returns P(y > limit), exact, float64 `(rows,)`, or `(rows, targets)`.

        Args:
            X: Inputs.
            limit: In the target's unit; one for each target, or one for all.

        Raises:
            MetricError: Limits of another number than the targets, or not finite.
        """
        check_is_fitted(self)
        limits = np.asarray(limit, dtype=float)
        if limits.ndim == 0:
            limits = np.broadcast_to(limits, (len(self.metrics_),))
        if len(limits) != len(self.metrics_):
            raise MetricError(f"{len(self.metrics_)} targets need one limit each, or one for all; got {len(limits)}.")
        above = dict(zip(self.metrics_, limits.tolist(), strict=True))
        entries = self._answers(X, above=above)
        return self._squeezed(np.array([[entry["probability_above"] for entry in row] for row in entries]))

    def sample(self, X: Any, n: int = 64) -> NDArray[np.float64]:
        """Returns draws from each input's distribution, float64 `(rows, n)`, or `(rows, targets, n)`; NaN for no number.

        Targets are drawn independently of each other, with the seed of `random_state`.
        """
        entries = self._answers(X, num_samples=n, seed=self.random_state)
        return self._squeezed(np.array([[_numbers(entry["samples"]) for entry in row] for row in entries]))

    def rank(self, X: Any, metric: str | None = None) -> list[dict[str, Any]]:
        """Ranks inputs by one target, the best first, see `CodeRegressionPipeline.rank`.

        Args:
            X: Inputs.
            metric: Which target; None for the only one.

        Raises:
            MetricError: None where there are several, or a name that is no target.
        """
        check_is_fitted(self)
        if metric is None and len(self.metrics_) > 1:
            raise MetricError(f"rank() needs a metric: one of {', '.join(self.metrics_)}.")
        inputs = self._read(X)
        return self.pipeline_.rank(inputs, metric or self.metrics_[0], batch_size=self.batch_size)

    def explain(self, X: Any) -> list[dict[str, Any]]:
        """Returns which parts of each input carry its first target, see `CodeRegressionPipeline.explain`."""
        check_is_fitted(self)
        return [self.pipeline_.explain(item, self.metrics_[0]) for item in self._read(X)]

    def _quantiles(self, X: Any, levels: tuple[float, ...], interval: float = 0.9) -> NDArray[np.float64]:
        """Returns low, median, high and further quantiles, float64 `(rows, targets, 3 + levels)`."""
        options: dict[str, Any] = {"quantiles": levels} if levels else {}
        entries = self._answers(X, interval=interval, **options)
        keys = ("low", "value", "high")
        return np.array(
            [
                [_numbers([*(entry[key] for key in keys), *entry.get("quantiles", {}).values()]) for entry in row]
                for row in entries
            ]
        )

    def _answers(self, X: Any, **options: Any) -> list[list[dict[str, Any]]]:
        """Returns the pipeline's answers, every target asked for alone, as calibrations are fitted: `(rows, targets)`."""
        check_is_fitted(self)
        inputs = self._read(X)
        if not inputs:
            raise InputError("There are no inputs: X is empty.")
        size = 8 * self.batch_size
        parts = [inputs[i : i + size] for i in range(0, len(inputs), size)]
        shown = console.with_progress(parts, len(inputs), "inputs") if self.verbose else iter(parts)
        rows: list[list[dict[str, Any]]] = []
        for part in shown:
            by_metric = [
                self.pipeline_(part, metrics=[name], batch_size=self.batch_size, **options) for name in self.metrics_
            ]
            rows += [[answer[0] for answer in answers] for answers in zip(*by_metric, strict=True)]
        return rows

    def _squeezed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns values `(rows, targets, ...)` without the axis of targets where y had one dimension."""
        return values if self.is_multi_target_ else values[:, 0]

    def _read(self, X: Any) -> list[CodeInput]:
        """Returns the inputs.

        Raises:
            InputError: Inputs that cannot be read; the message names the row.
        """
        inputs = []
        for position, item in enumerate(_records(X)):
            try:
                inputs.append(read_input(item, language=self.language))
            except InputError as error:
                raise InputError(f"Row {position}: {error}") from None
        return inputs

    # ------------------------------------------------------------------------------------------------ storage

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the fitted checkpoint, which `code-rlm predict --model` reads too, and the regressor's settings.

        Args:
            folder: Where to; made if it is not there.
        """
        check_is_fitted(self)
        self.pipeline_.model.save_pretrained(folder)
        self.pipeline_.processor.save_pretrained(folder)
        settings = {
            "metrics": list(self.metrics_),
            "is_multi_target": self.is_multi_target_,
            "parameters": {
                name: os.fspath(value) if isinstance(value, os.PathLike) else value
                for name, value in self.get_params(deep=False).items()
            },
        }
        (Path(folder) / _SETTINGS_NAME).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "CodeRegressor":
        """Reads what `save` wrote; see `from_pretrained`."""
        return cls.from_pretrained(folder)

    @classmethod
    def from_pretrained(cls, checkpoint: str | os.PathLike, **parameters: Any) -> "CodeRegressor":
        """Makes a fitted regressor of a checkpoint: one that `save` wrote, or any other of this package.

        Args:
            checkpoint: Folder or hub id.
            **parameters: Parameters to set. A checkpoint that `save` did not write needs `metric`.

        Raises:
            CheckpointError: No checkpoint there.
            MetricError: A metric that the checkpoint does not know, or none.
        """
        model, processor = load(checkpoint)
        settings = _saved_settings(checkpoint)
        regressor = cls(**{**settings.get("parameters", {}), **parameters})
        given = regressor.metric if "metric" in parameters or not settings else None
        names = settings["metrics"] if given is None and settings else given
        if names is None:
            known = ", ".join(model.config.metric_names())
            raise MetricError(
                f"{checkpoint} is no saved CodeRegressor, so name the metric: metric=..., one of {known}."
            )
        regressor.metrics_ = [names] if isinstance(names, str) else list(names)
        for name in regressor.metrics_:
            model.config.metric(name)
        several = not isinstance(names, str) and len(names) > 1
        regressor.is_multi_target_ = settings["is_multi_target"] if given is None and settings else several
        regressor.pipeline_ = pipeline(model, processor)
        regressor.fit_log_ = []
        return regressor

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | bool | None = None) -> str:
        """Uploads what `save` writes to the Hub, which `from_pretrained` and the pipeline read.

        Args:
            repo_id: `user/name`; made if it is not there.
            private: Whether a new repository is private.
            token: Of the Hub.

        Returns:
            The address of the commit.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory(prefix="code-rlm-") as folder:
            self.save(folder)
            return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload CodeRegressor"))

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is pickled: of the pipeline its model and its processor."""
        state = dict(super().__getstate__())
        if "pipeline_" in state:
            fitted = state.pop("pipeline_")
            state["_fitted"] = (fitted.model, fitted.processor.tokenizer)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        fitted = state.pop("_fitted", None)
        super().__setstate__(state)
        if fitted is not None:
            self.pipeline_ = pipeline(*fitted)


@contextlib.contextmanager
def _without_library_bars() -> Iterator[None]:
    """Keeps the library's own progress bars off."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


# ------------------------------------------------------------------------------------------------------ tables


def _records(X: Any) -> Iterable[Any]:
    """Returns the rows of X as the pipeline takes them.

    Raises:
        InputError: No inputs, one input in place of a list, or a table without a column of code.
    """
    columns = getattr(X, "column_names", None) or getattr(X, "columns", None)
    if columns is not None and not isinstance(X, Mapping):
        names = [str(name) for name in columns]
        text = next((name for name in _TEXT_COLUMNS if name in names), None)
        if text is None:
            raise InputError(f"A table of inputs needs a column named text or code, got {', '.join(names) or 'none'}.")
        kept = [name for name in (text, "language", "context") if name in names]
        cells = [list(X[name]) for name in kept]
        return [_record(dict(zip(("text", *kept[1:]), row, strict=True))) for row in zip(*cells, strict=True)]
    if isinstance(X, (str, bytes, Mapping, os.PathLike, CodeInput)):
        raise InputError("X must be a list of inputs, got one; write [X].")
    if isinstance(X, np.ndarray) or hasattr(X, "__array__"):
        array = np.asarray(X)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            raise InputError(f"X must have one dimension (rows,), or one column of code; got the shape {array.shape}.")
        return array.tolist()
    if not isinstance(X, Iterable):
        raise InputError(f"X must be a list of inputs, got {type(X).__name__}.")
    return X


def _record(cells: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of a table with plain cells, those without a value left out."""
    plain = {name: cell.tolist() if hasattr(cell, "tolist") else cell for name, cell in cells.items()}
    return {name: cell for name, cell in plain.items() if name == "text" or not (cell is None or cell != cell)}


def _targets(y: Any, metric: str | Sequence[str] | None) -> tuple[list[str], NDArray[np.float64], bool]:
    """Returns the targets' names, their values `(rows, targets)`, and whether y has two dimensions.

    Raises:
        DataError: Targets that are no numbers, or infinite, or NaN where there is one target.
        MetricError: Names of another number than the targets.
    """
    if y is None:
        raise DataError("y is None: a regressor requires y to be passed, one number for each input.")
    try:
        values = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"y must hold numbers: {error}") from None
    if values.ndim not in (1, 2):
        raise DataError(f"y must be (rows,) or (rows, targets), got the shape {values.shape}.")
    several = values.ndim == 2
    table = values if several else values[:, None]
    if np.isinf(table).any() or (not several and np.isnan(table).any()):
        raise DataError(
            "y holds NaN or infinity; leave such rows out, or give a 2-D y, in which NaN is a missing value."
        )
    names = metric
    if names is None:
        columns = getattr(y, "columns", None)
        names = [getattr(y, "name", None) or "value"] if columns is None else list(columns)
        if columns is None and several and table.shape[1] > 1:
            names = [f"value_{number}" for number in range(table.shape[1])]
    names = [names] if isinstance(names, str) else [str(name) for name in names]
    if len(names) != table.shape[1]:
        raise MetricError(f"y has {table.shape[1]} targets and metric names {len(names)}: {', '.join(names)}.")
    return names, table, several


def _examples(
    inputs: Sequence[CodeInput], names: Sequence[str], targets: NDArray[np.float64], groups: ArrayLike | None
) -> Dataset:
    """Returns a data set in the schema.

    Raises:
        InputError: Groups of another number than the inputs, or an input of an unknown language.
        DataError: Rows that are not in the schema.
    """
    labels = [""] * len(inputs) if groups is None else [str(each) for each in np.asarray(groups).tolist()]
    if len(labels) != len(inputs):
        raise InputError(f"X has {len(inputs)} rows and groups has {len(labels)}.")
    rows = []
    for position, (item, label, values) in enumerate(zip(inputs, labels, targets.tolist(), strict=True)):
        if item.language is None:
            raise InputError(f"Row {position}: its language is not known; set language=..., such as 'python'.")
        known = [None if value != value else value for value in values]
        context = list(context_lines(list(item.context)))
        rows.append(Example(item.text, item.language, list(names), known, None, context, label, "fit"))
    dataset = to_dataset(rows)
    validate(dataset, source="X, y")
    return dataset


def _numbers(values: Sequence[float | str | None]) -> list[float]:
    """Returns numbers of an answer as floats: NaN for none, infinities for their words."""
    return [float("nan") if value is None or value == "failed" else float(value) for value in values]


def _saved_settings(checkpoint: str | os.PathLike) -> dict[str, Any]:
    """Returns what `save` wrote beside a checkpoint, nothing where it wrote none.

    Raises:
        CheckpointError: The file cannot be read.
    """
    where = os.fspath(checkpoint)
    path: str | None = os.path.join(where, _SETTINGS_NAME)
    if not os.path.isdir(where):
        try:
            path = cached_file(where, _SETTINGS_NAME, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            path = None
    if path is None or not os.path.isfile(path):
        return {}
    try:
        entry = json.loads(Path(path).read_text(encoding="utf-8"))
        return {name: entry[name] for name in ("metrics", "is_multi_target", "parameters")}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not JSON of a CodeRegressor's settings: {error!r}.") from None


__all__ = ["CodeRegressor"]
