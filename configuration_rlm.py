"""RLMConfig: any Hugging Face encoder's config, embedded whole, plus the decoder, number format and metrics registry.

The config describes what the model is. `FittedState` holds what was fitted beside gradient training; it is saved next to the
weights as `fitted_state.json`.
"""

import copy
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from string import Formatter
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils.hub import cached_file

from .distributions_rlm import Calibration, DerivedMetric, PoolingComponent, Regressor, ScoreScale
from .ensemble_rlm import EnsembleConfig
from .errors_rlm import CheckpointError, InputError, MetricError
from .familiarity_rlm import Familiarity
from .features_rlm import FeatureLayout
from .numbers_rlm import NumberFormat

TASK = "code-regression"
CUSTOM_PIPELINES = {TASK: {"impl": "pipeline_rlm.CodeRegressionPipeline", "pt": ["AutoModelForSeq2SeqLM"]}}
AUTO_MAP = {
    "AutoConfig": "configuration_rlm.RLMConfig",
    "AutoModel": "modeling_rlm.RLMForConditionalGeneration",
    "AutoModelForSeq2SeqLM": "modeling_rlm.RLMForConditionalGeneration",
    "AutoProcessor": "processing_rlm.RLMProcessor",
}
# Library models whose decoder can write our numbers, see decoders_rlm.py.
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
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
_METRIC_NAME = re.compile(r"[^\s,@]+(@[^\s,@]+)?")


# ---------------------------------------------------------------------------------------------------- templates

# A template is the whole text that a model reads for one metric, where that is not the header of `processing_rlm`:
#
#     "# Language: {language}\n{text}"
#     "{space}\n\n{onnx}"
#
# One placeholder stands for the code: `{text}`, or `{onnx}` for a graph that was printed elsewhere (this package's own print of
# a graph is another text, which such a model has never seen). `{language}` is the language's name as people write it, and any
# other placeholder is filled from the context line of that name. `{{` and `}}` stand for braces.
CODE_PLACEHOLDERS = ("text", "onnx")

# Names of languages as people write them, where these differ from ours by more than a capital letter: those of CodeNet.
LANGUAGE_NAMES = {
    "cpp": "C++", "csharp": "C#", "fsharp": "F#", "javascript": "JavaScript", "typescript": "TypeScript", "ocaml": "OCaml",
    "php": "PHP", "cobol": "COBOL", "vb": "Visual Basic", "objectivec": "Objective-C", "standardml": "Standard ML",
}  # fmt: skip
_CAPITALISED = (
    "ada awk bash c clojure crystal d dart elixir erlang fortran go groovy haskell java julia kotlin lisp lua nim octave "
    "pascal perl prolog python r racket ruby rust scala scheme swift vim"
)
LANGUAGE_NAMES.update({language: language.capitalize() for language in _CAPITALISED.split()})
_LANGUAGE_OF_NAME = {name.casefold(): language for language, name in LANGUAGE_NAMES.items()}


def language_of_name(name: str) -> str:
    """Returns our name of a language as people write it: `C++` is `cpp`, `Visual Basic` is `vb`.

    A name without an entry in `LANGUAGE_NAMES` becomes one word in lower case.
    """
    plain = name.strip().casefold()
    return _LANGUAGE_OF_NAME.get(plain, "".join(plain.split()))


def template_parts(template: str, metric: str) -> list[tuple[str, str | None]]:
    """Pieces of a template, each text and the placeholder behind it (None at the end).

    Raises:
        MetricError: Not a template.
    """
    try:
        parts = [(text, name, spec, conversion) for text, name, spec, conversion in Formatter().parse(template)]
    except ValueError as error:
        raise MetricError(f"{metric}: the template {template!r} cannot be read: {error}.") from None
    if wrong := [name for _, name, spec, conversion in parts if name is not None and (spec or conversion)]:
        raise MetricError(f"{metric}: {{{wrong[0]}}} in the template takes neither a format nor a conversion.")
    names = [name for _, name, _, _ in parts if name is not None]
    if wrong := [name for name in names if not name.isidentifier()]:
        raise MetricError(f"{metric}: {{{wrong[0]}}} is not a placeholder. Use one word, such as {{language}}.")
    if sum(name in CODE_PLACEHOLDERS for name in names) != 1:
        raise MetricError(
            f"{metric}: a template holds the code once, as {{text}} or {{onnx}}, got {template!r}. Write for example "
            "'# Language: {language}\\n{text}'."
        )
    return [(text, name) for text, name, _, _ in parts]


def fill_template(
    template: str, metric: str, language: str | None, context: Mapping[str, str], *, printed: bool = False
) -> tuple[str, str]:
    """What stands before and behind the code.

    Args:
        template: See the module.
        metric: Whose it is, for messages.
        language: Language, by our name or as people write it.
        context: Values of the other placeholders.
        printed: Whether the code is this package's own print of an ONNX graph.

    Raises:
        InputError: A placeholder without a value, or a context line that the template has no place for.
    """
    sides, side, used = ["", ""], 0, set()
    for text, name in template_parts(template, metric):
        sides[side] += text
        if name in CODE_PLACEHOLDERS:
            if name == "onnx" and printed:
                raise InputError(
                    f"{metric} was trained on ONNX graphs printed by its authors, not on this package's print of them. Pass "
                    "the printed graph as text, with language='onnx'."
                )
            side = 1
        elif name == "language":
            if not language:
                raise InputError(
                    f"{metric} needs the language, which the text does not tell: pass language=..., such as 'cpp' or 'C++', "
                    "or a file with a known suffix."
                )
            sides[side] += LANGUAGE_NAMES.get(language, language)
        elif name is not None:
            if name not in context:
                raise InputError(f"{metric} needs {name!r}: pass context={{{name!r}: ...}}.")
            sides[side] += context[name]
            used.add(name)
    if unused := [name for name in context if name not in used]:
        raise InputError(
            f"{metric} reads a fixed text, which has no place for the context {unused}. Leave it out; it names "
            f"{sorted(used) or 'no context'}."
        )
    return sides[0], sides[1]


# ----------------------------------------------------------------------------------------------- fitted state

FITTED_STATE_NAME = "fitted_state.json"
_SCHEMA = 1


@dataclass
class FittedState:
    """What was fitted on data outside gradient training, valid only with the weights that it was fitted with.

    Attributes:
        score_scales: Metric to the scale of its scores, of the metrics that the feature ensemble was fitted to.
        residual_scales: Regressor to the scale of its out-of-fold residuals, on the metric's score scale: the scale of the
            logistic distribution with their median size; 0 where unknown.
        mlps: Regressors that each MLP of the ensemble predicts, in the order of its outputs.
        pooling: Metric to its `PoolingComponent`.
        calibration: Metric to its `Calibration`.
        familiarity: The training rows of each metric, and how answers beyond them are widened.
        derived: Metric to how it is computed from others.
    """

    score_scales: dict[str, ScoreScale] = field(default_factory=dict)
    residual_scales: dict[Regressor, float] = field(default_factory=dict)
    mlps: tuple[tuple[Regressor, ...], ...] = ()
    pooling: dict[str, PoolingComponent] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)
    familiarity: Familiarity = field(default_factory=Familiarity)
    derived: dict[str, DerivedMetric] = field(default_factory=dict)

    def pooling_of(self, metric: str) -> PoolingComponent | None:
        """Returns the pooling component of a metric, None where the decoder answers alone."""
        return self.pooling.get(metric)

    def calibration_of(self, metric: str) -> Calibration | None:
        """Returns the calibration of a metric, None where it was not calibrated."""
        return self.calibration.get(metric)

    def without(self, metrics: Collection[str]) -> "FittedState":
        """Returns a state without the pooling and the calibration of some metrics; the ensemble's parts stay.

        Derived metrics go: their weights are those of answers that have changed.
        """
        return replace(
            self,
            pooling={name: entry for name, entry in self.pooling.items() if name not in metrics},
            calibration={name: entry for name, entry in self.calibration.items() if name not in metrics},
            familiarity=self.familiarity.without(metrics),
            derived={} if metrics else self.derived,
        )

    @classmethod
    def from_dict(cls, entry: "FittedState | Mapping[str, Any]") -> "FittedState":
        """Returns the state of its JSON form.

        Raises:
            CheckpointError: Unknown keys, a schema of a later version, or entries that are not valid.
        """
        if isinstance(entry, cls):
            return entry
        known = ["schema", *(f.name for f in fields(cls))]
        if not isinstance(entry, Mapping) or set(entry) - set(known):
            raise CheckpointError(f"A fitted state has the keys {known}, got {entry!r:.200}.")
        if entry.get("schema", _SCHEMA) != _SCHEMA:
            raise CheckpointError(
                f"This fitted state has schema {entry['schema']!r}; this version reads schema {_SCHEMA}. Update code-rlm."
            )
        residual_scales = {}
        try:
            for each in entry.get("residual_scales") or ():
                residual_scales[each["metric"], each["domain"]] = float(each["scale"])
            mlps = tuple(tuple((metric, domain) for metric, domain in mlp) for mlp in entry.get("mlps") or ())
            score_scales = _entries(entry, "score_scales", ScoreScale)
            pooling = _entries(entry, "pooling", PoolingComponent)
            calibration = _entries(entry, "calibration", Calibration)
            familiarity = Familiarity.from_dict(entry.get("familiarity") or {})
            derived = _entries(entry, "derived", DerivedMetric)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"A fitted state has an entry that cannot be read: {error!r}.") from None
        return cls(score_scales, residual_scales, mlps, pooling, calibration, familiarity, derived)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form, the schema's number in it."""
        residual_scales = [
            {"metric": metric, "domain": domain, "scale": scale}
            for (metric, domain), scale in self.residual_scales.items()
        ]
        return {
            "schema": _SCHEMA,
            "score_scales": {name: scale.to_dict() for name, scale in self.score_scales.items()},
            "residual_scales": residual_scales,
            "mlps": [[list(regressor) for regressor in mlp] for mlp in self.mlps],
            "pooling": {name: component.to_dict() for name, component in self.pooling.items()},
            "calibration": {name: calibration.to_dict() for name, calibration in self.calibration.items()},
            "familiarity": self.familiarity.to_dict(),
            # Left out where there is none, for earlier versions.
            **({"derived": {name: each.to_dict() for name, each in self.derived.items()}} if self.derived else {}),
        }

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "FittedState":
        """Reads a state's file.

        Raises:
            CheckpointError: The file is not JSON of a fitted state.
        """
        try:
            entry = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError:
            raise CheckpointError(f"{os.fspath(path)} is not JSON of a fitted state.") from None
        return cls.from_dict(entry)

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `fitted_state.json` into a folder, whole or not at all, and returns its path."""
        path = Path(folder) / FITTED_STATE_NAME
        partial = path.with_name(f".{FITTED_STATE_NAME}.{os.getpid()}")
        partial.write_text(json.dumps(self.to_dict()) + "\n", encoding="utf-8")
        os.replace(partial, path)
        return path


def _entries(entry: Mapping[str, Any], name: str, cls: Any) -> dict[str, Any]:
    """Returns the objects of one part of a state's JSON form, by metric."""
    return {metric: cls.from_dict(each) for metric, each in (entry.get(name) or {}).items()}


# ---------------------------------------------------------------------------------------------------- metrics and config


@dataclass(frozen=True)
class Metric:
    """One entry of a checkpoint's registry of metrics.

    Attributes:
        name: Name with its unit, and the device after `@` where there is one: `latency_ms@pixel3`.
        unit: Unit as people write it: `ms`, `bytes`, `%`; empty for a plain number.
        smaller_is_better: Direction, for ranking.
        description: What was measured, on what hardware and how.
        languages: Languages of its inputs: `python`, `x86asm`, `triton`, `onnx`, ...
        template: The whole text that the model reads for it, such as `"# Language: {language}\\n{text}"`, see
            `fill_template`; such a metric is asked for alone. Empty: the header of `processing_rlm.format_header`, then the
            code.
        max_input_tokens: Its own limit on the input's length; None for the checkpoint's.
    """

    name: str
    unit: str = ""
    smaller_is_better: bool = True
    description: str = ""
    languages: tuple[str, ...] = ()
    template: str = ""
    max_input_tokens: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.languages, str):
            raise MetricError(
                f"languages must be a list of languages, got the text {self.languages!r}. Write [{self.languages!r}]."
            )
        object.__setattr__(self, "languages", tuple(self.languages))
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
        entry = {**asdict(self), "languages": list(self.languages)}
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
        max_input_tokens: Longest input in tokens; longer code loses its middle, and the answer holds the number of tokens lost.
        number_format: Fields of a `NumberFormat`.
        metrics: Registry of the metrics that the checkpoint knows, a list of `Metric` fields.
        default_metrics: Language to the metrics that are predicted where none is asked for.
        number_embeddings: Whether the size of the text's numbers is added to the encoder's embeddings (`NumberEmbedding`).
        ensemble: Fields of `EnsembleConfig`: the regressors on the text's features whose scores the decoder reads beside the
            encoder's memory. None: there are none.
        fitted: The `FittedState`: what was fitted on data outside gradient training (score scales, pooling, calibration), or
            its JSON form. Saved as `fitted_state.json` beside `config.json`; valid only with the weights that it was fitted
            with, so further training removes parts of it.
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
    regression_scale: list[float] = field(default_factory=lambda: [0.0, 1.0])
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
    number_format: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    default_metrics: dict[str, list[str]] = field(default_factory=dict)
    number_embeddings: bool = False
    ensemble: dict[str, Any] | None = None
    fitted: Any = None
    freeze_encoder: bool = False
    constrain_numbers: bool = True
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        _read_legacy_keys(self, kwargs)
        self.encoder = self._encoder_config(self.encoder)
        if self.decoder is not None:
            self._read_library_decoder()
        self.number_format = NumberFormat(**(self.number_format or {})).to_dict()
        self.metrics = [Metric.from_dict(dict(m)).to_dict() for m in self.metrics or []]
        names = [m["name"] for m in self.metrics]
        if repeated := sorted({n for n in names if names.count(n) > 1}):
            raise MetricError(f"The metrics registry names {repeated} more than once.")
        self.default_metrics = dict(self.default_metrics or {})
        for language, wanted in self.default_metrics.items():
            if unknown := [n for n in wanted if n not in names]:
                raise MetricError(
                    f"default_metrics[{language!r}] names {unknown}, which the registry does not have: {names}."
                )
        self.regression_scale = [float(x) for x in self.regression_scale or (0.0, 1.0)]
        if len(self.regression_scale) != 2 or not self.regression_scale[1] > 0:
            raise CheckpointError(
                f"regression_scale must be a shift and a scale above zero, got {self.regression_scale}."
            )
        if isinstance(self.fitted, str):  # the name of a file that has not been read
            self._fitted_is_unread = True
            self.fitted = FittedState()
        self.set_fitted(FittedState.from_dict(self.fitted or {}))
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
        # A checkpoint does not choose kernels: a name of a repository here would be fetched and run.
        for name in [name for name in kwargs if name.lstrip("_").startswith(_IMPLEMENTATIONS)]:
            del kwargs[name]
        super().__post_init__(**kwargs)
        if type(self).__module__.startswith("transformers_modules."):
            # Loaded as code from a checkpoint: the library looks here for the pipeline. In the package the task is registered,
            # and the library would ask for trust_remote_code where it finds this.
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
        half = self.decoder.decoder
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
    def from_encoder(cls, encoder: str | PreTrainedConfig, *, keep_decoder: bool = False, **kwargs: Any) -> "RLMConfig":
        """A config around an existing encoder, by hub id, folder or config object; only its config is read.

        Args:
            encoder: Hub id (`google/t5gemma-s-s-prefixlm`), folder, or config. Of encoder-decoders the encoder half is used.
            keep_decoder: Use its decoder half too, for numbers (T5Gemma).
            **kwargs: Any field of `RLMConfig`; `revision`, `token` and `local_files_only` go to the hub.
        """
        hub = {k: kwargs.pop(k) for k in ("revision", "token", "cache_dir", "local_files_only") if k in kwargs}
        if isinstance(encoder, str):
            config = AutoConfig.from_pretrained(encoder, trust_remote_code=False, **hub)
        else:
            config = copy.deepcopy(encoder)
        if keep_decoder:
            kwargs["decoder"] = config.to_dict()
        if config.model_type == "t5gemma":
            # The library's encoder class for T5Gemma takes the whole config with this flag down.
            config.is_encoder_decoder = False
        return cls(encoder=config, **kwargs)

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

    # ------------------------------------------------------------------------------------------- fitted state

    def set_fitted(self, fitted: FittedState) -> None:
        """Replaces the fitted state.

        Raises:
            CheckpointError: It has entries that the ensemble or the registry does not know.
        """
        ensemble = EnsembleConfig.from_dict(self.ensemble or {})
        if unknown := sorted(set(fitted.score_scales) - set(ensemble.metrics)):
            raise CheckpointError(f"score_scales names {unknown}, for which the ensemble has no regressor.")
        if unknown := sorted(set(fitted.pooling) - set(fitted.score_scales)):
            raise CheckpointError(
                f"pooling names {unknown}, for which there is no fitted ensemble metric: {list(fitted.score_scales)}."
            )
        if unknown := sorted(set(fitted.calibration) - set(self.metric_names())):
            raise MetricError(f"calibration names {unknown}, which the registry does not have: {self.metric_names()}.")
        named = {name for metric, each in fitted.derived.items() for name in (metric, *each.sources)}
        if unknown := sorted(named - set(self.metric_names())):
            raise MetricError(f"derived names {unknown}, which the registry does not have: {self.metric_names()}.")
        self.fitted = copy.deepcopy(fitted)
        if self.ensemble is not None:
            self.set_ensemble(self.ensemble_config())

    def ensemble_config(self) -> EnsembleConfig | None:
        """Returns the feature ensemble's settings, with what was fitted; None where there is none."""
        if self.ensemble is None:
            return None
        settings, fitted = EnsembleConfig.from_dict(self.ensemble), self.fitted
        return replace(
            settings,
            scales=tuple(fitted.score_scales.get(metric) for metric in settings.metrics),
            mlps=fitted.mlps,
            residual_scales=tuple(fitted.residual_scales.get(each, 0.0) for each in settings.regressors),
        )

    def set_ensemble(self, settings: EnsembleConfig | None) -> None:
        """Describes another feature ensemble, or none: its structure in `ensemble`, what was fitted in `fitted`."""
        if settings is None:
            self.ensemble = None
            self.fitted = replace(self.fitted, score_scales={}, residual_scales={}, mlps=(), pooling={})
            return
        entry = settings.to_dict()
        self.ensemble = {name: value for name, value in entry.items() if name not in _FITTED_OF_ENSEMBLE}
        scales = zip(settings.metrics, settings.scales, strict=True)
        residual_scales = zip(settings.regressors, settings.residual_scales, strict=True)
        self.fitted.score_scales = {metric: scale for metric, scale in scales if scale is not None}
        self.fitted.residual_scales = {each: scale for each, scale in residual_scales if scale > 0}
        self.fitted.mlps = settings.mlps

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers; the fitted state that `config.json` names is read, too."""
        config_dict, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if isinstance(config_dict.get("fitted"), str):
            config_dict["fitted"] = read_fitted_state(pretrained_model_name_or_path, **kwargs)
        return config_dict, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers. `AutoConfig` reads `config.json` alone: the state of a folder is read here.

        Of a hub repository the revision is unknown here; `RLMPreTrainedModel.from_pretrained` reads the state then.
        """
        where = kwargs.get("name_or_path")
        if isinstance(config_dict.get("fitted"), str) and where is not None and os.path.exists(where):
            config_dict = {**config_dict, "fitted": read_fitted_state(where)}
        return super().from_dict(config_dict, **kwargs)

    def with_fitted_state(self, where: str | os.PathLike[str], **hub: Any) -> "RLMConfig":
        """Returns this config, or a copy with the state of a folder or repository where it has not been read yet."""
        if not self.__dict__.get("_fitted_is_unread"):
            return self
        config = copy.deepcopy(self)
        del config._fitted_is_unread
        config.set_fitted(read_fitted_state(where, **hub))
        return config

    def adapter_entry(self) -> dict[str, Any]:
        """Returns what fine-tuning can change beside weights, JSON-ready: metrics, feature ensemble, fitted state."""
        own = {name: getattr(self, name) for name in ("metrics", "default_metrics", "ensemble")}
        return {**own, "fitted": self.fitted.to_dict()}

    def take_adapter_entry(self, entry: Mapping[str, Any]) -> None:
        """Takes over what `adapter_entry` of another config has returned.

        Raises:
            CheckpointError: An entry that cannot be read.
        """
        other = type(self).from_dict({**self.to_dict(), **entry})
        for name in ("metrics", "default_metrics", "ensemble", "fitted"):
            setattr(self, name, getattr(other, name))

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Writes the config to a JSON file, and the fitted state, where there is any, to `fitted_state.json` beside it.

        `save_pretrained` calls this between noting what lies in the folder and uploading what has changed.
        """
        folder = Path(json_file_path).parent
        if self.fitted == FittedState():
            (folder / FITTED_STATE_NAME).unlink(missing_ok=True)
        else:
            self.fitted.write(folder)
        super().to_json_file(json_file_path, use_diff=use_diff)

    @property
    def templates(self) -> dict[str, str]:
        """Metric to template, of the metrics that have one."""
        return {m["name"]: m["template"] for m in self.metrics if m.get("template")}

    def max_input_tokens_of(self, metric: str) -> int:
        """The limit on the input's length for a metric: its own, or the checkpoint's."""
        own = (m.get("max_input_tokens") for m in self.metrics if m["name"] == metric)
        return next(own, None) or self.max_input_tokens

    def metric_names(self, language: str | None = None) -> list[str]:
        """Names in the registry, of one language or of all."""
        return [m["name"] for m in self.metrics if language is None or language in m["languages"]]

    def metrics_for(self, language: str) -> list[str]:
        """The metrics to predict for a language where the user names none.

        Raises:
            MetricError: The checkpoint has no metric for that language.
        """
        metrics = self.default_metrics.get(language) or self.metric_names(language)[:1]
        if not metrics:
            known = sorted({each for metric in self.metrics for each in metric["languages"]})
            raise MetricError(
                f"This checkpoint has no metric for {language!r} input (it has for: {', '.join(known) or 'none'}). Name one "
                f"with metrics=[...]; it knows: {', '.join(self.metric_names()) or 'none'}."
            )
        return list(metrics)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields; the embedded configs carry no code references."""
        output = super().to_dict()
        output["custom_pipelines"], output["auto_map"] = copy.deepcopy(CUSTOM_PIPELINES), dict(AUTO_MAP)
        for part in ("encoder", "decoder"):
            if output.get(part) is not None:
                output[part] = _embeddable(output[part])
        output["fitted"] = self.fitted.to_dict()
        output.pop("_fitted_is_unread", None)
        return output

    def to_diff_dict(self) -> dict[str, Any]:
        """The content of `config.json`: all fields, the fitted state as the name of its file, None where there is none."""
        output = super().to_diff_dict()
        output["fitted"] = None if self.fitted == FittedState() else FITTED_STATE_NAME
        return output


# Names of earlier releases, each with today's. Weights have theirs in `LEGACY_WEIGHTS`.
_LEGACY_CONFIG = {"magnitudes": "number_embeddings", "lexical": "ensemble"}
_LEGACY_METRIC = {"kinds": "languages"}
_LEGACY_ENSEMBLE = {
    "channels": "metrics",
    "place_buckets": "position_buckets",
    "perceptron_columns": "mlp_features",
    "perceptron_count": "mlp_count",
    "perceptrons": "mlps",
    "structured": "domains",
    "errors": "residual_scales",
}
# Fields of the feature layout, which once stood among those of the ensemble, and one that is the tokenizer's.
_LAYOUT_FIELDS = tuple(each.name for each in fields(FeatureLayout))
_DROPPED_ENSEMBLE = ("vocabulary",)
_LEGACY_POOLING = {"spread": "scale", "own_power": "decoder_weight", "power": "weight"}
# Parts of an `EnsembleConfig` that are fitted, and so kept in the state.
_FITTED_OF_ENSEMBLE = ("scales", "mlps", "residual_scales")
_HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only", "subfolder")
LEGACY_WEIGHTS = {
    r"^magnitudes\.": "number_embeddings.",
    r"^lexical\.channel_embedding": "ensemble.score_embedding",
    r"^lexical\.perceptrons\.": "ensemble.mlps.",
    r"^lexical\.": "ensemble.",
}
# Tables of the tokenizer's vocabulary, which the processor has instead.
DROPPED_WEIGHTS = (r"^(ensemble|lexical)\.reader\.", r"^(ensemble|lexical)\.texts\.")


def _renamed(entry: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A copy of a mapping with today's names for those of earlier releases."""
    return {names.get(key, key): value for key, value in entry.items()}


def _read_legacy_keys(config: "RLMConfig", unknown: dict[str, Any]) -> None:
    """Moves what a config of an earlier release calls by other names, or kept elsewhere, to today's fields.

    Earlier releases had no `fitted_state.json`: pooling, calibration and what the ensemble was fitted to stood in
    `config.json`. Where there is a state, it alone counts.

    Args:
        config: Gets the values.
        unknown: Keyword arguments that are no field of the config; those read here are taken out.
    """
    for old, new in _LEGACY_CONFIG.items():
        if old in unknown:
            setattr(config, new, unknown.pop(old))
    config.metrics = [_renamed(dict(metric), _LEGACY_METRIC) for metric in config.metrics or []]
    pooling = unknown.pop("experts", None) or unknown.pop("pooling", None) or {}
    calibration = unknown.pop("calibration", None) or {}
    if config.ensemble is None:
        ensemble = None
    else:
        entry = _read_legacy_ensemble(config.ensemble)
        ensemble = EnsembleConfig.from_dict(entry)
        config.ensemble = {name: value for name, value in entry.items() if name not in _FITTED_OF_ENSEMBLE}
    if config.fitted is not None:
        return
    entries = {
        "pooling": {name: _renamed(component, _LEGACY_POOLING) for name, component in pooling.items()},
        "calibration": calibration,
    }
    config.fitted = FittedState.from_dict(entries)
    if ensemble is not None:
        config.set_ensemble(ensemble)


def read_fitted_state(where: str | os.PathLike[str], **hub: Any) -> FittedState:
    """Reads the fitted state of a checkpoint.

    Args:
        where: Folder, path of a `config.json`, or hub id.
        **hub: Options of `from_pretrained`, of which those for the hub are used.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    if os.path.isfile(where):
        where = os.path.dirname(where)
    options = {name: hub[name] for name in _HUB_OPTIONS if hub.get(name) is not None}
    path: str | None
    if os.path.isdir(where):
        path = os.path.join(where, hub.get("subfolder") or "", FITTED_STATE_NAME)
    else:
        path = cached_file(os.fspath(where), FITTED_STATE_NAME, _raise_exceptions_for_missing_entries=False, **options)
    if path is None or not os.path.isfile(path):
        raise CheckpointError(
            f"{os.fspath(where)} lacks {FITTED_STATE_NAME}, which its config.json names. Copy it there with the other files "
            "of the checkpoint."
        )
    return FittedState.read(path)


def _read_legacy_ensemble(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of an `EnsembleConfig`, those of its feature layout under `features`."""
    if "features" in entry:
        return entry
    entry = _renamed(entry, _LEGACY_ENSEMBLE)
    features = {name: entry.pop(name) for name in _LAYOUT_FIELDS if name in entry}
    for name in _DROPPED_ENSEMBLE:
        entry.pop(name, None)
    return {"features": features, **entry}


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

__all__ = [
    "AUTO_MAP",
    "CUSTOM_PIPELINES",
    "DROPPED_WEIGHTS",
    "FITTED_STATE_NAME",
    "LEGACY_WEIGHTS",
    "TASK",
    "FittedState",
    "Metric",
    "RLMConfig",
    "fill_template",
    "language_of_name",
    "read_fitted_state",
    "template_parts",
]
