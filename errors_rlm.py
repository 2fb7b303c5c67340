"""Errors raised by Code-RLM: one base class, messages that say what was given, what is allowed and what to do."""


class RLMError(ValueError):
    """Base class of every error that Code-RLM raises on purpose."""


class NumberRangeError(RLMError):
    """A value lies outside the range that the number format can hold."""


class NumberCodeError(RLMError):
    """A sequence of token ids is not a number of the format, or a value is not a number at all."""


class InputError(RLMError):
    """A text, file or batch cannot be read as model input."""


class UnfamiliarInputError(InputError):
    """An input is unlike the rows that a metric was trained on, and only familiar ones were asked for."""


class MetricError(RLMError):
    """A metric name, a `given` value or a quantile is not usable with this checkpoint."""


class CheckpointError(RLMError):
    """A checkpoint folder is missing, incomplete or not one of ours."""


class MissingPackageError(RLMError):
    """A package that only some uses need is not installed."""


__all__ = [
    "CheckpointError",
    "InputError",
    "MetricError",
    "MissingPackageError",
    "NumberCodeError",
    "NumberRangeError",
    "RLMError",
    "UnfamiliarInputError",
]
