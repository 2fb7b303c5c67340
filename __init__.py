"""Code-RLM: regression language models that read code and answer with numbers.

    import code_rlm

    pipe = code_rlm.pipeline()
    pipe("examples/sieve.py")

Importing the package registers its classes with transformers: `AutoConfig`, `AutoModel`, `AutoModelForSeq2SeqLM`,
`AutoTokenizer`, `AutoProcessor`, and the task `code-regression`, whose default model is the checkpoint that ships in the
package. The import itself is light: public names are imported when they are first used, and where transformers is not yet
imported, the classes are registered as soon as its pipelines or its auto classes are.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from code_rlm.registration import register_with_transformers

if TYPE_CHECKING:
    from code_rlm.configuration_rlm import Metric, RLMConfig
    from code_rlm.errors_rlm import (
        CheckpointError,
        InputError,
        MetricError,
        NumberCodeError,
        NumberRangeError,
        RLMError,
    )
    from code_rlm.estimator import CodeRegressor
    from code_rlm.generation_rlm import NumberLogitsProcessor, Prediction
    from code_rlm.loading import DEFAULT_CHECKPOINT, load, pipeline
    from code_rlm.modeling_rlm import RLMForConditionalGeneration
    from code_rlm.numbers_rlm import FAILED, NumberCodec, NumberFormat, is_failed
    from code_rlm.onnx_text_rlm import onnx_to_text
    from code_rlm.pipeline_rlm import CodeRegressionPipeline
    from code_rlm.processing_rlm import RLMProcessor
    from code_rlm.tokenization_rlm import RLMTokenizer

__version__ = "0.1.0"

# The module of each public name.
_MODULES = {
    "CheckpointError": "errors_rlm",
    "CodeRegressionPipeline": "pipeline_rlm",
    "CodeRegressor": "estimator",
    "DEFAULT_CHECKPOINT": "loading",
    "FAILED": "numbers_rlm",
    "InputError": "errors_rlm",
    "Metric": "configuration_rlm",
    "MetricError": "errors_rlm",
    "NumberCodeError": "errors_rlm",
    "NumberCodec": "numbers_rlm",
    "NumberFormat": "numbers_rlm",
    "NumberLogitsProcessor": "generation_rlm",
    "NumberRangeError": "errors_rlm",
    "Prediction": "generation_rlm",
    "RLMConfig": "configuration_rlm",
    "RLMError": "errors_rlm",
    "RLMForConditionalGeneration": "modeling_rlm",
    "RLMProcessor": "processing_rlm",
    "RLMTokenizer": "tokenization_rlm",
    "is_failed": "numbers_rlm",
    "load": "loading",
    "onnx_to_text": "onnx_text_rlm",
    "pipeline": "loading",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the names that the package has, those not yet imported included."""
    return sorted({*globals(), *_MODULES})


register_with_transformers()

__all__ = [
    "DEFAULT_CHECKPOINT",
    "FAILED",
    "CheckpointError",
    "CodeRegressionPipeline",
    "CodeRegressor",
    "InputError",
    "Metric",
    "MetricError",
    "NumberCodeError",
    "NumberCodec",
    "NumberFormat",
    "NumberLogitsProcessor",
    "NumberRangeError",
    "Prediction",
    "RLMConfig",
    "RLMError",
    "RLMForConditionalGeneration",
    "RLMProcessor",
    "RLMTokenizer",
    "is_failed",
    "load",
    "onnx_to_text",
    "pipeline",
]
