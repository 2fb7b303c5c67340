"""The model of a run: a new one, or a checkpoint with its registry widened."""

import typing
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from code_rlm.configuration_rlm import Metric, RLMConfig
from code_rlm.data.mixture import Source
from code_rlm.lexical_rlm import LexicalSettings
from code_rlm.loading import is_adapter, load
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.adapters import add_lora
from code_rlm.training.lexical import digit_tokens, settings_for, token_texts
from code_rlm.training.options import TrainError, TrainOptions


def load_tokenizer(options: TrainOptions) -> RLMTokenizer:
    """The tokenizer of the options, or that of the checkpoint to start from."""
    where = options.tokenizer or options.init
    if not where:
        raise TrainError("A new model needs `tokenizer:`, a folder or hub id (see data/train_tokenizer.py).")
    if where == options.init:
        return load(where)[1]
    try:
        return RLMTokenizer.from_pretrained(where)
    except (OSError, ValueError) as error:  # the library says ValueError of a folder that is not there
        raise TrainError(f"No tokenizer could be loaded from {where}: {str(error).splitlines()[0]}") from error


def build_model(options: TrainOptions, tokenizer: RLMTokenizer, metrics: list[dict]) -> RLMForConditionalGeneration:
    """The model to train: new, or the checkpoint to go on from with its registry widened.

    Raises:
        TrainError: Options that do not fit the checkpoint.
    """
    model = _tuned(options, tokenizer, metrics) if options.init else _new(options, tokenizer, metrics)
    if options.magnitudes or model.magnitudes is not None:
        _read_vocabulary(model, options, tokenizer)
    if options.lexical is False:
        if options.lora is not None and model.lexical is not None:
            raise TrainError(f"An adapter keeps the lexical path of {options.init}; leave out lexical.")
        model.drop_lexical_path()
        return model
    changes = options.lexical if isinstance(options.lexical, dict) else {}
    if options.lexical is not None and model.lexical is None:
        model.add_lexical_path(settings_for(tokenizer, **changes))
    elif changes:
        _change_lexical_path(model, changes, options)
    if model.lexical is not None and changes:
        _check_lexical(model.lexical.settings, tokenizer, changes)
    if model.lexical is not None and model.lexical.settings.reads_vocabulary:
        _tell_tokens(model, tokenizer)
    return model


def _check_lexical(settings: LexicalSettings, tokenizer: RLMTokenizer, changes: dict) -> None:
    """Refuses changes that would come to nothing."""
    numbers = [name for name in ("largest_numbers", "code_numbers", "name_numbers") if changes.get(name)]
    if numbers and not digit_tokens(tokenizer):
        raise TrainError(
            f"lexical's {', '.join(numbers)} need a tokenizer that reads digits one by one (data/train_tokenizer.py)."
        )
    if changes.get("structure_buckets") or changes.get("place_buckets"):
        texts, line = token_texts(tokenizer), "# language: x86asm\nadd rax, 1\n"
        if "".join(texts[i] for i in tokenizer(line, add_special_tokens=False)["input_ids"]) != line:
            raise TrainError(
                "lexical's structure_buckets and place_buckets need a tokenizer whose tokens are the text, spaces included "
                "(data/train_tokenizer.py)."
            )
    if "number_context" in changes and not settings.code_numbers + settings.name_numbers:
        raise TrainError("lexical's number_context tells places of numbers: set code_numbers or name_numbers, too.")
    if {"tree_grams", "tree_numbers"} & set(changes) and not settings.trees:
        raise TrainError("lexical's tree_grams and tree_numbers are what trees look at: set trees, too.")
    if changes.get("perceptron_count", 1) > 1 and not settings.perceptron_columns:
        raise TrainError("lexical's perceptron_count says how many perceptrons there are: set perceptron_columns, too.")
    if settings.perceptron_columns and not settings.trees:
        raise TrainError(
            "lexical's perceptrons read what trees ask for most: set trees, too, or perceptron_columns: 0."
        )


def _tell_tokens(model: RLMForConditionalGeneration, tokenizer: RLMTokenizer) -> None:
    """Tells the lexical path what every token says, so that it can read names and operators."""
    model.lexical.read_vocabulary(token_texts(tokenizer))
    model.config.lexical = model.lexical.settings.to_dict()


def _read_vocabulary(model: RLMForConditionalGeneration, options: TrainOptions, tokenizer: RLMTokenizer) -> None:
    """Gives the model magnitudes where they are asked for and it has none, and tells them what every token is."""
    if model.magnitudes is None and options.lora is not None:
        raise TrainError(
            f"magnitudes are new weights, which an adapter of {options.init} would not hold; leave them out."
        )
    if not digit_tokens(tokenizer):
        raise TrainError("magnitudes need a tokenizer that reads digits one by one (data/train_tokenizer.py).")
    if model.magnitudes is None or len(model.magnitudes.digits) < len(tokenizer):
        old = model.magnitudes
        model.add_magnitudes()
        if old is not None:
            model.magnitudes.load_state_dict(dict(old.named_parameters()), strict=False)
    model.magnitudes.read_vocabulary(token_texts(tokenizer))


def _change_lexical_path(model: RLMForConditionalGeneration, changes: dict, options: TrainOptions) -> None:
    """Gives the path other settings; what was fitted goes, unless they only make room for more, and what was trained stays."""
    old = model.lexical
    kinds = ("structure_buckets", "place_buckets")
    if not any(changes.get(name, getattr(old.settings, name)) for name in kinds):
        changes = {**changes, "structured": {}}
    settings = replace(old.settings, **changes, perceptrons=(), errors=())
    if settings == replace(old.settings, perceptrons=(), errors=()):
        return
    if options.lora is not None:
        differing = ", ".join(f"{k} {getattr(old.settings, k)}" for k in changes)
        raise TrainError(
            f"{options.init} has a lexical path of its own with {differing}, which an adapter keeps; leave these out of "
            "lexical."
        )
    beside = (
        "trees",
        "tree_grams",
        "tree_numbers",
        *kinds,
        "structured",
        "vocabulary",
        "perceptron_columns",
        "perceptron_count",
    )
    if (
        settings
        == replace(old.settings, **{name: getattr(settings, name) for name in beside}, perceptrons=(), errors=())
        and old.settings.trees <= settings.trees
        and old.settings.perceptron_columns <= settings.perceptron_columns
        and old.settings.place_buckets in (0, settings.place_buckets)
        # What is read last has room behind it.
        and (
            old.settings.structure_buckets == settings.structure_buckets
            or not (old.settings.structure_buckets or old.settings.place_buckets)
        )
    ):
        # There is room for more behind what is fitted.
        model.add_lexical_path(replace(settings, perceptrons=old.settings.perceptrons, errors=old.settings.errors))
        model.lexical.take_over(old)
        return
    model.add_lexical_path(replace(settings, scales=(), structured={}, errors=()))
    model.lexical.score_proj.load_state_dict(old.score_proj.state_dict())
    model.lexical.channel_embedding.data = old.channel_embedding.data


def check_restoring(model: RLMForConditionalGeneration, options: TrainOptions) -> None:
    """Refuses `restore_loss` for an encoder that it could not train.

    Raises:
        TrainError: A frozen encoder, or one whose token embeddings are narrower than what it gives.
    """
    if not options.restore_loss:
        return
    if model.config.freeze_encoder:
        raise TrainError("restore_loss trains the encoder, and this one is frozen; set freeze_encoder: false.")
    width, size = model.get_input_embeddings().weight.shape[1], model.config.encoder_hidden_size
    if width != size:
        raise TrainError(
            f"restore_loss tells hidden tokens by their embeddings, which are {width} wide in this encoder where its output "
            f"is {size}; leave it out."
        )


def choose_head(
    model: RLMForConditionalGeneration, options: TrainOptions, sources: Sequence[Source], held_out: Sequence[Source]
) -> None:
    """Lets the decoder answer, or a regression head: a new one, or the one of the checkpoint to go on from.

    Args:
        model: As built.
        options: Of the run.
        sources: Training rows; normalised targets are so by their mean and standard deviation.
        held_out: Validation rows.

    Raises:
        TrainError: Data or options that a regression head has no use for.
    """
    has_one = model.regression_head is not None
    if options.head == "decoder" and has_one:
        model.config.regression_head, model.regression_head = False, None
    if options.head == "decoder" or (options.head == "auto" and not has_one):
        return
    metrics = sorted({name for source in sources for name in source.metrics})
    if len(metrics) > 1:
        raise TrainError(
            f"A regression head answers one metric, and the data has {', '.join(metrics)}. Name one, or take head: decoder."
        )
    values, others = (
        np.concatenate([np.zeros(0), *(s.values[s.present] for s in part)]) for part in (sources, held_out)
    )
    if strange := int((~np.isfinite(values)).sum() + (~np.isfinite(others)).sum()):
        raise TrainError(
            f"A regression head answers with numbers alone, and {strange} of {len(values) + len(others)} rows have another "
            "outcome. Set failures: drop in the data source, or take head: decoder."
        )
    named = {
        "lora": options.lora is not None, "digit_loss": options.digit_loss, "ranking_loss": options.ranking_loss,
        "restore_loss": options.restore_loss, "lexical": model.lexical is not None,
    }  # fmt: skip
    if useless := [name for name, given in named.items() if given]:
        raise TrainError(f"{', '.join(useless)} go with the decoder alone, and a regression head leaves it out.")
    if options.head != "auto":
        normalised = options.head == "normalised_mse"
        model.add_regression_head(*((values.mean(), values.std() or 1.0) if normalised else ()))
    # What does not answer is not trained: several processes wait for the gradient of every weight.
    model.requires_grad_(False)
    model.encoder_requires_grad_(True)
    model.regression_head.requires_grad_(True)
    if model.layer_mix is not None:
        model.layer_mix.requires_grad_(True)
    model.train(model.training)  # a frozen encoder stays so


def prepare_for_training(model: RLMForConditionalGeneration, options: TrainOptions) -> nn.Module:
    """Adapted and checkpointed as the options say."""
    if options.gradient_checkpointing:
        # Renamed in the library on the way.
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
    if options.lora is not None:
        return add_lora(model, options.lora_options(), options.init)
    return model


def _tuned(options: TrainOptions, tokenizer: RLMTokenizer, metrics: list[dict]) -> RLMForConditionalGeneration:
    if options.lora is not None and is_adapter(options.init):
        raise TrainError(f"{options.init} is a LoRA adapter itself; start from the merged model, its run's final/.")
    model, own = load(options.init)
    # True only of the weights that they were fitted with. Without a step these stay, and scores of other metrics' channels, all
    # that differs, move an answer little.
    anew = {entry["name"] for entry in metrics}
    for part in ("calibration", "experts"):
        entries = getattr(model.config, part) or {}
        setattr(model.config, part, {} if options.steps else {k: v for k, v in entries.items() if k not in anew})
    if tokenizer.codec.format != own.codec.format:
        raise TrainError(f"{options.tokenizer} writes numbers in another format than {options.init}.")
    _take_new_tokens(model, own, tokenizer, options)
    if options.max_objectives > model.config.max_objectives:
        raise TrainError(
            f"max_objectives is {options.max_objectives}, but {options.init} answers at most "
            f"{model.config.max_objectives} metrics at once. Pass --max_objectives {model.config.max_objectives}."
        )
    known = {m["name"]: m for m in model.config.metrics}
    given = {m["name"]: m for m in options.metrics}
    for entry in metrics:
        # What the data suggests gives way to what the checkpoint knows, and that to what the options say.
        earlier = known.get(entry["name"], {})
        merged = {**entry, **earlier, **given.get(entry["name"], {})}
        merged["kinds"] = sorted({*earlier.get("kinds", ()), *entry["kinds"]})
        known[entry["name"]] = merged
    model.config.metrics = [Metric.from_dict(entry).to_dict() for entry in known.values()]
    model.config.default_metrics = {**model.config.default_metrics, **options.default_metrics}
    if options.freeze_encoder is not None or options.lora is not None:
        model.config.freeze_encoder = bool(options.freeze_encoder)
        model.encoder_requires_grad_(not options.freeze_encoder)
    return model


@torch.no_grad()
def _take_new_tokens(
    model: RLMForConditionalGeneration, own: RLMTokenizer, tokenizer: RLMTokenizer, options: TrainOptions
) -> None:
    """Embeds what a tokenizer has beyond the checkpoint's own; each new token starts as the mean of those that it replaces."""
    ids = range(len(own))
    if len(tokenizer) < len(own) or own.convert_ids_to_tokens(ids) != tokenizer.convert_ids_to_tokens(ids):
        raise TrainError(
            f"{options.tokenizer} is not the tokenizer of {options.init} with tokens added behind its own; leave tokenizer "
            "out, or extend that one (data/train_tokenizer.py --extend)."
        )
    if len(tokenizer) == len(own):
        return
    replaced = [own.encode(tokenizer.decode([i])) for i in range(len(own), len(tokenizer))]
    old = model.get_input_embeddings().weight
    means = torch.stack([old[tokens].mean(0) for tokens in replaced])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.get_input_embeddings().weight[len(own) :] = means
    model.config.encoder.vocab_size = len(tokenizer)


def _new(options: TrainOptions, tokenizer: RLMTokenizer, metrics: list[dict]) -> RLMForConditionalGeneration:
    fields = [k for k, kind in RLMConfig.__annotations__.items() if typing.get_origin(kind) is not typing.ClassVar]
    if unknown := sorted(set(options.model) - set(fields)):
        raise TrainError(f"model has unknown fields {unknown}. Known: {', '.join(fields)}.")
    settings = {
        "metrics": metrics,
        "default_metrics": options.default_metrics,
        "number_format": tokenizer.codec.format.to_dict(),
        "max_objectives": max(options.max_objectives, options.model.get("max_objectives", 0)),
        "freeze_encoder": bool(options.freeze_encoder),
        **{k: v for k, v in options.model.items() if k != "max_objectives"},
    }
    if options.encoder:
        return RLMForConditionalGeneration.from_encoder_pretrained(
            options.encoder, keep_decoder=options.keep_decoder, **settings
        )
    if isinstance(settings.get("encoder"), dict):
        settings["encoder"] = {
            "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None, "cls_token_id": None, "sep_token_id": None, **settings["encoder"],
        }  # fmt: skip
    return RLMForConditionalGeneration(RLMConfig(**settings))


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.parameters() if p.requires_grad)


__all__ = [
    "build_model",
    "check_restoring",
    "choose_head",
    "count_parameters",
    "load_tokenizer",
    "prepare_for_training",
]
