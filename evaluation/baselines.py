"""Regressors without a language model, to be reported beside every score of the model.

    from code_rlm.evaluation.baselines import BASELINES, fit_predict

    predictions = {name: fit_predict(name, train_texts, train_values, test_texts, groups=problem) for name in BASELINES}

They read the same texts as the model, header lines such as `# input_size: 1024x4096` included:

- `constant`: the median of the training values.
- `length_only`: gradient boosting on three numbers, the logarithms of characters, lines and tokens.
- `context_only`: gradient boosting on the numbers in the header lines; the input sizes alone.
- `tfidf_ridge`: ridge regression on TF-IDF weights of tokens (1 and 2) and of characters inside words (3 and 4), the
  lengths and the header numbers; its penalty chosen on groups held out from the training rows.
- `gradient_boosting`: gradient boosting on counts of the commonest tokens, the lengths and the header numbers.

`fit_predict_numbers` does the same from numbers that are known of each row, such as the operations of a network.

Where all training values are positive, all but `constant` fit their natural logarithms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_union
from threadpoolctl import threadpool_limits

from code_rlm.evaluation.metrics import EvaluationError

# Names, runs of digits and single symbols: "1024x4096" is 1024 and x4096, "%r10" is % and r10.
TOKEN_PATTERN = r"[^\W\d]\w*|\d+|[^\w\s]"
RIDGE_PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
COMMONEST_TOKENS = 256
TFIDF_FEATURES = 50_000
MOST_CONTEXT_KEYS = 32
_HEADER = re.compile(r"\s*(?:#|//|;|--)\s*([A-Za-z_][\w .@/-]*?)\s*:\s*(\S.*)")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?", re.IGNORECASE)
_JOINED = re.compile(r"\d+(?:[xX*]\d+)+")
_TOKEN = re.compile(TOKEN_PATTERN)


def context_sizes(text: str) -> dict[str, tuple[float, float, float]]:
    """Reads the numbers in the header lines of a text.

    Header lines are the comment lines of the form `# key: value` before anything else (`//`, `;` and `--` do as well).
    Numbers inside one pair of brackets, or joined by `x`, are the dimensions of one shape.

    Args:
        text: Input of the model.

    Returns:
        For each key whose value holds numbers, three natural logarithms: of the elements of all shapes together, of the
        largest number, and of the product of all numbers (each number counted as at least 1). For
        `[[8, 64], [64, 2]]` they are those of 640, of 64 and of 65536.
    """
    sizes: dict[str, tuple[float, float, float]] = {}
    for line in text.splitlines():
        match = _HEADER.fullmatch(line)
        if match is None:
            break
        value = _JOINED.sub(lambda joined: "(" + re.sub("[xX*]", " ", joined[0]) + ")", match[2])
        shapes = [
            [min(max(float(n), 1.0), 1e300) for n in _NUMBER.findall(part)] for part in re.split(r"[\[\](){};|]", value)
        ]
        logs = [np.log(shape) for shape in shapes if shape]
        if logs:
            elements = np.logaddexp.reduce([dimensions.sum() for dimensions in logs])
            together = np.concatenate(logs)
            sizes[match[1]] = (float(elements), float(together.max()), float(together.sum()))
    return sizes


def _length_features(texts: Sequence[str]) -> np.ndarray:
    """Logarithms of characters, lines and tokens, `(rows, 3)`."""
    counts = [(len(text), text.count("\n") + 1, len(_TOKEN.findall(text))) for text in texts]
    return np.log1p(np.array(counts, dtype=np.float64).reshape(len(texts), 3))


def _context_features(texts: Sequence[str], keys: Sequence[str]) -> np.ndarray:
    """`context_sizes` of the given keys, `(rows, 3 * keys)`; NaN where absent, which the boosting can split on."""
    absent = (math.nan, math.nan, math.nan)
    sizes = [context_sizes(text) for text in texts]
    return np.array([[size.get(key, absent) for key in keys] for size in sizes]).reshape(len(texts), 3 * len(keys))


def _context_keys(texts: Sequence[str]) -> list[str]:
    counts: dict[str, int] = {}
    for text in texts:
        for key in context_sizes(text):
            counts[key] = counts.get(key, 0) + 1
    return sorted(counts, key=lambda key: (-counts[key], key))[:MOST_CONTEXT_KEYS]


def _boost(train: np.ndarray, values: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    # Leaves of 20 rows would leave a table of 30 rows without a single split.
    leaf = max(1, min(20, len(values) // 10))
    model = HistGradientBoostingRegressor(
        max_iter=200, learning_rate=0.08, min_samples_leaf=leaf, early_stopping=False, random_state=seed
    )
    # One thread: the same sums in the same order on every machine, and no waiting for each other on a busy one.
    with threadpool_limits(limits=1):
        return model.fit(train, values).predict(test)


def _constant(train: Sequence[str], values: np.ndarray, test: Sequence[str], groups: np.ndarray, seed: int) -> Any:
    return np.full(len(test), np.median(values))


def _length_only(train: Sequence[str], values: np.ndarray, test: Sequence[str], groups: np.ndarray, seed: int) -> Any:
    return _boost(_length_features(train), values, _length_features(test), seed)


def _context_only(train: Sequence[str], values: np.ndarray, test: Sequence[str], groups: np.ndarray, seed: int) -> Any:
    keys = _context_keys(train)
    if not keys:
        return _constant(train, values, test, groups, seed)
    return _boost(_context_features(train, keys), values, _context_features(test, keys), seed)


def _gradient_boosting(
    train: Sequence[str], values: np.ndarray, test: Sequence[str], groups: np.ndarray, seed: int
) -> Any:
    keys = _context_keys(train)
    counter = CountVectorizer(lowercase=False, token_pattern=TOKEN_PATTERN, max_features=COMMONEST_TOKENS)
    counter.fit([*train, "x"])  # a vocabulary must not be empty, texts may be

    def features(texts: Sequence[str]) -> np.ndarray:
        counts = counter.transform(texts).toarray()
        return np.hstack([counts, _length_features(texts), _context_features(texts, keys)])

    return _boost(features(train), values, features(test), seed)


def _tfidf_ridge(train: Sequence[str], values: np.ndarray, test: Sequence[str], groups: np.ndarray, seed: int) -> Any:
    options = {"lowercase": False, "sublinear_tf": True, "max_features": TFIDF_FEATURES}
    weights = make_union(
        TfidfVectorizer(analyzer="word", token_pattern=TOKEN_PATTERN, ngram_range=(1, 2), **options),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), **options),
    )
    # A vocabulary must not be empty, texts may be: one text more for the fit alone.
    train_weights = weights.fit_transform([*train, "x x"])[:-1]
    keys = _context_keys(train)

    def numbers(texts: Sequence[str]) -> np.ndarray:
        return np.hstack([_length_features(texts), _context_features(texts, keys)])

    train_numbers = numbers(train)
    known = np.ma.masked_invalid(train_numbers)
    center = known.mean(axis=0).data
    scale = np.maximum(known.std(axis=0).filled(0.0), 1e-9)

    def joined(weights: Any, numbers: np.ndarray) -> csr_matrix:
        # An absent number counts as an average one.
        return csr_matrix(hstack([weights, np.nan_to_num((numbers - center) / scale)]))

    x, x_test = joined(train_weights, train_numbers), joined(weights.transform(test), numbers(test))

    def fit(rows: np.ndarray, penalty: float) -> Ridge:
        return Ridge(alpha=penalty, solver="sparse_cg", tol=1e-3, random_state=seed).fit(x[rows], values[rows])

    penalty, everything = 1.0, np.arange(len(values))
    held_out = _held_out(groups, seed)
    if held_out.any():
        seen = np.flatnonzero(~held_out)
        errors = [np.mean((fit(seen, p).predict(x[held_out]) - values[held_out]) ** 2) for p in RIDGE_PENALTIES]
        penalty = RIDGE_PENALTIES[int(np.argmin(errors))]
    return fit(everything, penalty).predict(x_test)


def _held_out(groups: np.ndarray, seed: int) -> np.ndarray:
    """Marks the rows of a fifth of the groups, `(rows,)`; of none where there are fewer than five groups."""
    names, index = np.unique(groups, return_inverse=True)
    chosen = np.random.default_rng(seed).permutation(names.size)[: names.size // 5]
    return np.isin(index, chosen)


_FITS: dict[str, Callable[[Sequence[str], np.ndarray, Sequence[str], np.ndarray, int], Any]] = {
    "constant": _constant,
    "length_only": _length_only,
    "context_only": _context_only,
    "tfidf_ridge": _tfidf_ridge,
    "gradient_boosting": _gradient_boosting,
}
BASELINES = tuple(_FITS)


def fit_predict(
    name: str,
    train_texts: Sequence[str],
    train_values: Any,
    test_texts: Sequence[str],
    *,
    groups: Any = None,
    seed: int = 0,
) -> np.ndarray:
    """Fits a baseline on the training texts and predicts the test texts.

    Args:
        name: One of `BASELINES`.
        train_texts: As the model reads them, header lines included.
        train_values: Targets in their own unit, `(train rows,)`, finite.
        test_texts: Texts to predict.
        groups: Name of each training row's group, `(train rows,)`, for the choice of the ridge penalty; every row is
            its own group when not given.
        seed: The same seed gives the same predictions.

    Returns:
        Predictions in the targets' unit, `(test rows,)`, float64.

    Raises:
        EvaluationError: An unknown name, no training rows, a value that is not finite, or lengths that differ.
    """
    if name not in _FITS:
        raise EvaluationError(f"unknown baseline {name!r}; choose from {', '.join(BASELINES)}")
    values = np.asarray(train_values, dtype=np.float64)
    if not len(train_texts) or values.shape != (len(train_texts),):
        raise EvaluationError(
            f"need one value for each training text and at least one; got {len(train_texts)} texts and values of the "
            f"shape {values.shape}"
        )
    if not np.isfinite(values).all():
        raise EvaluationError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} training values are not finite; leave these rows out"
        )
    labels = np.arange(values.size) if groups is None else np.asarray(groups)
    if labels.shape != values.shape:
        raise EvaluationError(f"groups must name one group a training row, {values.shape}; its shape is {labels.shape}")
    if not len(test_texts):
        return np.empty(0)
    labels = labels.astype(str)
    if name == "constant":
        return np.full(len(test_texts), np.median(values))
    return _in_logarithms(values, lambda scaled: _FITS[name](train_texts, scaled, test_texts, labels, seed))


def fit_predict_numbers(train_numbers: Any, train_values: Any, test_numbers: Any, *, seed: int = 0) -> np.ndarray:
    """Fits gradient boosting on the logarithms of known numbers and predicts.

    Args:
        train_numbers: Not negative, `(train rows,)`; NaN where unknown.
        train_values: Targets in their own unit, `(train rows,)`, finite.
        test_numbers: `(test rows,)`.
        seed: The same seed gives the same predictions.

    Returns:
        Predictions in the targets' unit, `(test rows,)`, float64.
    """
    train, test = (np.log1p(np.asarray(n, dtype=np.float64))[:, None] for n in (train_numbers, test_numbers))
    values = np.asarray(train_values, dtype=np.float64)
    return _in_logarithms(values, lambda scaled: _boost(train, scaled, test, seed))


def _in_logarithms(values: np.ndarray, fit: Callable[[np.ndarray], Any]) -> np.ndarray:
    """Predictions of `fit`, which is given centred and scaled values: logarithms where all are positive."""
    logarithmic = bool((values > 0).all())
    fitted = np.log(values) if logarithmic else values
    # A shift and scale make the penalties mean the same for bytes and for milliseconds.
    shift, scale = fitted.mean(), fitted.std() or 1.0
    prediction = np.asarray(fit((fitted - shift) / scale), dtype=np.float64) * scale + shift
    return np.exp(prediction) if logarithmic else prediction


__all__ = ["BASELINES", "context_sizes", "fit_predict", "fit_predict_numbers"]
