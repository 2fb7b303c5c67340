"""RLMForConditionalGeneration: an encoder from the library and a decoder that writes numbers.

- encoder: any text encoder known to transformers; its last layer, or a learned mix of several, is the memory
- optionally the size of every number in the text, added to the embeddings of its digits (`decoders_rlm.NumberEmbedding`)
- decoder: small, pre-norm, RMSNorm, learned positions, gated feed-forward, its own numeric vocabulary and head; or one of the
  library's in its place (`decoders_rlm.py`)
- cross-attention with grouped key/value heads, folded into the query axis: keys and values are computed once per input
  and never copied, neither per head nor per sample
- optionally a feature ensemble: scores of regressors on the text's features, which are an input beside the token ids, as a few
  more memory tokens (`ensemble_rlm.py`)
- training loss: cross-entropy over the tokens that the number grammar allows at each place
- in place of the decoder, where a baseline is wanted: a linear head on the memory's mean, trained by squared error
- exact quantiles, samples and probabilities: `generation_rlm.ExactGenerationMixin`
"""

import json
import os
import warnings
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForTextEncoding, GenerationMixin, PreTrainedModel, T5GemmaPreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from .configuration_rlm import DROPPED_WEIGHTS, LEGACY_WEIGHTS, RLMConfig
from .decoders_rlm import (
    NumberEmbedding,
    RLMDecoder,
    RLMNumberHead,
    T5GemmaNumberDecoder,
    use_lean_attention,
    use_lean_linear,
)
from .ensemble_rlm import EnsembleConfig, FeatureEnsemble, composed
from .errors_rlm import CheckpointError
from .features_rlm import NumberReader
from .generation_rlm import ExactGenerationMixin, NumberGrammar, NumberLogitsProcessor
from .local_attention_rlm import use_local_attention
from .numbers_rlm import NumberCodec

# The pipeline belongs to the checkpoint: imported here so that its file travels with every save, also of a model that was
# itself loaded from the Hub.
from .pipeline_rlm import CodeRegressionPipeline  # noqa: F401

# What an adapter's weights have beside those of peft: the changed config, compressed JSON, and changed parts of the ensemble.
ADAPTED_CONFIG, ADAPTED_ENSEMBLE = "adapted_config", "adapted_ensemble."
# What transformers calls the decoder's cache in the arguments and outputs of a model; older versions say past_key_values.
CACHE_NAME = "cache" if "cache" in Seq2SeqLMOutput.__dataclass_fields__ else "past_key_values"


def build_encoder(config: Any) -> PreTrainedModel:
    """The text encoder of a config, with random weights; of encoder-decoders and multimodal models the text encoder."""
    if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        encoder = AutoModelForTextEncoding.from_config(config)
    else:
        encoder = AutoModel.from_config(config)
    return _text_encoder(encoder)


def _text_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """Strips what a regression model does not read: a decoder, a vision tower, a pooler that nothing trains."""
    if getattr(model.config, "is_encoder_decoder", False) and hasattr(model, "decoder"):
        model = model.get_encoder()
    model = getattr(model, "text_model", model)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if isinstance(model, T5GemmaPreTrainedModel):
        use_lean_attention(model)
    use_local_attention(model)
    use_lean_linear(model)
    return model


def _base_of_adapter(where: Any) -> str | None:
    """The base that the adapter in a folder names; None where the folder has weights of its own, or is none."""
    if where is None or not os.path.isdir(where) or os.path.exists(os.path.join(where, "model.safetensors")):
        return None
    path = os.path.join(where, "adapter_config.json")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)["base_model_name_or_path"]


class RLMPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of the model as a whole."""

    config: RLMConfig
    config_class = RLMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("RLMDecoderLayer", "T5GemmaNumberLayer")
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = list(DROPPED_WEIGHTS)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Loads a checkpoint as any model of the library does; names of weights of earlier releases are read, too.

        Saved again, all weights have today's names.
        """
        where = args[0] if args else kwargs.pop("pretrained_model_name_or_path", None)
        if (base := _base_of_adapter(where)) is not None:
            return cls._merged(base, where, *args[1:], **kwargs)
        args = (where, *args[1:])
        if where is not None and isinstance(kwargs.get("config"), RLMConfig):
            kwargs["config"] = kwargs["config"].with_fitted_state(
                where, **{k: v for k, v in kwargs.items() if k != "config"}
            )
        kwargs["key_mapping"] = {**LEGACY_WEIGHTS, **(kwargs.get("key_mapping") or {})}
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        conversions = getattr(model, "_weight_conversions", None) or []
        model._weight_conversions = [c for c in conversions if not set(c.source_patterns) & set(LEGACY_WEIGHTS)]
        return loaded

    @classmethod
    def _merged(cls, base: str, adapter: str, *args: Any, **kwargs: Any) -> Any:
        """A base with the adapter of a folder merged into its weights; `from_pretrained` has the other arguments."""
        try:
            from peft import PeftModel
        except ImportError:
            raise CheckpointError(f"{adapter} is a LoRA adapter, which needs the package peft.") from None
        others = {name: value for name, value in kwargs.items() if name not in ("config", "adapter_kwargs")}
        loaded = cls.from_pretrained(base, *args, **others)
        model, *info = loaded if isinstance(loaded, tuple) else (loaded,)
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()
        return (merged, *info) if info else merged

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, RLMForConditionalGeneration):
            if module.layer_mix is not None:
                nn.init.zeros_(module.layer_mix)
        elif isinstance(module, FeatureEnsemble):
            nn.init.normal_(module.score_embedding, std=self.config.initializer_range)
            nn.init.ones_(module.idf)
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
            if module.settings.trees:
                for name in ("feature", "left", "right", "threshold", "value"):
                    nn.init.zeros_(getattr(module, f"tree_{name}"))
        elif isinstance(module, NumberReader):
            for tensor in (module.kinds, module.lengths, module.hashes, *module.parameters()):
                nn.init.zeros_(tensor)
            nn.init.constant_(module.digits, -1)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)


class RLMForConditionalGeneration(ExactGenerationMixin, RLMPreTrainedModel, GenerationMixin):
    """Reads text, answers with numbers (arXiv 2509.26476, section 3).

    Attributes:
        codec: The `NumberCodec` of the config's number format.
        encoder, decoder, number_head: The three parts.
        layer_mix: Logits of the learned mix of encoder layers, None when the decoder reads the last one.
        memory_norm: Norm of the memory before the small decoder; a library decoder reads the memory as it is.
        regression_head: See `regress`; None in models that answer with their decoder.
        number_embeddings: The `NumberEmbedding` of the text's numbers, None without one.
        ensemble: The `FeatureEnsemble`, None without one.
    """

    def __init__(self, config: RLMConfig):
        super().__init__(config)
        self.codec = NumberCodec(config.format)
        self.grammar = NumberGrammar(self.codec)
        self.encoder = build_encoder(config.encoder)
        layers = config.encoder_layers
        self.layer_mix = nn.Parameter(torch.zeros(len(layers))) if layers else None
        small, library = config.decoder is None, config.library_decoder
        self.number_embeddings: NumberEmbedding | None = None
        self.ensemble: FeatureEnsemble | None = None
        self._warned_of_missing_features = False
        if config.number_embeddings:
            self.add_number_embeddings()
        if config.ensemble is not None:
            self.ensemble = FeatureEnsemble(config.ensemble_config(), config.encoder_hidden_size)
        self.memory_norm = nn.RMSNorm(config.encoder_hidden_size, eps=config.rms_norm_eps) if small else nn.Identity()
        self.decoder = RLMDecoder(config, self.codec) if small else T5GemmaNumberDecoder(config, self.codec)
        softcap = None if small else library.final_logit_softcapping
        self.number_head = RLMNumberHead(config.decoder_hidden_size, self.codec.vocab_size, softcap)
        self.regression_head = nn.Linear(config.encoder_hidden_size, 1) if config.regression_head else None
        use_lean_linear(self.decoder)
        self.post_init()
        if config.freeze_encoder:
            self.encoder_requires_grad_(False)
        # One number per objective and the end token.
        self.generation_config.max_new_tokens = config.max_objectives * self.codec.length + 1

    @classmethod
    def from_encoder_pretrained(
        cls,
        encoder: str,
        *,
        keep_decoder: bool = False,
        freeze_encoder: bool = False,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> "RLMForConditionalGeneration":
        """A new regression model around a pretrained encoder, as in the paper (section 3: a frozen T5Gemma encoder).

        Args:
            encoder: Hub id or folder of any text encoder or encoder-decoder of the library.
            keep_decoder: Take the checkpoint's decoder too (T5Gemma), with new embeddings and a new head for numbers in place
                of the text's: the paper's full encoder-decoder.
            freeze_encoder: Leave the encoder out of training.
            dtype: Type of the pretrained weights as loaded.
            **kwargs: Fields of `RLMConfig`; `revision`, `token`, `cache_dir`, `local_files_only` go to the hub.

        Raises:
            CheckpointError: The checkpoint lacks some of the encoder's weights.
        """
        hub = {k: kwargs[k] for k in ("revision", "token", "cache_dir", "local_files_only") if k in kwargs}
        config = RLMConfig.from_encoder(encoder, keep_decoder=keep_decoder, freeze_encoder=freeze_encoder, **kwargs)
        model = cls(config)
        if keep_decoder:
            return model._take_pretrained(encoder, dtype or torch.float32, **hub)
        wanted = set(model.encoder.state_dict())
        if type(config.encoder) in MODEL_FOR_TEXT_ENCODING_MAPPING:
            loader, own_config = MODEL_FOR_TEXT_ENCODING_MAPPING[type(config.encoder)], config.encoder
        else:
            loader, own_config = AutoModel, None
        loaded, info = loader.from_pretrained(
            encoder, config=own_config, output_loading_info=True, dtype=dtype or torch.float32, **hub
        )
        loaded = _text_encoder(loaded)
        missing = sorted(k for k in info["missing_keys"] if any(k.endswith(w) for w in wanted) and "pooler" not in k)
        if missing or set(loaded.state_dict()) != wanted:
            raise CheckpointError(
                f"{encoder!r} does not hold the weights of a {type(model.encoder).__name__}; missing: {missing[:8]}."
            )
        model.encoder = loaded
        if freeze_encoder:
            model.encoder_requires_grad_(False)
        return model

    def _take_pretrained(self, source: str, dtype: torch.dtype, **hub: Any) -> "RLMForConditionalGeneration":
        """Loads encoder and decoder of a library's encoder-decoder; number embeddings and head stay as they are."""
        loaded, info = AutoModel.from_pretrained(
            source, config=self.config.decoder, output_loading_info=True, dtype=dtype, **hub
        )
        encoder = {f"encoder.{name}": weight for name, weight in loaded.encoder.state_dict().items()}
        decoder = loaded.decoder.state_dict()
        decoder["embed_tokens.weight"] = self.decoder.embed_tokens.weight
        if info["missing_keys"] or set(encoder) != set(self.encoder.state_dict()):
            raise CheckpointError(
                f"{source!r} does not hold a whole {self.config.decoder.model_type} encoder-decoder; missing: "
                f"{sorted(info['missing_keys'])[:8]}."
            )
        self.encoder.load_state_dict(encoder, assign=True)
        self.decoder.load_state_dict(decoder)
        return self.train(self.training)

    def add_ensemble(self, settings: EnsembleConfig) -> None:
        """Puts a new feature ensemble in the place of what there is, its regressors still zero; see `training/ensemble.py`."""
        ensemble = FeatureEnsemble(settings, self.config.encoder_hidden_size)
        ensemble.apply(self._init_weights)
        self.config.set_ensemble(settings)
        self.ensemble = ensemble.to(self.number_head.weight)

    def add_number_embeddings(self) -> None:
        """Lets the encoder know how large the numbers in the text are; the answers stay what they were until it is trained."""
        embeddings = self.get_input_embeddings().weight
        self.config.number_embeddings = True
        self.number_embeddings = NumberEmbedding(len(embeddings), self.config.encoder_hidden_size).to(embeddings)
        self.train(self.training)  # a frozen encoder's are frozen

    def drop_ensemble(self) -> None:
        """Takes the feature ensemble away; the decoder reads the encoder alone."""
        self.config.set_ensemble(None)
        self.ensemble = None

    def add_regression_head(self, shift: float = 0.0, scale: float = 1.0) -> None:
        """Lets a new linear head answer in the decoder's place with `shift + scale * head`, see `regress`."""
        head = nn.Linear(self.config.encoder_hidden_size, 1)
        head.apply(self._init_weights)
        self.config.regression_head, self.config.regression_scale = True, [float(shift), float(scale)]
        self.regression_head = head.to(self.number_head.weight)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """As in torch; the weights of an adapter may bring metrics and regressors, which the base gets first."""
        entry = state_dict.pop(prefix + ADAPTED_CONFIG, None)
        if entry is not None:
            self._take_adapted(entry, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _take_adapted(self, entry: torch.Tensor, state_dict: dict[str, Any], prefix: str) -> None:
        """Takes over an adapter's config and puts its whole ensemble into its weights, in place of the changed parts."""
        self.config.take_adapter_entry(json.loads(zlib.decompress(entry.cpu().numpy().tobytes())))
        first = prefix + ADAPTED_ENSEMBLE
        parts = {name.removeprefix(first): state_dict.pop(name) for name in list(state_dict) if name.startswith(first)}
        settings = self.config.ensemble_config()
        if settings is None:
            return
        whole = {} if self.ensemble is None else self.ensemble.state_dict()
        for name in {part.rpartition(".")[0] for part in parts}:
            source, changed = parts[f"{name}.source"], parts[f"{name}.changed"]
            whole[name] = composed(source, changed, whole.get(name), axis=int(name == "weight"))
        self.add_ensemble(settings)
        state_dict |= {f"{prefix}ensemble.{name}": tensor for name, tensor in whole.items()}

    # ------------------------------------------------------------------------------------------------ parts

    def get_encoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The text encoder; `encode_memory` gives what the decoder reads of it."""
        return self.encoder

    def get_decoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The number decoder."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embeddings."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the encoder's token embeddings."""
        self.encoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The head over the numeric vocabulary."""
        return self.number_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replaces the head over the numeric vocabulary."""
        self.number_head = value

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        """Resizes the encoder's embeddings and what is known of its tokens.

        The numeric vocabulary is the number format's and stays as it is.
        """
        embeddings = self.encoder.resize_token_embeddings(new_num_tokens, *args, **kwargs)
        self.config.encoder.vocab_size = embeddings.num_embeddings
        if self.number_embeddings is not None:
            self.number_embeddings.resize(embeddings.num_embeddings)
        return embeddings

    def train(self, mode: bool = True) -> "RLMForConditionalGeneration":
        """As in torch; a frozen encoder stays in evaluation mode and without gradients, also after loading."""
        super().train(mode)
        if self.config.freeze_encoder:
            self.encoder.eval()
            self.encoder_requires_grad_(False)
        return self

    def encoder_requires_grad_(self, required: bool) -> None:
        """Trains what reads the text, or leaves it out of training: the encoder and its number_embeddings."""
        for part in (self.encoder, self.number_embeddings):
            if part is not None:
                part.requires_grad_(required)

    # ------------------------------------------------------------------------------------------------ passes

    def encode_layers(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """What is read of the encoder, `(batch, length, layers, encoder size)`: its last layer, or those of `encoder_layers`.

        With a frozen encoder this is a function of the text alone and can be kept, see `forward`.
        """
        layers = self.config.encoder_layers
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoder):
            text = {"input_ids": input_ids}
            if self.number_embeddings is not None:
                text = {"inputs_embeds": self.get_input_embeddings()(input_ids) + self.number_embeddings(input_ids)}
            output = self.encoder(
                **text, attention_mask=attention_mask, output_hidden_states=bool(layers), return_dict=True
            )
        if not layers:
            return output.last_hidden_state[:, :, None]
        # The last of the hidden states is the normed one, so that all enter the mix at comparable scale.
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        if max(layers) >= len(states) or min(layers) < -len(states):
            raise CheckpointError(f"encoder_layers {layers} go beyond the encoder's {len(states)} hidden states.")
        return torch.stack([F.rms_norm(states[i], states[i].shape[-1:]) for i in layers], 2)

    def mix_layers(self, states: torch.Tensor) -> torch.Tensor:
        """The memory `(batch, length, encoder size)`: the learned mix of what `encode_layers` gives."""
        states = states.to(self.number_head.weight.dtype)
        if self.layer_mix is None:
            return states[:, :, 0]
        weights = self.layer_mix.softmax(0).to(states.dtype)
        return sum(w * s for w, s in zip(weights, states.unbind(2), strict=True))

    def encode_memory(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        ensemble_scores: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the decoder reads: the encoder's memory, then one token per metric of the feature ensemble, if there is one.

        Args:
            input_ids: Text tokens `(batch, length)`.
            attention_mask: 1 for text, 0 for padding `(batch, length)`.
            features: Features of the texts `(batch, size)`, as `RLMProcessor` makes them. Without them the memory is the
                encoder's alone, and a warning says so once.
            ensemble_scores: Scores `(batch, metrics)` in place of those that the feature ensemble gives, see `ensemble_rlm`.

        Returns:
            `(batch, length + metrics, encoder size)`; `(batch, length, encoder size)` without features.
        """
        return self._memory(self.encode_layers(input_ids, attention_mask), features, ensemble_scores)

    def _read_features(self, features: Any) -> torch.Tensor | None:
        """Features on the model's device; None, and once a warning, where the ensemble gets none."""
        if self.ensemble is None:
            return None
        if features is None:
            if not self._warned_of_missing_features:
                self._warned_of_missing_features = True
                warnings.warn(
                    "The inputs have no features, so the transformer answers alone, without the feature ensemble. Make the "
                    "inputs with RLMProcessor to use it.",
                    stacklevel=4,
                )
            return None
        return torch.as_tensor(features).to(self.ensemble.weight.device, torch.float32)

    def _memory(
        self,
        states: torch.Tensor,
        features: torch.Tensor | None,
        ensemble_scores: torch.Tensor | None,
    ) -> torch.Tensor:
        memory = self.mix_layers(states)
        if self.ensemble is None:
            return memory
        if ensemble_scores is None:
            features = self._read_features(features)
            if features is None:
                return memory
            ensemble_scores = self.ensemble.scores(features)
        return torch.cat([memory, self.ensemble(ensemble_scores).to(memory.dtype)], 1)

    @staticmethod
    def memory_mask(attention_mask: torch.Tensor | None, memory_length: int) -> torch.Tensor | None:
        """The mask of a memory for a mask of the text: tokens of the feature ensemble, behind the text's, are no padding.

        Args:
            attention_mask: Of the text, `(batch, length)`; None where nothing is padded.
            memory_length: Length of the memory, that of the text or more.
        """
        if attention_mask is None:
            return None
        return F.pad(attention_mask, (0, memory_length - attention_mask.shape[1]), value=1)

    def regress(self, inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
        """The regression head's answer: one number per input, float64 `(batch,)`, without an interval.

        A linear map of the memory's mean over the input's tokens, brought back to the scale of the targets.

        Args:
            inputs: `input_ids` and, if padded, `attention_mask`, as the tokenizer returns them.

        Raises:
            CheckpointError: The checkpoint has no regression head.
        """
        if self.regression_head is None:
            raise CheckpointError("This checkpoint has no regression head; it answers through predict() and sample().")
        ids = torch.as_tensor(inputs["input_ids"]).to(self.device)
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else torch.as_tensor(mask).to(self.device)
        shift, scale = self.config.regression_scale
        with self._inference():
            return shift + scale * self._regressed(self.encode_layers(ids, mask), mask).cpu().numpy()

    def _regressed(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The regression head on the mean of the memory, before shift and scale: float64 `(batch,)`."""
        memory = self.mix_layers(states)
        kept = attention_mask.to(memory.dtype)[..., None]
        mean = (memory * kept).sum(1) / kept.sum(1).clamp_min(1)
        with torch.autocast(mean.device.type, enabled=False):
            return self.regression_head(mean.to(self.regression_head.weight.dtype))[:, 0].double()

    def _squared_error(
        self,
        states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        targets: torch.Tensor,
        labels: torch.Tensor,
        num_items: int | torch.Tensor | None,
    ) -> Seq2SeqLMOutput:
        """Mean over labels of the squared error of the row that each is of: over rows, where all have as many."""
        if attention_mask is None:
            attention_mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        shift, scale = self.config.regression_scale
        known = (labels != -100).sum(1)
        answers = self._regressed(states, attention_mask)
        losses = (answers - (targets.double() - shift) / scale) ** 2 * known
        loss = losses.sum() / (known.sum() if num_items is None else num_items)
        return Seq2SeqLMOutput(loss=loss, logits=answers[:, None])

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        encoder_outputs: Any = None,
        encoder_states: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        features: torch.Tensor | None = None,
        ensemble_scores: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Teacher-forced or step-by-step logits over the numeric vocabulary.

        Args:
            input_ids: Text tokens `(batch, length)`.
            attention_mask: 1 for text, 0 for padding `(batch, length)`.
            decoder_input_ids: Number tokens so far, the start token first `(batch, places)`; made from `labels` if absent.
            labels: Number tokens `(batch, places)`, objective after objective, then the end token; -100 is ignored.
            encoder_outputs: Memory from an earlier call, in place of `input_ids`.
            encoder_states: What `encode_layers` gave, in place of `input_ids`.
            past_key_values, cache: Decoder cache of an earlier call, by either of the names that transformers gives it.
            use_cache: Keep a decoder cache.
            features: See `encode_memory`.
            ensemble_scores: See `encode_memory`; in training those of regressors that have not seen the row.
            targets: The number asked for, float64 `(batch,)`: with a regression head the loss is its squared error in units of
                `config.regression_scale`, and the decoder does not run.
            num_items_in_batch: Divide the summed loss by this instead of by the number of labels.

        Returns:
            `logits` `(batch, places, numeric vocabulary)`, raw (the grammar is applied in the loss, in `generate` and in
            the exact methods), and `loss` when labels are given.
        """
        if encoder_outputs is None:
            if encoder_states is None:
                encoder_states = self.encode_layers(input_ids, attention_mask)
            if self.regression_head is not None and targets is not None:
                return self._squared_error(encoder_states, attention_mask, targets, labels, num_items_in_batch)
            memory = self._memory(encoder_states, features, ensemble_scores)
            encoder_outputs = BaseModelOutput(last_hidden_state=memory)
        memory = encoder_outputs[0]
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError(
                    "forward() needs decoder_input_ids or labels; for predictions use predict() or generate()."
                )
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        use_cache = (not self.training and labels is None) if use_cache is None else use_cache
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        start = cache.get_seq_length() if cache is not None else 0
        if cache is not None:
            memory_kv, past = self._cached_memory(memory, cache), cache.self_attention_cache
        else:
            memory_kv, past = self.decoder.project_memory(self.memory_norm(memory)), None
        memory_mask = self.memory_mask(attention_mask, memory.shape[1])
        hidden = self.decoder(decoder_input_ids, memory_kv, memory_mask, start=start, past=past)
        logits = self.number_head(hidden)
        loss = None
        if labels is not None:
            loss = self.grammar.loss(logits, labels, num_items_in_batch)
        return Seq2SeqLMOutput(loss=loss, logits=logits, encoder_last_hidden_state=memory, **{CACHE_NAME: cache})

    def _cached_memory(
        self, memory: torch.Tensor, cache: EncoderDecoderCache
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        cross, pairs = cache.cross_attention_cache, []
        projected = None
        for index in range(len(self.decoder.layers)):
            if not cache.is_updated.get(index):
                projected = self.decoder.project_memory(self.memory_norm(memory)) if projected is None else projected
                pairs.append(cross.update(*projected[index], index))
                cache.is_updated[index] = True
            else:
                pairs.append((cross.layers[index].keys, cross.layers[index].values))
        return pairs

    def generate(
        self, inputs: Any = None, *, features: Any = None, num_objectives: int | None = None, **kwargs: Any
    ) -> Any:
        """transformers' `generate()`; unless `config.constrain_numbers` is off it keeps to the number grammar.

        For medians, intervals and samples `predict()` and `sample()` are exact and far faster.

        Args:
            inputs: Text tokens `(batch, length)`, or by keyword as `input_ids`.
            features: See `encode_memory`.
            num_objectives: Write exactly so many numbers. None: the model ends the answer, after at most
                `config.max_objectives`.
        """
        kwargs.setdefault("eos_token_id", self.codec.eos_token_id)  # published layouts end with padding
        if self.config.constrain_numbers:
            processor = NumberLogitsProcessor(self.codec, num_objectives, max_objectives=self.config.max_objectives)
            kwargs["logits_processor"] = [processor, *(kwargs.get("logits_processor") or [])]
            # Beams are compared by probability over what the grammar allows.
            kwargs.setdefault("renormalize_logits", True)
        elif num_objectives is not None:
            raise ValueError("num_objectives needs the number grammar: set config.constrain_numbers = True.")
        # The memory is made here, as everywhere else: the library would run the bare encoder alone.
        ids = kwargs.get("input_ids") if inputs is None else inputs
        if ids is not None and kwargs.get("encoder_outputs") is None:
            if kwargs.get("attention_mask") is None:
                kwargs["attention_mask"] = (ids != self.config.pad_token_id).long()
            with torch.no_grad():
                memory = self.encode_memory(ids, kwargs["attention_mask"], features)
            kwargs["encoder_outputs"] = BaseModelOutput(last_hidden_state=memory)
        return super().generate(inputs, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels shifted right behind the start token."""
        start = labels.new_full((len(labels), 1), self.config.decoder_start_token_id)
        return torch.cat([start, labels[:, :-1].clamp_min(0)], 1)


RLMForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = ["RLMForConditionalGeneration", "RLMPreTrainedModel"]
