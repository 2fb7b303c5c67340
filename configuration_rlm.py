"""RLMConfig: any Hugging Face encoder's config, embedded whole, plus the decoder, number format and metrics registry."""

import copy
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .calibration_rlm import Calibration
from .errors_rlm import CheckpointError, MetricError
from .expert_rlm import LexicalExpert
from .lexical_rlm import LexicalSettings
from .numbers_rlm import NumberFormat
from .templates_rlm import template_parts

TASK = "code-regression"
CUSTOM_PIPELINES = {TASK: {"impl": "pipeline_rlm.CodeRegressionPipeline", "pt": ["AutoModelForSeq2SeqLM"]}}
AUTO_MAP = {
    "AutoConfig": "configuration_rlm.RLMConfig",
    "AutoModel": "modeling_rlm.RLMForConditionalGeneration",
    "AutoModelForSeq2SeqLM": "modeling_rlm.RLMForConditionalGeneration",
}
# Library models whose decoder can write our numbers, see t5gemma_rlm.py.
LIBRARY_DECODERS = ("t5gemma",)
# What an embedded config may never carry into the model: code to run, kernels to load, where to fetch from.
_FORBIDDEN = (
    "auto_map",
    "trust_remote_code",
    "custom_pipelines",
    "name_or_path",
    "_name_or_path",
    "quantization_config",
)
# Nor its own dtype: a checkpoint has one, the whole model's.
_NOT_EMBEDDED = (*_FORBIDDEN, "attn_implementation", "experts_implementation", "dtype", "torch_dtype")
_METRIC_NAME = re.compile(r"[^\s,@]+(@[^\s,@]+)?")


@dataclass(frozen=True)
class Metric:
    """One entry of a checkpoint's registry of metrics.

    Attributes:
        name: Name with its unit, and the device after `@` where there is one: `latency_ms@pixel3`.
        unit: Unit as people write it: `ms`, `bytes`, `%`; empty for a plain number.
        smaller_is_better: Direction, for ranking.
        description: What was measured, on what hardware and how.
        kinds: Kinds of input it belongs to, the `language` of examples: `python`, `x86asm`, `triton`, `onnx`, ...
        template: The whole text that the model reads for it, such as `"# Language: {language}\\n{text}"`, see
            `templates_rlm`; such a metric is asked for alone. Empty: the header of `inputs_rlm.format_header`, then the code.
        max_input_tokens: Its own limit on the input's length; None for the checkpoint's.
    """

    name: str
    unit: str = ""
    smaller_is_better: bool = True
    description: str = ""
    kinds: tuple[str, ...] = ()
    template: str = ""
    max_input_tokens: int | None = None

    def __post_init__(self):
        if isinstance(self.kinds, str):
            raise MetricError(
                f"kinds must be a list of kinds of input, got the text {self.kinds!r}. Write [{self.kinds!r}]."
            )
        object.__setattr__(self, "kinds", tuple(self.kinds))
        if not isinstance(self.name, str) or not _METRIC_NAME.fullmatch(self.name):
            raise MetricError(
                f"{self.name!r} is not a metric name. Use one word, the unit in it, a device after '@': 'latency_ms@pixel3'."
            )
        if not isinstance(self.template, str):
            raise MetricError(f"{self.name}: the template must be a text, got {type(self.template).__name__}.")
        if self.template:
            template_parts(self.template, self.name)
        if self.max_input_tokens is not None and (type(self.max_input_tokens) is not int or self.max_input_tokens < 16):
            raise MetricError(
                f"{self.name}: max_input_tokens must be a whole number of at least 16, got {self.max_input_tokens!r}."
            )

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> "Metric":
        """Builds an entry from its JSON form; unknown keys are an error."""
        if unknown := set(entry) - {f.name for f in fields(cls)}:
            raise MetricError(f"Metric {entry.get('name')!r} has unknown keys {sorted(unknown)}.")
        return cls(**entry)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready fields; a template and a limit only where there is one."""
        entry = {**asdict(self), "kinds": list(self.kinds)}
        return {key: value for key, value in entry.items() if value or key not in ("template", "max_input_tokens")}


class RLMConfig(PreTrainedConfig):
    r"""Configuration of a regression language model (arXiv 2509.26476).

    Args:
        encoder: Config of any text encoder known to transformers, as an object or a dict with `model_type`. It is
            embedded whole, so that loading a checkpoint never fetches another one. None: a small ModernBERT.
        encoder_layers: Which encoder layers the decoder reads: None for the last, or several indices into the encoder's
            hidden states (0 the embeddings, negative from the end), mixed with learned weights.
        decoder: Config of a library model whose decoder writes the numbers (T5Gemma), embedded like `encoder`. None: our small
            decoder, which the `decoder_*` sizes describe; with a library decoder they are its own.
        regression_head: Whether a linear head on the mean of the memory answers (`regress`), in checkpoints that were trained
            by squared error and whose decoder was not trained at all.
        regression_scale: Shift and scale of its answer, `shift + scale * head`: the mean and the standard deviation of the
            numbers that it was trained on, or 0 and 1.
        decoder_hidden_size: Width of the decoder.
        decoder_intermediate_size: Width of its gated feed-forward layers.
        decoder_num_layers: Number of decoder layers.
        decoder_num_attention_heads: Heads of its self- and cross-attention.
        decoder_num_key_value_heads: Key/value heads of its cross-attention (grouped-query attention): projecting the
            encoder's memory is what decoding costs, and it shrinks with them.
        decoder_dropout: Dropout of the decoder.
        max_objectives: The most metrics that one answer can hold.
        max_input_tokens: Longest input in tokens; longer code loses its middle, and the answer says how much.
        number_format: Fields of a `NumberFormat`.
        metrics: Registry of the metrics that the checkpoint knows, a list of `Metric` fields.
        default_metrics: Kind of input to the metrics that are predicted where none is asked for.
        magnitudes: Whether the encoder is told how large the text's numbers are (`MagnitudeEmbedding`).
        lexical: Fields of `LexicalSettings`: the regressors on n-grams whose scores the decoder reads beside the encoder's
            memory. None: there are none.
        experts: Metric to the fields of its `LexicalExpert`: how much its score weighs beside the decoder's distribution.
            Fitted on validation rows at the end of training, and only true of the weights that they were fitted with.
        calibration: Metric to the fields of its `Calibration`, a map of levels fitted on validation rows by
            `code-rlm calibrate`. Only true of the weights that it was fitted with: further training takes it off.
        freeze_encoder: Whether the encoder is left out of training.
        constrain_numbers: Whether `generate()` keeps to the number grammar.
    """

    model_type = "code-rlm"
    sub_configs: ClassVar[dict[str, Any]] = {"encoder": AutoConfig, "decoder": AutoConfig}
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "decoder_hidden_size",
        "num_attention_heads": "decoder_num_attention_heads",
        "num_hidden_layers": "decoder_num_layers",
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]

    encoder: Any = None
    encoder_layers: list[int] | None = None
    decoder: Any = None
    regression_head: bool = False
    regression_scale: list[float | int] | None = None
    decoder_hidden_size: int = 256
    decoder_intermediate_size: int = 512
    decoder_num_layers: int = 2
    decoder_num_attention_heads: int = 4
    decoder_num_key_value_heads: int = 2
    decoder_dropout: float | int = 0.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    max_objectives: int = 8
    max_input_tokens: int = 2048
    number_format: dict[str, Any] | None = None
    metrics: list[dict[str, Any]] | None = None
    default_metrics: dict[str, list[str]] | None = None
    magnitudes: bool = False
    lexical: dict[str, Any] | None = None
    experts: dict[str, dict[str, Any]] | None = None
    calibration: dict[str, dict[str, Any]] | None = None
    freeze_encoder: bool = False
    constrain_numbers: bool = True
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = 0

    def __post_init__(self, **kwargs):
        self.encoder = self._encoder_config(self.encoder)
        if self.decoder is not None:
            self._read_library_decoder()
        self.number_format = NumberFormat(**(self.number_format or {})).to_dict()
        self.metrics = [Metric.from_dict(dict(m)).to_dict() for m in self.metrics or []]
        names = [m["name"] for m in self.metrics]
        if repeated := sorted({n for n in names if names.count(n) > 1}):
            raise MetricError(f"The metrics registry names {repeated} more than once.")
        self.default_metrics = dict(self.default_metrics or {})
        for kind, wanted in self.default_metrics.items():
            if unknown := [n for n in wanted if n not in names]:
                raise MetricError(
                    f"default_metrics[{kind!r}] names {unknown}, which the registry does not have: {names}."
                )
        self.regression_scale = [float(x) for x in self.regression_scale or (0.0, 1.0)]
        if len(self.regression_scale) != 2 or not self.regression_scale[1] > 0:
            raise CheckpointError(
                f"regression_scale must be a shift and a scale above zero, got {self.regression_scale}."
            )
        if self.lexical is not None:
            self.lexical = LexicalSettings.from_dict(self.lexical).to_dict()
        self.experts = {name: LexicalExpert.from_dict(e).to_dict() for name, e in (self.experts or {}).items()}
        path = LexicalSettings.from_dict(self.lexical or {})
        known = [c for c, scale in zip(path.channels, path.scales, strict=True) if scale is not None]
        if unknown := sorted(set(self.experts) - set(known)):
            raise CheckpointError(f"experts names {unknown}, for which there is no fitted lexical channel: {known}.")
        self.calibration = {name: Calibration.from_dict(c).to_dict() for name, c in (self.calibration or {}).items()}
        if unknown := sorted(set(self.calibration) - set(names)):
            raise MetricError(f"calibration names {unknown}, which the registry does not have: {names}.")
        for name in ("hidden_size", "intermediate_size", "num_layers", "num_attention_heads", "num_key_value_heads"):
            size = getattr(self, f"decoder_{name}")
            if not isinstance(size, int) or size < 1:
                raise CheckpointError(f"decoder_{name} must be a whole number of at least 1, got {size!r}.")
        if self.decoder_hidden_size % self.decoder_num_attention_heads:
            raise CheckpointError(
                f"decoder_hidden_size {self.decoder_hidden_size} is not a multiple of decoder_num_attention_heads "
                f"{self.decoder_num_attention_heads}."
            )
        if self.decoder_num_attention_heads % self.decoder_num_key_value_heads:
            raise CheckpointError(
                f"decoder_num_attention_heads {self.decoder_num_attention_heads} is not a multiple of "
                f"decoder_num_key_value_heads {self.decoder_num_key_value_heads}."
            )
        if self.max_objectives < 1 or self.max_input_tokens < 16:
            raise CheckpointError("max_objectives must be at least 1 and max_input_tokens at least 16.")
        # Left over from loading: both are written anew from what this class is.
        kwargs.pop("custom_pipelines", None)
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)
        self.custom_pipelines = copy.deepcopy(CUSTOM_PIPELINES)
        self.auto_map = dict(AUTO_MAP)

    @classmethod
    def _encoder_config(cls, encoder: Any) -> PreTrainedConfig:
        if encoder is None:
            encoder = {
                "model_type": "modernbert", "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 384,
                "num_hidden_layers": 4, "num_attention_heads": 4, "local_attention": 128, "max_position_embeddings": 8192,
                "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "cls_token_id": None, "sep_token_id": None,
            }  # fmt: skip
        return _rebuilt(encoder, "encoder")

    def _read_library_decoder(self) -> None:
        """Rebuilds the embedded decoder config and takes the sizes from it."""
        self.decoder = _rebuilt(self.decoder, "decoder")
        if self.decoder.model_type not in LIBRARY_DECODERS:
            raise CheckpointError(
                f"decoder cannot be of type {self.decoder.model_type!r}; supported are {list(LIBRARY_DECODERS)}, or None for "
                "the package's own small decoder."
            )
        half = self.library_decoder
        sizes = {
            "decoder_hidden_size": half.hidden_size,
            "decoder_intermediate_size": half.intermediate_size,
            "decoder_num_layers": half.num_hidden_layers,
            "decoder_num_attention_heads": half.num_attention_heads,
            "decoder_num_key_value_heads": half.num_key_value_heads,
            "decoder_dropout": half.dropout_rate,
        }
        for name, size in sizes.items():
            if getattr(self, name) not in (size, getattr(RLMConfig, name)):
                raise CheckpointError(
                    f"{name}={getattr(self, name)!r} belongs to the small decoder; the embedded {self.decoder.model_type} "
                    f"decoder has {size!r}. Leave it out."
                )
            setattr(self, name, size)
        if half.cross_attention_hidden_size != self.encoder_hidden_size:
            raise CheckpointError(
                f"The embedded decoder reads a memory of width {half.cross_attention_hidden_size}, the encoder writes "
                f"{self.encoder_hidden_size}."
            )

    @property
    def library_decoder(self) -> PreTrainedConfig | None:
        """The decoder half of the embedded `decoder`; None for our small decoder."""
        return None if self.decoder is None else self.decoder.decoder

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> "RLMConfig":
        """This config itself: both texts are described here, the halves have no other place for a cache's sizes."""
        return self

    @classmethod
    def from_encoder(cls, encoder: str | PreTrainedConfig, *, keep_decoder: bool = False, **kwargs) -> "RLMConfig":
        """A config around an existing encoder, by hub id, folder or config object; only its config is read.

        Args:
            encoder: Hub id (`google/t5gemma-s-s-prefixlm`), folder, or config. Of encoder-decoders the encoder half is used.
            keep_decoder: Use its decoder half too, for numbers (T5Gemma).
            **kwargs: Any field of `RLMConfig`; `revision`, `token` and `local_files_only` go to the hub.
        """
        hub = {k: kwargs.pop(k) for k in ("revision", "token", "cache_dir", "local_files_only") if k in kwargs}
        if isinstance(encoder, str):
            encoder = AutoConfig.from_pretrained(encoder, trust_remote_code=False, **hub)
        encoder = copy.deepcopy(encoder)
        if keep_decoder:
            kwargs["decoder"] = encoder.to_dict()
        if encoder.model_type == "t5gemma":
            # The library's encoder class for T5Gemma takes the whole config with this flag down.
            encoder.is_encoder_decoder = False
        return cls(encoder=encoder, **kwargs)

    @property
    def format(self) -> NumberFormat:
        """The number format as an object."""
        return NumberFormat(**self.number_format)

    @property
    def encoder_hidden_size(self) -> int:
        """Width of the encoder's output."""
        config = self.encoder
        for name in ("text_config", "encoder"):  # T5Gemma keeps its encoder one level down, T5Gemma2 two
            config = getattr(config, "encoder", None) or getattr(config, name, None) or config
        config = getattr(config, "text_config", None) or config
        return config.d_model if hasattr(config, "d_model") else config.hidden_size

    def metric(self, name: str) -> Metric:
        """The registry's entry for a metric.

        Raises:
            MetricError: The checkpoint does not know the name; the message lists those it knows.
        """
        for entry in self.metrics:
            if entry["name"] == name:
                return Metric.from_dict(entry)
        raise MetricError(
            f"This checkpoint does not predict {name!r}. It knows: {', '.join(self.metric_names()) or 'none'}."
        )

    def calibration_of(self, name: str) -> Calibration | None:
        """The map of levels of a metric, None where it was not calibrated."""
        entry = (self.calibration or {}).get(name)
        return None if entry is None else Calibration.from_dict(entry)

    def expert_of(self, name: str) -> LexicalExpert | None:
        """The expert of a metric, None where the decoder answers alone."""
        entry = (self.experts or {}).get(name)
        return None if entry is None else LexicalExpert.from_dict(entry)

    @property
    def templates(self) -> dict[str, str]:
        """Metric to template, of the metrics that have one."""
        return {m["name"]: m["template"] for m in self.metrics if m.get("template")}

    def max_input_tokens_of(self, metric: str) -> int:
        """The limit on the input's length for a metric: its own, or the checkpoint's."""
        own = (m.get("max_input_tokens") for m in self.metrics if m["name"] == metric)
        return next(own, None) or self.max_input_tokens

    def metric_names(self, kind: str | None = None) -> list[str]:
        """Names in the registry, of one kind of input or of all."""
        return [m["name"] for m in self.metrics if kind is None or kind in m["kinds"]]

    def metrics_for(self, kind: str) -> list[str]:
        """The metrics to predict for a kind of input where the user names none.

        Raises:
            MetricError: The checkpoint has no metric for that kind.
        """
        found = self.default_metrics.get(kind) or self.metric_names(kind)[:1]
        if not found:
            kinds: Iterable[str] = sorted({k for m in self.metrics for k in m["kinds"]})
            raise MetricError(
                f"This checkpoint has no metric for {kind!r} input (it has for: {', '.join(kinds) or 'none'}). Name one with "
                f"metrics=[...]; it knows: {', '.join(self.metric_names()) or 'none'}."
            )
        return list(found)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields; the embedded configs carry no code references."""
        output = super().to_dict()
        output["custom_pipelines"], output["auto_map"] = copy.deepcopy(CUSTOM_PIPELINES), dict(AUTO_MAP)
        for part in ("encoder", "decoder"):
            if output.get(part) is not None:
                output[part] = _embeddable(output[part])
        return output


def _embeddable(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of an embedded config's dict without what may not come along, at any depth."""
    return {
        key: _embeddable(value) if isinstance(value, dict) else copy.deepcopy(value)
        for key, value in config.items()
        if key not in _NOT_EMBEDDED and not str(key).startswith(("_attn_impl", "_experts_impl"))
    }


def _rebuilt(config: Any, part: str) -> PreTrainedConfig:
    """An embedded config built anew from the library's class and plain fields."""
    if isinstance(config, PreTrainedConfig):
        config = config.to_dict()
    if not isinstance(config, dict):
        raise CheckpointError(f"{part} must be a config or its dict, got {type(config).__name__}.")
    fields_ = _embeddable(config)
    model_type = fields_.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise CheckpointError(
            f"The {part}'s model_type {model_type!r} is not one that this transformers knows. The parts of a model are built "
            "from the library's own classes only, never from code in a repository."
        )
    return CONFIG_MAPPING[model_type](**fields_)


RLMConfig.register_for_auto_class()

__all__ = ["CUSTOM_PIPELINES", "TASK", "Metric", "RLMConfig"]
