"""RLMForConditionalGeneration: an encoder from the library and a decoder that writes numbers.

- encoder: any text encoder known to transformers; its last layer, or a learned mix of several, is the memory
- optionally the size of every number in the text, added to the embeddings of its digits (`magnitudes_rlm.py`)
- decoder: small, pre-norm, RMSNorm, learned positions, gated feed-forward, its own numeric vocabulary and head; or one of the
  library's in its place (`t5gemma_rlm`)
- cross-attention with grouped key/value heads, folded into the query axis: keys and values are computed once per input
  and never copied, neither per head nor per sample
- optionally a lexical path: scores of closed-form regressors on n-grams as a few more memory tokens (`lexical_rlm.py`)
- training loss: cross-entropy over the tokens that the number grammar allows at each place
- in place of the decoder, where a baseline is wanted: a linear head on the memory's mean, trained by squared error
- exact quantiles, samples and probabilities: `generation_rlm.ExactGenerationMixin`
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForTextEncoding, GenerationMixin, PreTrainedModel, T5GemmaPreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from .configuration_rlm import RLMConfig
from .errors_rlm import CheckpointError
from .generation_rlm import ExactGenerationMixin, NumberGrammar, NumberLogitsProcessor
from .lexical_rlm import LexicalPath, LexicalSettings
from .magnitudes_rlm import MagnitudeEmbedding, NumberReader
from .numbers_rlm import NumberCodec

# The pipeline belongs to the checkpoint: imported here so that its file travels with every save, also of a model that was
# itself loaded from the Hub.
from .pipeline_rlm import CodeRegressionPipeline  # noqa: F401
from .t5gemma_rlm import T5GemmaNumberDecoder, use_lean_attention

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
    return model


class RLMAttention(nn.Module):
    """Attention with grouped key/value heads. Keys and values come from `project`, so that callers decide when."""

    def __init__(self, query_size: int, memory_size: int, num_heads: int, num_key_value_heads: int):
        super().__init__()
        self.head_dim = query_size // num_heads
        self.num_heads, self.num_key_value_heads = num_heads, num_key_value_heads
        self.q_proj = nn.Linear(query_size, query_size, bias=False)
        self.k_proj = nn.Linear(memory_size, num_key_value_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(memory_size, num_key_value_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(query_size, query_size, bias=False)

    def project(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, each `(batch, kv_heads, length, head_dim)`, of a memory `(batch, length, memory_size)`."""
        shape = (*memory.shape[:2], self.num_key_value_heads, self.head_dim)
        return self.k_proj(memory).view(shape).transpose(1, 2), self.v_proj(memory).view(shape).transpose(1, 2)

    def forward(
        self, hidden: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, dropout: float
    ) -> torch.Tensor:
        """Attends from `(batch, queries, size)` to keys and values; the heads of a group share the query axis."""
        batch, queries, size = hidden.shape
        groups = self.num_heads // self.num_key_value_heads
        q = self.q_proj(hidden).view(batch, queries, self.num_key_value_heads, groups, self.head_dim)
        q = q.permute(0, 2, 3, 1, 4).reshape(batch, self.num_key_value_heads, groups * queries, self.head_dim)
        if mask is not None and groups > 1 and mask.shape[-2] > 1:
            mask = mask.repeat(1, 1, groups, 1)
        out = F.scaled_dot_product_attention(
            q, keys, values, attn_mask=mask, dropout_p=dropout if self.training else 0.0
        )
        out = out.view(batch, self.num_key_value_heads, groups, queries, self.head_dim).permute(0, 3, 1, 2, 4)
        return self.o_proj(out.reshape(batch, queries, size))


class RLMDecoderLayer(GradientCheckpointingLayer):
    """Self-attention over the digits so far, cross-attention to the memory, gated feed-forward; norms come first."""

    def __init__(self, config: RLMConfig):
        super().__init__()
        size, heads = config.decoder_hidden_size, config.decoder_num_attention_heads
        self.self_attn = RLMAttention(size, size, heads, heads)
        self.cross_attn = RLMAttention(size, config.encoder_hidden_size, heads, config.decoder_num_key_value_heads)
        self.gate_proj = nn.Linear(size, config.decoder_intermediate_size, bias=False)
        self.up_proj = nn.Linear(size, config.decoder_intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.decoder_intermediate_size, size, bias=False)
        self.self_attn_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.cross_attn_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.mlp_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.dropout = config.decoder_dropout

    def forward(
        self,
        hidden: torch.Tensor,
        memory_keys: torch.Tensor,
        memory_values: torch.Tensor,
        memory_mask: torch.Tensor | None,
        self_mask: torch.Tensor | None,
        past: Any = None,
        index: int = 0,
        pack: Any = None,
    ) -> torch.Tensor:
        """One layer over `(batch, length, size)`.

        `past` gives and keeps the keys and values of earlier places (`update(keys, values, index)`). `pack`, if any, lays
        rows that share an input on that input's query axis and takes them back, so that memory is never copied.
        """
        x = self.self_attn_norm(hidden)
        keys, values = self.self_attn.project(x)
        if past is not None:
            keys, values = past.update(keys, values, index)
        hidden = hidden + self._drop(self.self_attn(x, keys, values, self_mask, self.dropout))
        x = self.cross_attn_norm(hidden)
        if pack is None:
            x = self.cross_attn(x, memory_keys, memory_values, memory_mask, self.dropout)
        else:
            x = pack.unpack(self.cross_attn(pack.pack(x), memory_keys, memory_values, memory_mask, self.dropout))
        hidden = hidden + self._drop(x)
        x = self.mlp_norm(hidden)
        return hidden + self._drop(self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class RLMDecoder(nn.Module):
    """Number tokens in, hidden states out; positions are learned, one per place in the answer."""

    def __init__(self, config: RLMConfig, codec: NumberCodec):
        super().__init__()
        self.embed_tokens = nn.Embedding(codec.vocab_size, config.decoder_hidden_size)
        self.embed_positions = nn.Embedding(config.max_objectives * codec.length + 1, config.decoder_hidden_size)
        self.layers = nn.ModuleList([RLMDecoderLayer(config) for _ in range(config.decoder_num_layers)])
        self.norm = nn.RMSNorm(config.decoder_hidden_size, eps=config.rms_norm_eps)

    def project_memory(self, memory: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Cross-attention keys and values of every layer, computed once per input."""
        return [layer.cross_attn.project(memory) for layer in self.layers]

    def forward(
        self,
        tokens: torch.Tensor,
        memory: list[tuple[torch.Tensor, torch.Tensor]],
        memory_mask: torch.Tensor | None,
        *,
        start: int = 0,
        past: Any = None,
        pack: Any = None,
    ) -> torch.Tensor:
        """Hidden states `(batch, length, size)` of tokens `(batch, length)` at places `start, start + 1, ...`.

        Args:
            memory: Keys and values by layer, see `project_memory`.
            memory_mask: bool `(batch, memory length)`, None when nothing is padded.
            start: Place of the first token.
            past: Keys and values of the places before `start`, kept by `update`.
            pack: Lays several rows of tokens on one row of memory.
        """
        length = tokens.shape[1]
        places = torch.arange(start, start + length, device=tokens.device)
        hidden = self.embed_tokens(tokens) + self.embed_positions(places)
        self_mask = None
        if length > 1:
            self_mask = torch.arange(start + length, device=tokens.device) <= places[:, None]
            self_mask = self_mask[None, None]
        if memory_mask is not None:
            memory_mask = memory_mask[:, None, None, :].bool()
        for index, (layer, (keys, values)) in enumerate(zip(self.layers, memory, strict=True)):
            hidden = layer(hidden, keys, values, memory_mask, self_mask, past=past, index=index, pack=pack)
        return self.norm(hidden)


class RLMNumberHead(nn.Linear):
    """Logits over the numeric vocabulary `(..., vocabulary)`, soft-capped where the decoder's family does that."""

    def __init__(self, size: int, vocab_size: int, softcap: float | None = None):
        super().__init__(size, vocab_size, bias=False)
        self.softcap = softcap

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of hidden states `(..., size)`."""
        logits = super().forward(hidden)
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


class RLMPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of the model as a whole."""

    config: RLMConfig
    config_class = RLMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("RLMDecoderLayer", "T5GemmaNumberLayer")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, RLMForConditionalGeneration):
            if module.layer_mix is not None:
                nn.init.zeros_(module.layer_mix)
        elif isinstance(module, LexicalPath):
            nn.init.normal_(module.channel_embedding, std=self.config.initializer_range)
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
        magnitudes: The `MagnitudeEmbedding` that tells the encoder how large the text's numbers are, None without one.
        lexical: The `LexicalPath`, None without one.
    """

    def __init__(self, config: RLMConfig):
        super().__init__(config)
        self.codec = NumberCodec(config.format)
        self.grammar = NumberGrammar(self.codec)
        self.encoder = build_encoder(config.encoder)
        layers = config.encoder_layers
        self.layer_mix = nn.Parameter(torch.zeros(len(layers))) if layers else None
        small, library = config.decoder is None, config.library_decoder
        self.magnitudes, self.lexical = None, None
        if config.magnitudes:
            self.add_magnitudes()
        if config.lexical is not None:
            self.lexical = LexicalPath(LexicalSettings.from_dict(config.lexical), config.encoder_hidden_size)
        self.memory_norm = nn.RMSNorm(config.encoder_hidden_size, eps=config.rms_norm_eps) if small else nn.Identity()
        self.decoder = RLMDecoder(config, self.codec) if small else T5GemmaNumberDecoder(config, self.codec)
        softcap = None if small else library.final_logit_softcapping
        self.number_head = RLMNumberHead(config.decoder_hidden_size, self.codec.vocab_size, softcap)
        self.regression_head = nn.Linear(config.encoder_hidden_size, 1) if config.regression_head else None
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
        **kwargs,
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

    def _take_pretrained(self, source: str, dtype: torch.dtype, **hub) -> "RLMForConditionalGeneration":
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

    def add_lexical_path(self, settings: LexicalSettings) -> None:
        """Puts a new lexical path in the place of what there is, its regressors still zero; see `training/lexical.py`."""
        path = LexicalPath(settings, self.config.encoder_hidden_size)
        path.apply(self._init_weights)
        self.config.lexical = settings.to_dict()
        self.lexical = path.to(self.number_head.weight)

    def add_magnitudes(self) -> None:
        """Lets the encoder know how large the numbers in the text are; the answers stay what they were until it is trained."""
        embeddings = self.get_input_embeddings().weight
        self.config.magnitudes = True
        self.magnitudes = MagnitudeEmbedding(len(embeddings), self.config.encoder_hidden_size).to(embeddings)
        self.train(self.training)  # a frozen encoder's are frozen

    def drop_lexical_path(self) -> None:
        """Takes the lexical path away; the decoder reads the encoder alone."""
        self.config.lexical, self.lexical = None, None

    def add_regression_head(self, shift: float = 0.0, scale: float = 1.0) -> None:
        """Lets a new linear head answer in the decoder's place with `shift + scale * head`, see `regress`."""
        head = nn.Linear(self.config.encoder_hidden_size, 1)
        head.apply(self._init_weights)
        self.config.regression_head, self.config.regression_scale = True, [float(shift), float(scale)]
        self.regression_head = head.to(self.number_head.weight)

    # ------------------------------------------------------------------------------------------------ parts

    def get_encoder(self, *args, **kwargs) -> nn.Module:
        """The text encoder; `encode_memory` gives what the decoder reads of it."""
        return self.encoder

    def get_decoder(self, *args, **kwargs) -> nn.Module:
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

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args, **kwargs) -> nn.Module:
        """Resizes the encoder's embeddings. The numeric vocabulary is the number format's and stays as it is."""
        return self.encoder.resize_token_embeddings(new_num_tokens, *args, **kwargs)

    def train(self, mode: bool = True) -> "RLMForConditionalGeneration":
        """As in torch; a frozen encoder stays in evaluation mode and without gradients, also after loading."""
        super().train(mode)
        if self.config.freeze_encoder:
            self.encoder.eval()
            self.encoder_requires_grad_(False)
        return self

    def encoder_requires_grad_(self, required: bool) -> None:
        """Trains what reads the text, or leaves it out of training: the encoder and its magnitudes."""
        for part in (self.encoder, self.magnitudes):
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
            if self.magnitudes is not None:
                text = {"inputs_embeds": self.get_input_embeddings()(input_ids) + self.magnitudes(input_ids)}
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
        lexical_scores: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the decoder reads: the encoder's memory, then one token per channel of the lexical path, if there is one.

        Args:
            input_ids: Text tokens `(batch, length)`.
            attention_mask: 1 for text, 0 for padding `(batch, length)`.
            lexical_scores: Scores `(batch, channels)` in place of those that the lexical path gives, see `lexical_rlm`.

        Returns:
            `(batch, length + channels, encoder size)`.
        """
        return self._memory(self.encode_layers(input_ids, attention_mask), input_ids, attention_mask, lexical_scores)

    def _memory(
        self,
        states: torch.Tensor,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        lexical_scores: torch.Tensor | None,
    ) -> torch.Tensor:
        memory = self.mix_layers(states)
        if self.lexical is None:
            return memory
        if lexical_scores is None:
            if input_ids is None:
                raise ValueError("The lexical path reads input_ids or lexical_scores; encoder_states alone do not do.")
            lexical_scores = self.lexical.scores(input_ids, attention_mask)
        return torch.cat([memory, self.lexical(lexical_scores).to(memory.dtype)], 1)

    def memory_mask(self, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """The mask of `encode_memory`'s output for a mask of the text: nothing of the lexical path is padding."""
        if attention_mask is None or self.lexical is None:
            return attention_mask
        return F.pad(attention_mask, (0, len(self.lexical.settings.channels)), value=1)

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
        with self._answering():
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
        lexical_scores: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs,
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
            lexical_scores: See `encode_memory`; in training those of regressors that have not seen the row.
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
            memory = self._memory(encoder_states, input_ids, attention_mask, lexical_scores)
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
        hidden = self.decoder(decoder_input_ids, memory_kv, self.memory_mask(attention_mask), start=start, past=past)
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

    def generate(self, inputs: Any = None, *, num_objectives: int | None = None, **kwargs) -> Any:
        """transformers' `generate()`; unless `config.constrain_numbers` is off it keeps to the number grammar.

        For medians, intervals and samples `predict()` and `sample()` are exact and far faster.

        Args:
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
                memory = self.encode_memory(ids, kwargs["attention_mask"])
            kwargs["encoder_outputs"] = BaseModelOutput(last_hidden_state=memory)
        return super().generate(inputs, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels shifted right behind the start token."""
        start = labels.new_full((len(labels), 1), self.config.decoder_start_token_id)
        return torch.cat([start, labels[:, :-1].clamp_min(0)], 1)


RLMForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = ["RLMForConditionalGeneration", "RLMPreTrainedModel"]
