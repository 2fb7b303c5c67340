"""From a checkpoint's folder or hub id to a model, a tokenizer, a pipeline; never runs code from the checkpoint."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from code_rlm.configuration_rlm import TASK, RLMConfig
from code_rlm.errors_rlm import CheckpointError
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.pipeline_rlm import CodeRegressionPipeline
from code_rlm.tokenization_rlm import RLMTokenizer

DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "default"
_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")


def load(
    checkpoint: str | os.PathLike | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: torch.dtype | str | None = None,
    local_files_only: bool = False,
) -> tuple[RLMForConditionalGeneration, RLMTokenizer]:
    """Loads a checkpoint with this package's own classes.

    Args:
        checkpoint: Folder or hub id; None for the one that ships in the package.
        revision, token, local_files_only: For the hub.
        dtype: Type of the weights; by default as saved.

    Raises:
        CheckpointError: No checkpoint there, one of another kind, or one with files or weights missing.
    """
    where = str(DEFAULT_CHECKPOINT if checkpoint is None else checkpoint)
    if os.path.isdir(where):
        _check_folder(Path(where))
    elif os.path.exists(where):
        raise CheckpointError(f"{where} is a file; a checkpoint is a folder or a hub id.")
    elif where.count("/") > 1 or where.startswith((".", "~", "/")):
        raise CheckpointError(f"There is no checkpoint folder {where}.")
    hub = {"revision": revision, "token": token, "local_files_only": local_files_only}
    try:
        config = RLMConfig.from_pretrained(where, **hub)
        model, info = RLMForConditionalGeneration.from_pretrained(
            where,
            config=config,
            dtype=dtype or "auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, by name
            use_safetensors=True,
            **hub,
        )
        tokenizer = RLMTokenizer.from_pretrained(where, **hub)
        same_numbers = tokenizer.codec.format == model.codec.format
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are libraries that read one
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"No Code-RLM checkpoint could be loaded from {where}: {reason}") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        lacking = sorted([*info["missing_keys"], *(k[0] for k in info["mismatched_keys"])])
        raise CheckpointError(
            f"{where}: {len(lacking)} weights are missing or of another shape, the first {lacking[:4]}."
        )
    if not same_numbers:
        raise CheckpointError(f"{where}: tokenizer and model write numbers in different formats.")
    return model, tokenizer


def _check_folder(folder: Path) -> None:
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("model.safetensors")
    if missing:
        hint = " It holds a LoRA adapter only." if (folder / "adapter_config.json").exists() else ""
        raise CheckpointError(f"{folder} is not a whole checkpoint; missing: {', '.join(missing)}.{hint}")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        raise CheckpointError(f"{folder / 'config.json'} is not JSON of a config.") from None
    if kind != RLMConfig.model_type:
        raise CheckpointError(f"{folder} holds a {kind!r} model, not a {RLMConfig.model_type!r} one.")


def pipeline(
    model: str | os.PathLike | RLMForConditionalGeneration | None = None,
    tokenizer: RLMTokenizer | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: torch.dtype | str | None = None,
    device: Any = None,
    **options,
) -> CodeRegressionPipeline:
    """The code-regression pipeline without remote code.

    Args:
        model: Folder, hub id or model object; None for the weights that ship in the package.
        tokenizer: Needed with a model object only.
        revision, token: For the hub.
        dtype: Type of the weights.
        device: Where to run, as for any pipeline.
        **options: Defaults of later calls: `metrics`, `interval`, `batch_size`, ...

    Raises:
        CheckpointError: See `load`.
    """
    if model is None or isinstance(model, (str, os.PathLike)):
        model, own = load(model, revision=revision, token=token, dtype=dtype)
        tokenizer = tokenizer or own
    elif tokenizer is None:
        raise CheckpointError("A model object needs its tokenizer: pipeline(model, tokenizer).")
    return CodeRegressionPipeline(model=model, tokenizer=tokenizer, task=TASK, device=device, **options)


__all__ = ["DEFAULT_CHECKPOINT", "load", "pipeline"]
