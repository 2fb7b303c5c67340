"""Hidden states of a pretrained language model as features of a text, for the feature ensemble (`ensemble_rlm.py`).

Any causal or masked model of transformers can be named: by Hub id, by folder, or as a GGUF file. It is cut after the last
layer that is read and stays as it is; nothing of it is saved with the checkpoint, which names it:

    settings = LanguageModelConfig.resolve("HuggingFaceTB/SmolLM2-135M")
    HiddenStates(settings)(["def f(n):\n    return [0] * n"])           # float32 (1, 4608)

Of each layer the mean and the maximum over the text's tokens are features. They are kept on disk, by a digest of the text, of
the model's weights and of how these are read, so that a text is run through the model once. The model itself is loaded when a
text is met that is not kept there. Its code is always the library's own (`trust_remote_code` is never set), its weights are
safetensors or GGUF.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from .errors_rlm import CheckpointError

SHORT_NAMES = {"smollm2": "HuggingFaceTB/SmolLM2-135M", "qwen2.5-coder": "Qwen/Qwen2.5-Coder-0.5B"}
CACHE_VARIABLE = "CODE_RLM_CACHE"  # of the environment: the folder of what is kept on disk
_POOLING: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mean": lambda states, mask: (states * mask).sum(1) / mask.sum(1),
    "max": lambda states, mask: states.masked_fill(mask == 0, -torch.inf).amax(1),
}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BATCH = 8  # texts of like length that run together
_KEPT_AT_ONCE = 64  # texts between two writes to the disk
_SAMPLE = 1024  # numbers of each tensor that its digest reads
_LOCK_SECONDS = 60.0  # that another process may take to write


@dataclass(frozen=True)
class LanguageModelConfig:
    """Which language model is read, and how.

    Attributes:
        model: Hub id, or folder.
        revision: Commit of the Hub's repository.
        gguf_file: Name of a GGUF file in it, which holds config, tokenizer and weights.
        layers: The layers whose outputs are read, from 1, ascending; the model is cut after the last of them.
        pooling: How a layer's outputs at the text's tokens become one vector: `mean`, `max`.
        dtype: Type that the model computes in: `float32`, `bfloat16`, `float16`.
        max_tokens: Tokens of a text that are read; of longer ones the middle is left out.
        components: The most principal components of the hidden states that regressors read.
        hidden_size: Width of a layer's output.
        digest: Of the weights that are read, in the type that they are computed in; see `weights_digest`.
    """

    model: str
    revision: str | None = None
    gguf_file: str | None = None
    layers: tuple[int, ...] = ()
    pooling: tuple[str, ...] = ("mean", "max")
    dtype: str = "float32"
    max_tokens: int = 768
    components: int = 256
    hidden_size: int = 0
    digest: str = ""

    def __post_init__(self) -> None:
        for name in ("layers", "pooling"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        checks = {
            "model": isinstance(self.model, str) and bool(self.model),
            "revision": self.revision is None or isinstance(self.revision, str),
            "gguf_file": self.gguf_file is None or isinstance(self.gguf_file, str),
            "layers": all(isinstance(layer, int) and layer > 0 for layer in self.layers)
            and list(self.layers) == sorted(set(self.layers)),
            "pooling": bool(self.pooling) and set(self.pooling) <= set(_POOLING),
            "dtype": self.dtype in _DTYPES,
            "max_tokens": isinstance(self.max_tokens, int) and self.max_tokens >= 2,
            "components": isinstance(self.components, int) and self.components > 0,
        }
        if wrong := [name for name, right in checks.items() if not right]:
            raise CheckpointError(
                f"language_model.{wrong[0]} is {getattr(self, wrong[0])!r:.200}. It takes model (a Hub id or folder), "
                f"revision, gguf_file, layers (ascending, from 1), pooling ({', '.join(_POOLING)}), "
                f"dtype ({', '.join(_DTYPES)}), max_tokens (at least 2) and components (at least 1)."
            )

    @classmethod
    def from_dict(cls, entry: "LanguageModelConfig | Mapping[str, Any]") -> "LanguageModelConfig":
        """Builds the settings from their JSON form; unknown keys are an error."""
        if isinstance(entry, cls):
            return entry
        if not isinstance(entry, Mapping):
            raise CheckpointError(f"language_model must be a mapping, got {entry!r:.200}.")
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(entry) - set(known)):
            raise CheckpointError(f"language_model has unknown keys {unknown}. Known: {', '.join(known)}.")
        if "model" not in entry:
            raise CheckpointError(f"language_model names no model, got {dict(entry)!r:.200}.")
        return cls(**entry)

    @classmethod
    def resolve(cls, given: "str | Mapping[str, Any] | LanguageModelConfig") -> "LanguageModelConfig":
        """Settings with all that is known only of the model: layers, width, commit and digest. The model is loaded for it.

        Args:
            given: A Hub id, a folder, the path of a GGUF file or one of `SHORT_NAMES`; or the fields of the settings, where
                `depth`, the layer to cut after, may stand in place of `layers`: four layers up to it are then read. By default
                it is half of the model's.

        Raises:
            CheckpointError: The model cannot be had, or it has no such layers.
        """
        entry = (
            asdict(given) if isinstance(given, cls) else dict(given) if isinstance(given, Mapping) else {"model": given}
        )
        depth = entry.pop("depth", None)
        if depth is not None and (entry.get("layers") or not isinstance(depth, int) or depth < 1):
            raise CheckpointError(
                f"language_model.depth is a whole number of at least 1 in place of layers, got {depth!r} and layers "
                f"{entry.get('layers')}."
            )
        name = str(entry.get("model", ""))
        entry["model"] = name = SHORT_NAMES.get(name, name)
        if name.endswith(".gguf"):
            entry["model"], entry["gguf_file"] = os.path.dirname(name) or ".", os.path.basename(name)
        settings = cls.from_dict(entry)
        config = _read_config(settings)
        layers = settings.layers or _spread(config.num_hidden_layers // 2 if depth is None else depth)
        if layers[-1] > config.num_hidden_layers:
            raise CheckpointError(
                f"{name} has layers 1 to {config.num_hidden_layers}, and layer {layers[-1]} was asked for."
            )
        revision = getattr(config, "_commit_hash", None) or settings.revision
        settings = replace(settings, layers=layers, revision=revision, hidden_size=config.hidden_size, digest="")
        return replace(settings, digest=_load(settings)[2])

    @property
    def size(self) -> int:
        """Number of features."""
        return self.hidden_size * len(self.layers) * len(self.pooling)

    @property
    def name(self) -> str:
        """The model as a reader would look for it."""
        return os.path.join(self.model, self.gguf_file) if self.gguf_file else self.model

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready fields."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


class HiddenStates:
    """Reads texts with a language model, or from the disk where it has read them before.

    Args:
        settings: As `LanguageModelConfig.resolve` gives them.
        log: Gets a line when texts are read that are not on the disk.
    """

    def __init__(self, settings: LanguageModelConfig, log: Callable[[str], None] = lambda text: None):
        self.settings, self._log = settings, log
        self._cache = HiddenStateCache()
        self._model: Any = None
        self._tokenizer: Any = None

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Features of texts, float32 `(texts, settings.size)`: for each layer in turn each pooling in turn.

        Raises:
            CheckpointError: A text is not on the disk, and the model cannot be had or has other weights.
        """
        keys = [self._key(text) for text in texts]
        found = self._cache.get(keys, self.settings.size)
        lacking = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if lacking:
            self._log(f"{self.settings.name}: reads {len(lacking)} texts; {len(found)} are kept in {self._cache.path}")
            for key, row in self._read(lacking):
                found[key] = row
        rows = np.stack([found[key] for key in keys]) if keys else np.zeros((0, self.settings.size), np.float32)
        return torch.from_numpy(rows)

    def _key(self, text: str) -> bytes:
        """What a text's features are found by: all that they depend on but where the model lies."""
        settings = self.settings.to_dict()
        how = {name: settings[name] for name in ("digest", "layers", "pooling", "dtype", "max_tokens")}
        return hashlib.sha256(json.dumps([how, text]).encode()).digest()

    def _read(self, texts: Mapping[bytes, str]) -> Iterator[tuple[bytes, np.ndarray]]:
        """Runs the model over texts, those of like length together, and keeps what it gives."""
        if self._model is None:
            self._load()
        limit = self.settings.max_tokens
        ids = [self._token_ids(text, limit) for text in texts.values()]
        keys = list(texts)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        unsaved: dict[bytes, np.ndarray] = {}
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            rows = self._pooled([ids[row] for row in batch])
            unsaved |= {keys[row]: own for row, own in zip(batch, rows, strict=True)}
            if len(unsaved) >= _KEPT_AT_ONCE or start + _BATCH >= len(order):
                self._cache.put(unsaved)
                yield from unsaved.items()
                unsaved = {}

    def _load(self) -> None:
        model, tokenizer, digest = _load(self.settings)
        if digest != self.settings.digest:
            raise CheckpointError(
                f"{self.settings.name} holds other weights than those that the feature ensemble was fitted with (digest "
                f"{digest[:12]} in place of {self.settings.digest[:12]}). {_REMEDY}"
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model, self._tokenizer = model.to(device).eval(), tokenizer

    def _token_ids(self, text: str, limit: int) -> list[int]:
        """Token ids of a text; of a long one those of both ends."""
        ids = self._tokenizer(text, split_special_tokens=True, verbose=False)["input_ids"] or [0]
        config = self._model.config
        limit = min(limit, self._tokenizer.model_max_length, getattr(config, "max_position_embeddings", limit))
        tail = limit // 2
        return ids if len(ids) <= limit else ids[: limit - tail] + ids[len(ids) - tail :]

    @torch.inference_mode()
    def _pooled(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Features of token ids, float32 `(texts, size)`."""
        padded = pad_sequence([torch.tensor(row) for row in ids], batch_first=True).to(self._model.device)
        lengths = torch.tensor([len(row) for row in ids], device=padded.device)
        mask = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
        outputs = self._model(input_ids=padded, attention_mask=mask.long(), output_hidden_states=True)
        parts = [
            _POOLING[how](outputs.hidden_states[layer].float(), mask[..., None])
            for layer in self.settings.layers
            for how in self.settings.pooling
        ]
        return torch.cat(parts, 1).cpu().numpy()


class HiddenStateCache:
    """Features of texts on the disk: an SQLite file that any number of processes share.

    Attributes:
        path: The file: in the folder that `CODE_RLM_CACHE` names, by default in `code_rlm` of the Hub's own folder.
    """

    def __init__(self) -> None:
        folder = os.environ.get(CACHE_VARIABLE) or os.path.join(constants.HF_HOME, "code_rlm")
        self.path = Path(folder) / "hidden_states.sqlite"
        self._warned = False

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self.path, timeout=_LOCK_SECONDS)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS states (key BLOB PRIMARY KEY, row BLOB) WITHOUT ROWID")
            yield connection

    def get(self, keys: Sequence[bytes], size: int) -> dict[bytes, np.ndarray]:
        """What is kept of texts, float32 `(size,)` each, by their keys."""
        if not self.path.is_file():
            return {}
        found: dict[bytes, np.ndarray] = {}
        try:
            with self._open() as connection:
                for key in dict.fromkeys(keys):
                    entry = connection.execute("SELECT row FROM states WHERE key = ?", (key,)).fetchone()
                    if entry is not None and len(entry[0]) == 4 * size:
                        found[key] = np.frombuffer(entry[0], dtype=np.float32)
        except (OSError, sqlite3.Error) as error:
            self._warn(error)
        return found

    def put(self, rows: Mapping[bytes, np.ndarray]) -> None:
        """Keeps the features of texts by their keys."""
        try:
            with self._open() as connection:
                entries = [(key, row.astype(np.float32).tobytes()) for key, row in rows.items()]
                connection.executemany("INSERT OR REPLACE INTO states VALUES (?, ?)", entries)
        except (OSError, sqlite3.Error) as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.path} cannot be used ({error}), so texts are run through the language model again. Name another folder "
                f"in the environment variable {CACHE_VARIABLE}.",
                stacklevel=4,
            )


_REMEDY = (
    "A checkpoint holds the regressors alone and answers nothing without its language model: put that where it was, log in to "
    "the Hub or go online, or name its place in the checkpoint's config.json, ensemble.features.language_model (model: Hub id "
    "or folder, revision, gguf_file; the weights must be the same)."
)


def weights_digest(model: torch.nn.Module, leave_out: Sequence[str] = ()) -> str:
    """SHA-256 of names, shapes and a sample of the numbers of a model's tensors.

    The sample, every n-th number, makes it cheap; weights that were trained further differ in nearly all numbers.

    Args:
        model: The model.
        leave_out: Names of tensors that do not count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name in leave_out:
            continue
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, len(flat) // _SAMPLE)].float().contiguous().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(sample.astype("<f4").tobytes())
    return digest.hexdigest()


def _spread(depth: int) -> tuple[int, ...]:
    """Four layers up to a depth, evenly apart; fewer where it is less."""
    return tuple(sorted({max(1, round(depth * part / 4)) for part in (1, 2, 3, 4)}))


def _read_config(settings: LanguageModelConfig) -> Any:
    """The config of the language model."""
    with _quiet(settings):
        config = AutoConfig.from_pretrained(settings.model, trust_remote_code=False, **_where(settings))
    if config.is_encoder_decoder or not all(hasattr(config, name) for name in ("num_hidden_layers", "hidden_size")):
        raise CheckpointError(
            f"{settings.name} is a {config.model_type} model; a language model here is a causal or masked one, a single "
            "stack of layers."
        )
    return config


def _load(settings: LanguageModelConfig) -> tuple[Any, Any, str]:
    """The model, cut after the last layer that is read, its tokenizer, and the digest of its weights."""
    config = _read_config(settings)
    config.num_hidden_layers = settings.layers[-1]
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: settings.layers[-1]]
    where = _where(settings)
    with _quiet(settings):
        tokenizer = AutoTokenizer.from_pretrained(settings.model, trust_remote_code=False, **where)
        model, info = AutoModel.from_pretrained(
            settings.model,
            config=config,
            dtype=_DTYPES[settings.dtype],
            attn_implementation="eager",  # a config could name a kernel to fetch
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=None if settings.gguf_file else True,
            **where,
        )
    missing = sorted(info["missing_keys"])
    if lacking := [name for name in missing if "pooler" not in name]:  # on top of masked models, and not read
        raise CheckpointError(f"{settings.name} lacks {len(lacking)} weights, the first {lacking[:4]}.")
    return model, tokenizer, weights_digest(model, missing)


def _where(settings: LanguageModelConfig) -> dict[str, str]:
    given = {"revision": settings.revision, "gguf_file": settings.gguf_file}
    return {name: value for name, value in given.items() if value is not None}


@contextlib.contextmanager
def _quiet(settings: LanguageModelConfig) -> Iterator[None]:
    """Without the library's report of the layers that are left out, its errors in words that say what to do."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except ImportError as error:  # the library's way to say that GGUF needs a package
        raise CheckpointError(f"{settings.name} cannot be read: {str(error).strip().splitlines()[0]}") from error
    except Exception as error:  # a damaged file fails in as many ways as there are libraries that read one
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"The language model {settings.name} cannot be had: {reason} {_REMEDY}") from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


__all__ = ["CACHE_VARIABLE", "SHORT_NAMES", "HiddenStateCache", "HiddenStates", "LanguageModelConfig", "weights_digest"]
