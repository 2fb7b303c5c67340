"""Code-RLM: regression language models that read code and answer with numbers.

    import code_rlm

    pipe = code_rlm.pipeline()
    pipe("examples/sieve.py")

Importing the package registers its classes with transformers: `AutoConfig`, `AutoModel`, `AutoModelForSeq2SeqLM`,
`AutoTokenizer`, and the task `code-regression`, whose default model is the checkpoint that ships in the package.
"""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.pipelines import PIPELINE_REGISTRY

from code_rlm.configuration_rlm import TASK, Metric, RLMConfig
from code_rlm.errors_rlm import (
    CheckpointError,
    InputError,
    MetricError,
    NumberCodeError,
    NumberRangeError,
    RLMError,
)
from code_rlm.generation_rlm import NumberLogitsProcessor, Prediction
from code_rlm.loading import DEFAULT_CHECKPOINT, load, pipeline
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import FAILED, NumberCodec, NumberFormat, is_failed
from code_rlm.onnx_text_rlm import onnx_to_text
from code_rlm.pipeline_rlm import CodeRegressionPipeline
from code_rlm.tokenization_rlm import RLMTokenizer

__version__ = "0.1.0"


def _register() -> None:
    AutoConfig.register(RLMConfig.model_type, RLMConfig, exist_ok=True)
    AutoModel.register(RLMConfig, RLMForConditionalGeneration, exist_ok=True)
    AutoModelForSeq2SeqLM.register(RLMConfig, RLMForConditionalGeneration, exist_ok=True)
    AutoTokenizer.register(RLMConfig, fast_tokenizer_class=RLMTokenizer, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=CodeRegressionPipeline,
            pt_model=AutoModelForSeq2SeqLM,
            default={"model": (str(DEFAULT_CHECKPOINT), None)},
            type="text",
        )


_register()

__all__ = [
    "DEFAULT_CHECKPOINT",
    "FAILED",
    "CheckpointError",
    "CodeRegressionPipeline",
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
    "RLMTokenizer",
    "is_failed",
    "load",
    "onnx_to_text",
    "pipeline",
]
