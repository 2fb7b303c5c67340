"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: which layers get one, and how they are saved.

An adapter's folder holds the adapter's weights, the whole config with the metrics registry, the tokenizer, and where its
base checkpoint is with the digest of that one's weights. `code_rlm.load` makes a plain merged model of it.
"""

import json
import os
import warnings
from pathlib import Path

from torch import nn

from code_rlm.loading import ADAPTER_BASE, weights_digest
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.processing_rlm import RLMProcessor
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.options import LoraOptions, TrainError


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
    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        r=options.rank,
        lora_alpha=options.scale,
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


def is_adapted(model: nn.Module) -> bool:
    """Whether a model is wrapped by `add_lora`."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def base_of(model: nn.Module) -> RLMForConditionalGeneration:
    """The regression model inside adapters, or the model itself."""
    return model.get_base_model() if is_adapted(model) else model


def save_adapter(model: nn.Module, tokenizer: RLMTokenizer, folder: Path, state: dict | None = None) -> None:
    """Writes an adapter's folder.

    Args:
        model: A model from `add_lora`.
        tokenizer: Saved beside it.
        folder: Where to.
        state: The model's weights by name, where they are not those that it holds.
    """
    # Left to itself peft asks the hub whether the base's vocabulary has changed.
    model.save_pretrained(folder, save_embedding_layers=False, state_dict=state)
    (folder / "README.md").unlink()  # a form with nothing filled in
    config = base_of(model).config
    config.save_pretrained(folder)
    RLMProcessor(tokenizer, config).save_pretrained(folder)
    base = model.peft_config["default"].base_model_name_or_path
    (folder / ADAPTER_BASE).write_text(json.dumps({"base": os.fspath(base), "sha256": weights_digest(base)}, indent=1))


__all__ = ["add_lora", "attention_layers", "base_of", "is_adapted", "linear_layers", "save_adapter"]
