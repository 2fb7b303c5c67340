"""From a checkpoint's folder or hub id to a model, a processor, a pipeline; never runs code from the checkpoint."""

import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import cached_file

from code_rlm.configuration_rlm import TASK, RLMConfig
from code_rlm.errors_rlm import CheckpointError, MissingPackageError
from code_rlm.modeling_rlm import ADAPTED_CONFIG, RLMForConditionalGeneration
from code_rlm.pipeline_rlm import CodeRegressionPipeline
from code_rlm.processing_rlm import RLMProcessor
from code_rlm.tokenization_rlm import RLMTokenizer

DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "default"
_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
# What stands for the weights that ship, unless there is a folder of that name.
_DEFAULT_NAMES = ("default", "checkpoints/default")
# Written beside a LoRA adapter: which checkpoint it adapts, and the digest of that one's weights.
ADAPTER_BASE = "adapter_base.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PREFIX = "base_model.model."  # of all names in an adapter's weights


def resolve(checkpoint: str | os.PathLike | None) -> str:
    """Returns the folder or hub id that a name stands for: None, `default` and `checkpoints/default` for the weights that ship.

    A folder of that name in the working directory comes first.
    """
    if checkpoint is None:
        return str(DEFAULT_CHECKPOINT)
    where = os.fspath(checkpoint)
    return str(DEFAULT_CHECKPOINT) if where in _DEFAULT_NAMES and not os.path.exists(where) else where


def load(
    checkpoint: str | os.PathLike | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: torch.dtype | str | None = None,
    local_files_only: bool = False,
) -> tuple[RLMForConditionalGeneration, RLMProcessor]:
    """Loads a checkpoint with this package's own classes.

    Args:
        checkpoint: Folder or hub id; None or `default` for the one that ships in the package. Of a LoRA adapter, its base is
            found where the adapter says and the two are merged.
        revision, token, local_files_only: For the hub.
        dtype: Type of the weights; by default as saved.

    Returns:
        The model, and the processor that makes its inputs; the tokenizer is `processor.tokenizer`.

    Raises:
        CheckpointError: No checkpoint there, one of another kind, or one with files or weights missing.
    """
    where = resolve(checkpoint)
    if os.path.isdir(where):
        _check_folder(Path(where))
    elif os.path.exists(where):
        raise CheckpointError(f"{where} is a file; a checkpoint is a folder or a hub id.")
    elif where.count("/") > 1 or where.startswith((".", "~", "/")):
        raise CheckpointError(f"There is no checkpoint folder {where}.")
    hub: dict[str, Any] = {"revision": revision, "token": token, "local_files_only": local_files_only}
    adapter = None
    if (base_file := _file_of(where, ADAPTER_BASE, hub)) is not None:
        adapter, weights = where, _adapter_base(where, base_file, hub)
    else:
        weights = where
    try:
        # Adapters of earlier releases hold a whole ensemble, into which the base is loaded; others bring what they add.
        whole = adapter is not None and "ensemble" in _modules_to_save(where, hub)
        config = RLMConfig.from_pretrained(weights if adapter is not None and not whole else where, **hub)
        model, info = RLMForConditionalGeneration.from_pretrained(
            weights,
            config=config,
            dtype=dtype or "auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named in the error below
            use_safetensors=True,
            **(hub if adapter is None else {**hub, "revision": None}),
        )
        if adapter is not None:
            model = _merged(model, adapter, hub)
        tokenizer = RLMTokenizer.from_pretrained(where, **hub)
        same_numbers = tokenizer.codec.format == model.codec.format
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are libraries that read one
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"No Code-RLM checkpoint could be loaded from {where}: {reason}") from error
    lacking = sorted([*info["missing_keys"], *(k[0] for k in info["mismatched_keys"])])
    if whole:
        lacking = [name for name in lacking if not name.startswith("ensemble.")]  # the adapter brings it whole
    if lacking:
        raise CheckpointError(
            f"{where}: {len(lacking)} weights are missing or of another shape, the first {lacking[:4]}."
        )
    if not same_numbers:
        raise CheckpointError(f"{where}: tokenizer and model write numbers in different formats.")
    return model, RLMProcessor(tokenizer, model.config)


def _file_of(where: str, name: str, hub: dict[str, Any]) -> str | None:
    """Path of a file of a folder or of a hub repository, None where there is none."""
    if os.path.isdir(where):
        return os.path.join(where, name) if os.path.isfile(os.path.join(where, name)) else None
    missing = {
        f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "gated_repo", "connection_errors")
    }
    try:
        return cached_file(where, name, **missing, **hub)
    except (OSError, ValueError):  # no such repository: the config's absence says it better
        return None


def _modules_to_save(adapter: str, hub: dict[str, Any]) -> Sequence[str]:
    """Names of the modules that an adapter holds whole."""
    path = _file_of(adapter, "adapter_config.json", hub)
    return () if path is None else json.loads(Path(path).read_text(encoding="utf-8")).get("modules_to_save") or ()


def is_adapter(checkpoint: str | os.PathLike | None) -> bool:
    """Whether a checkpoint, named as in `load`, is a LoRA adapter."""
    return _file_of(resolve(checkpoint), ADAPTER_BASE, {}) is not None


def _adapter_base(adapter: str, base_file: str, hub: dict[str, Any]) -> str:
    """Where an adapter's base is: as the adapter names it, or the checkpoint that ships in the package.

    Raises:
        CheckpointError: It is nowhere, or its weights are not those that the adapter was trained on.
    """
    try:
        entry = json.loads(Path(base_file).read_text(encoding="utf-8"))
        base, digest = str(entry["base"]), entry["sha256"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{base_file} is not JSON with the base and the sha256 of its weights.") from None
    found = None
    for where in (base, os.path.join(adapter, base), str(DEFAULT_CHECKPOINT)):
        if os.path.isdir(where):
            found = weights_digest(where)
            if found == digest:
                return where
    if not os.path.isdir(base) and base.count("/") <= 1 and not base.startswith((".", "~", "/")):
        try:
            found = weights_digest(base, token=hub["token"], local_files_only=hub["local_files_only"])
        except CheckpointError:
            found = None
        if found == digest:
            return base
    why = "is not there" if not os.path.isdir(base) else "holds other weights than those it was trained on"
    raise CheckpointError(
        f"{adapter} is a LoRA adapter and its base {base} {why}. Put the base there, or name where it is in {base_file}; the "
        "run's final/ folder is the merged model, which needs no base."
    )


def weights_digest(checkpoint: str | os.PathLike, **hub: Any) -> str:
    """SHA-256 over the weight files of a checkpoint, a folder or a hub id, in the order of their names.

    Raises:
        CheckpointError: There are none.
    """
    digest = hashlib.sha256()
    for file in weight_files(checkpoint, **hub):
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def weight_files(checkpoint: str | os.PathLike, **hub: Any) -> list[str]:
    """Paths of the weight files of a checkpoint, a folder or a hub id, in the order of their names.

    Raises:
        CheckpointError: There are none.
    """
    where = resolve(checkpoint)
    folder = Path(where)
    if not folder.is_dir():
        index = _file_of(where, "model.safetensors.index.json", {"revision": None, **hub})
        names = (
            sorted(set(json.loads(Path(index).read_text())["weight_map"].values())) if index else ["model.safetensors"]
        )
        named = [_file_of(where, name, {"revision": None, **hub}) for name in names]
    else:
        named = [os.fspath(path) for path in sorted(folder.glob("*.safetensors"))]
    files = [file for file in named if file is not None]
    if not files or len(files) < len(named):
        raise CheckpointError(f"There are no weights (*.safetensors) in {where}.")
    return files


def _merged(model: RLMForConditionalGeneration, adapter: str, hub: dict[str, Any]) -> RLMForConditionalGeneration:
    """The base with an adapter merged into its weights."""
    try:
        from peft import PeftModel  # slow to import
    except ModuleNotFoundError:
        raise MissingPackageError(
            f"{adapter} is a LoRA adapter, which needs the package peft: pip install 'code-rlm[train]'"
        ) from None

    options = {k: v for k, v in hub.items() if v is not None}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)  # peft's own
        adapted = PeftModel.from_pretrained(model, adapter, **options)
    return adapted.merge_and_unload().eval()


def write_adapter_config(folder: Path, config: RLMConfig) -> None:
    """Writes a config into an adapter's weights, with which peft brings it to the base.

    Adapters of earlier releases, which hold a whole ensemble, stay as they are.
    """
    if "ensemble" in _modules_to_save(os.fspath(folder), {}):
        return
    weights = load_file(folder / ADAPTER_WEIGHTS)
    text = zlib.compress(json.dumps(config.adapter_entry()).encode(), 9)
    weights[ADAPTER_PREFIX + ADAPTED_CONFIG] = torch.from_numpy(np.frombuffer(text, np.uint8).copy())
    partial = folder / f".{ADAPTER_WEIGHTS}.{os.getpid()}"
    save_file(weights, partial, metadata={"format": "pt"})
    os.replace(partial, folder / ADAPTER_WEIGHTS)


def _check_folder(folder: Path) -> None:
    adapter = (folder / ADAPTER_BASE).is_file()
    weights = ADAPTER_WEIGHTS if adapter else "model.safetensors"
    missing = [
        name for name in (*_NEEDED, *(("adapter_config.json",) if adapter else ())) if not (folder / name).is_file()
    ]
    if not any(folder.glob("*.safetensors")):
        missing.append(weights)
    if missing:
        lone = not adapter and (folder / "adapter_config.json").exists()
        hint = f" It holds a LoRA adapter, but no {ADAPTER_BASE} that names its base." if lone else ""
        raise CheckpointError(f"{folder} is not a whole checkpoint; missing: {', '.join(missing)}.{hint}")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        raise CheckpointError(f"{folder / 'config.json'} is not JSON of a config.") from None
    if kind != RLMConfig.model_type:
        raise CheckpointError(f"{folder} holds a {kind!r} model, not a {RLMConfig.model_type!r} one.")


def pipeline(
    model: str | os.PathLike | RLMForConditionalGeneration | None = None,
    processor: RLMProcessor | RLMTokenizer | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: torch.dtype | str | None = None,
    device: Any = None,
    **options: Any,
) -> CodeRegressionPipeline:
    """The code-regression pipeline without remote code.

    Args:
        model: Folder, hub id or model object; None or `default` for the weights that ship in the package.
        processor: Needed with a model object only: its processor, or its tokenizer.
        revision, token: For the hub.
        dtype: Type of the weights.
        device: Where to run, as for any pipeline.
        **options: Defaults of later calls: `metrics`, `interval`, `batch_size`, ...

    Raises:
        CheckpointError: See `load`.
    """
    if model is None or isinstance(model, (str, os.PathLike)):
        model, own = load(model, revision=revision, token=token, dtype=dtype)
        processor = processor or own
    elif processor is None:
        raise CheckpointError("A model object needs its processor: pipeline(model, processor).")
    if not isinstance(processor, RLMProcessor):
        processor = RLMProcessor(processor, model.config)
    return CodeRegressionPipeline(
        model=model, tokenizer=processor.tokenizer, processor=processor, task=TASK, device=device, **options
    )


__all__ = [
    "ADAPTER_BASE",
    "ADAPTER_PREFIX",
    "ADAPTER_WEIGHTS",
    "DEFAULT_CHECKPOINT",
    "is_adapter",
    "load",
    "pipeline",
    "resolve",
    "weight_files",
    "weights_digest",
    "write_adapter_config",
]
