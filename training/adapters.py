"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: which layers get one, and how they are saved.

An adapter's folder holds the adapter's weights, the whole config with the metrics registry, the tokenizer, and where its
base checkpoint is with the digest of that one's weights. `code_rlm.load` makes a plain merged model of it.
"""

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from code_rlm.ensemble_rlm import changed_slices
from code_rlm.loading import (
    ADAPTER_BASE,
    ADAPTER_PREFIX,
    ADAPTER_WEIGHTS,
    weight_files,
    weights_digest,
    write_adapter_config,
)
from code_rlm.modeling_rlm import ADAPTED_ENSEMBLE, RLMForConditionalGeneration
from code_rlm.processing_rlm import RLMProcessor
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.options import LoraOptions, TrainError

if TYPE_CHECKING:
    from peft import PeftModel


def attention_layers(model: nn.Module) -> list[str]:
    """Returns the names of all linear layers inside attention, of any library encoder and of the decoder."""
    inside = [name for name, module in model.named_modules() if "attention" in type(module).__name__.lower()]
    return [name for name in linear_layers(model) if any(name.startswith(f"{outer}.") for outer in inside)]


def linear_layers(model: nn.Module) -> list[str]:
    """Returns the names of all linear layers of encoder and decoder; the numeric head is neither."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(("encoder.", "decoder."))
    ]


def add_lora(model: RLMForConditionalGeneration, options: LoraOptions, base: str) -> nn.Module:
    """Wraps a model so that its adapters, and the modules named in `options.train`, are all that is trained.

    Layers of a frozen encoder get none.

    Args:
        model: The base, as loaded from `base`.
        options: See `LoraOptions`.
        base: Folder or hub id of the base, for whoever loads the adapter.

    Raises:
        TrainError: A name in `target` or `train` that fits no module, or in `train` more than one.
    """
    from peft import LoraConfig, TaskType, get_peft_model  # slow to import

    names = [name for name, _ in model.named_modules()]
    if isinstance(options.target, str):
        targets = {"attention": attention_layers, "linear": linear_layers}[options.target](model)
    else:
        targets = [name for name in linear_layers(model) if any(_fits(name, wanted) for wanted in options.target)]
        if missing := [wanted for wanted in options.target if not any(_fits(name, wanted) for name in targets)]:
            raise TrainError(
                f"lora.target names {missing}, which no linear layer fits; there is {_some(linear_layers(model))}."
            )
    if model.config.freeze_encoder:
        targets = [name for name in targets if not name.startswith("encoder.")]
    if not targets:
        raise TrainError("lora has no layer to adapt: the encoder is frozen and target names no layer of the decoder.")
    for wanted in options.train:
        # peft matches these by the end of the name alone, also in the middle of a word.
        fitting = [name for name in names if name.endswith(wanted)]
        if len(fitting) != 1:
            raise TrainError(
                f"lora.train names {wanted!r}, which fits {len(fitting)} modules ({_some(fitting or names[1:])}); give a name "
                "that fits one."
            )
    whole = list(options.train)
    if model.ensemble is not None and "ensemble" not in whole:
        whole.append("ensemble")  # fitted to the run's data, with metrics that the base may not have
    assert options.rank is not None  # without a rank there are no adapters
    scale: Any = options.scale  # peft's hint says int, its arithmetic takes any number
    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        r=options.rank,
        lora_alpha=scale,
        lora_dropout=options.dropout,
        target_modules=targets,
        modules_to_save=whole or None,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)  # peft's own
        wrapped = get_peft_model(model, config)
    wrapped.peft_config["default"].base_model_name_or_path = base  # peft takes the name in the config
    return wrapped


def _fits(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def is_adapted(model: nn.Module) -> "TypeGuard[PeftModel]":
    """Whether a model is wrapped by `add_lora`."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def base_of(model: nn.Module) -> RLMForConditionalGeneration:
    """The regression model inside adapters, or the model itself."""
    plain = model.get_base_model() if is_adapted(model) else model
    assert isinstance(plain, RLMForConditionalGeneration)
    return plain


def save_adapter(model: "PeftModel", tokenizer: RLMTokenizer, folder: Path, state: dict | None = None) -> None:
    """Writes an adapter's folder.

    Args:
        model: A model from `add_lora`.
        tokenizer: Saved beside it.
        folder: Where to.
        state: The model's weights by name, where they are not those that it holds.
    """
    # Left to itself peft asks the hub whether the base's vocabulary has changed.
    model.save_pretrained(os.fspath(folder), save_embedding_layers=False, state_dict=state)
    (folder / "README.md").unlink()  # a form with nothing filled in
    config = base_of(model).config
    config.save_pretrained(folder)
    RLMProcessor(tokenizer, config).save_pretrained(folder)
    base = model.peft_config["default"].base_model_name_or_path
    assert base is not None  # `add_lora` has named it
    _reduce_ensemble(folder, base)
    write_adapter_config(folder, config)
    (folder / ADAPTER_BASE).write_text(json.dumps({"base": base, "sha256": weights_digest(base)}, indent=1))


def _reduce_ensemble(folder: Path, base: str) -> None:
    """Leaves those parts of the feature ensemble in an adapter's weights that its base does not have.

    The base takes them when the adapter is loaded (`RLMForConditionalGeneration._load_from_state_dict`).
    """
    prefix = f"{ADAPTER_PREFIX}ensemble."
    weights = load_file(folder / ADAPTER_WEIGHTS)
    whole = {name.removeprefix(prefix): weights.pop(name) for name in list(weights) if name.startswith(prefix)}
    before = _base_ensemble(base) if whole else {}
    for name, tensor in whole.items():
        old = before.get(name)
        if old is not None and old.shape == tensor.shape and torch.equal(old.to(tensor), tensor):
            continue
        source, changed = changed_slices(tensor, old, axis=int(name == "weight"))
        weights[f"{ADAPTER_PREFIX}{ADAPTED_ENSEMBLE}{name}.source"] = source
        weights[f"{ADAPTER_PREFIX}{ADAPTED_ENSEMBLE}{name}.changed"] = changed
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["modules_to_save"] = [name for name in config["modules_to_save"] or () if name != "ensemble"] or None
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _base_ensemble(base: str) -> dict[str, torch.Tensor]:
    """The tensors of a base's feature ensemble by name, empty where it has none."""
    found = {}
    for path in weight_files(base):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                if name.startswith("ensemble."):
                    found[name.removeprefix("ensemble.")] = file.get_tensor(name)
    return found


__all__ = ["add_lora", "attention_layers", "base_of", "is_adapted", "linear_layers", "save_adapter"]
