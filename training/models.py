"""The model of a run: a new one, or a checkpoint with its registry widened."""

import typing
from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from code_rlm.configuration_rlm import Metric, RLMConfig
from code_rlm.data.mixture import Source
from code_rlm.data.streamed import StreamSource
from code_rlm.ensemble_rlm import EnsembleConfig
from code_rlm.errors_rlm import RLMError
from code_rlm.features_rlm import FeatureLayout, digit_tokens, token_texts
from code_rlm.language_model_rlm import LanguageModelConfig
from code_rlm.loading import is_adapter, load, resolve
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import NumberFormat
from code_rlm.processing_rlm import InputLayout
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.adapters import add_lora
from code_rlm.training.ensemble import settings_for
from code_rlm.training.options import TrainError, TrainOptions


def load_tokenizer(options: TrainOptions) -> RLMTokenizer:
    """The tokenizer of the options, or that of the checkpoint to start from, with the number format of the options.

    Raises:
        TrainError: There is none, or a number format that cannot be, or that is not the checkpoint's.
    """
    tokenizer = _text_tokenizer(options)
    if tokenizer.pad_token is None:  # of language models that never pad; what is padded is masked
        tokenizer.pad_token = tokenizer.eos_token
    if options.model.number_format is None:
        return tokenizer
    if options.model.init:
        raise TrainError("number_format is that of a new model; a checkpoint (init) keeps its own.")
    try:
        tokenizer.init_kwargs["number_format"] = NumberFormat(**options.model.number_format).to_dict()
    except (TypeError, RLMError) as error:
        raise TrainError(f"number_format: {error}") from None
    return tokenizer


def _text_tokenizer(options: TrainOptions) -> RLMTokenizer:
    where = options.model.tokenizer or options.model.init
    if not where:
        raise TrainError("A new model needs `tokenizer:`, a folder or hub id (see data/train_tokenizer.py).")
    if where == options.model.init:
        where = resolve(where)
        if not Path(where).is_dir():
            return load(where)[1].tokenizer  # of the Hub; or an error says what is wrong with the name
    try:
        return RLMTokenizer.from_pretrained(where)
    except (OSError, ValueError) as error:  # the library says ValueError of a folder that is not there
        raise TrainError(f"No tokenizer could be loaded from {where}: {str(error).splitlines()[0]}") from error


def build_model(
    options: TrainOptions, tokenizer: RLMTokenizer, metrics: list[dict], refitted: Collection[str] | None = None
) -> RLMForConditionalGeneration:
    """The model to train: new, or the checkpoint to go on from with its registry widened.

    Args:
        options: Of the run.
        tokenizer: Of the run.
        metrics: Entries of the registry.
        refitted: Metrics whose regressors are fitted again where no step is trained; by default those of the registry.

    Raises:
        TrainError: Options that do not fit the checkpoint.
    """
    if options.model.init:
        names = {entry["name"] for entry in metrics} if refitted is None else set(refitted)
        model = _tuned(options, tokenizer, metrics, names)
    else:
        model = _new(options, tokenizer, metrics)
    if options.model.number_embeddings or model.number_embeddings is not None:
        _read_vocabulary(model, options, tokenizer)
    if options.ensemble.use is False and options.ensemble.fallbacks:
        raise TrainError(
            "ensemble.fallbacks are regressors of the feature ensemble, and ensemble is false; leave one out."
        )
    if options.ensemble.use is False:
        if options.lora.enabled and model.ensemble is not None:
            raise TrainError(f"An adapter keeps the feature ensemble of {options.model.init}; leave out ensemble.")
        model.drop_ensemble()
        return model
    changes = options.ensemble.changes()
    if "language_model" in changes:
        named = changes["language_model"]
        changes["language_model"] = None if named == "none" else LanguageModelConfig.resolve(named)
    if options.ensemble.wanted and model.ensemble is None:
        model.add_ensemble(settings_for(tokenizer, **changes))
    elif changes:
        _change_ensemble(model, changes, options)
    if model.ensemble is not None and changes:
        _check_ensemble(model.ensemble.settings, tokenizer, changes)
    return model


def _check_ensemble(settings: EnsembleConfig, tokenizer: RLMTokenizer, changes: dict) -> None:
    """Refuses changes that would come to nothing."""
    numbers = [name for name in ("largest_numbers", "code_numbers", "name_numbers") if changes.get(name)]
    if numbers and not digit_tokens(tokenizer):
        raise TrainError(
            f"ensemble's {', '.join(numbers)} need a tokenizer that reads digits one by one (data/train_tokenizer.py)."
        )
    from_text = [name for name in ("structure_buckets", "position_buckets", "cost_features") if changes.get(name)]
    if from_text:
        texts, line = token_texts(tokenizer), "# language: x86asm\nadd rax, 1\n"
        if "".join(texts[i] for i in tokenizer(line, add_special_tokens=False)["input_ids"]) != line:
            raise TrainError(
                f"ensemble's {', '.join(from_text)} need a tokenizer whose tokens are the text, spaces included "
                "(data/train_tokenizer.py)."
            )
    if settings.features.language_model is not None and InputLayout.of(tokenizer, 64).keep_head:
        raise TrainError(
            "ensemble's language_model reads the code apart from its header, and this tokenizer joins both."
        )
    if "number_context" in changes and not settings.features.code_numbers + settings.features.name_numbers:
        raise TrainError("ensemble's number_context is for the code's numbers: set code_numbers or name_numbers, too.")
    if {"tree_grams", "tree_numbers"} & set(changes) and not settings.trees:
        raise TrainError("ensemble's tree_grams and tree_numbers are what trees split by: set trees, too.")
    if changes.get("mlp_count", 1) > 1 and not settings.mlp_features:
        raise TrainError("ensemble's mlp_count is the number of MLPs: set mlp_features, too.")
    if settings.mlp_features and not settings.trees:
        raise TrainError(
            "ensemble's MLPs read the features that trees split by most: set trees, too, or mlp_features: 0."
        )


def _read_vocabulary(model: RLMForConditionalGeneration, options: TrainOptions, tokenizer: RLMTokenizer) -> None:
    """Adds number embeddings where they are asked for and missing, and reads the vocabulary into them."""
    if model.number_embeddings is None and options.lora.enabled:
        raise TrainError(
            f"number_embeddings are new weights, which an adapter of {options.model.init} would not hold; leave them out."
        )
    if not digit_tokens(tokenizer):
        raise TrainError("number_embeddings need a tokenizer that reads digits one by one (data/train_tokenizer.py).")
    old = model.number_embeddings
    if old is None or len(old.digits) < len(tokenizer):
        model.add_number_embeddings()
    embeddings = model.number_embeddings
    assert embeddings is not None
    if old is not None and embeddings is not old:
        embeddings.load_state_dict(dict(old.named_parameters()), strict=False)
    embeddings.read_vocabulary(token_texts(tokenizer))


def _change_ensemble(model: RLMForConditionalGeneration, changes: dict, options: TrainOptions) -> None:
    """Gives the ensemble other settings.

    What was fitted is discarded, unless the settings only make room for more; what was trained stays.
    """
    assert model.ensemble is not None  # `build_model` has added one where there was none
    old = model.ensemble
    settings = old.settings.changed(mlps=(), residual_scales=(), domains={}, **changes)
    if settings.features.reads_structure:
        settings = replace(settings, domains=old.settings.domains, residual_scales=())
    unfitted = replace(old.settings, mlps=(), residual_scales=())
    if settings == unfitted:
        return
    if options.lora.enabled:
        known = {**old.settings.features.to_dict(), **old.settings.to_dict()}
        differing = ", ".join(f"{name} {known.get(name)}" for name in changes)
        raise TrainError(
            f"{options.model.init} has a feature ensemble of its own with {differing}, which an adapter keeps; leave these out "
            "of ensemble."
        )
    if _only_makes_room(old.settings, settings):
        model.add_ensemble(replace(settings, mlps=old.settings.mlps, residual_scales=old.settings.residual_scales))
        model.ensemble.take_over(old)
        return
    model.add_ensemble(replace(settings, scales=(), domains={}, residual_scales=()))
    model.ensemble.score_proj.load_state_dict(old.score_proj.state_dict())
    model.ensemble.score_embedding.data = old.score_embedding.data


def _only_makes_room(old: EnsembleConfig, new: EnsembleConfig) -> bool:
    """Whether what was fitted with the old settings is valid with the new ones: all that is new stands behind it."""
    behind = ("structure_buckets", "position_buckets", "cost_features", "language_model")
    others = {each.name: getattr(new.features, each.name) for each in fields(FeatureLayout) if each.name not in behind}
    if replace(old.features, **others) != old.features:
        return False
    if old.trees > new.trees or old.mlp_features > new.mlp_features:
        return False
    before, after = old.features, new.features
    if before.language_model not in (None, after.language_model):
        return False
    if after.cost_features[: len(before.cost_features)] != before.cost_features:
        return False
    # What was there stands where it stood. Hashed parts keep their size, and costs may have grown where nothing is behind them.
    filled = [name for name, size in before.parts.items() if size]
    same_start = all(before.first(name) == after.first(name) for name in filled)
    return same_start and all(before.parts[name] == after.parts[name] for name in filled if name != "costs")


def check_masked_tokens(model: RLMForConditionalGeneration, options: TrainOptions) -> None:
    """Refuses `masked_token_loss` for an encoder that it could not train.

    Raises:
        TrainError: A frozen encoder, or one whose token embeddings are narrower than what it gives.
    """
    if not options.losses.masked_tokens:
        return
    if model.config.freeze_encoder:
        raise TrainError("masked_token_loss trains the encoder, and this one is frozen; set freeze_encoder: false.")
    width, size = model.get_input_embeddings().get_parameter("weight").shape[1], model.config.encoder_hidden_size
    if width != size:
        raise TrainError(
            f"masked_token_loss predicts hidden tokens from their embeddings, which are {width} wide in this encoder where "
            f"its output is {size}; leave it out."
        )


def check_streams(
    model: RLMForConditionalGeneration, options: TrainOptions, sources: Sequence[Source | StreamSource]
) -> None:
    """Refuses what reads all rows of a source before the first step, where a source is a stream.

    Raises:
        TrainError: A feature ensemble, cached encoder outputs, a bundle or a regression head.
    """
    if not (streamed := [source.name for source in sources if isinstance(source, StreamSource)]):
        return
    reading_all = {
        "a feature ensemble (ensemble)": model.ensemble is not None,
        "feature_cache": options.runtime.feature_cache,
        "write_bundle": options.data.write_bundle,
        "a regression head (head)": model.regression_head is not None or options.model.head not in ("auto", "decoder"),
    }
    if refused := [name for name, given in reading_all.items() if given]:
        raise TrainError(f"{', '.join(refused)} reads all rows beforehand, and {', '.join(streamed)} is streamed.")


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
    if options.model.head == "decoder" and has_one:
        model.config.regression_head, model.regression_head = False, None
    if options.model.head == "decoder" or (options.model.head == "auto" and not has_one):
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
        "lora": options.lora.enabled, "digit_loss": options.losses.digits, "ranking_loss": options.losses.ranking,
        "z_loss": options.losses.z, "masked_token_loss": options.losses.masked_tokens, "ensemble": model.ensemble is not None,
    }  # fmt: skip
    if useless := [name for name, given in named.items() if given]:
        raise TrainError(f"{', '.join(useless)} go with the decoder alone, and a regression head leaves it out.")
    if options.model.head != "auto":
        normalised = options.model.head == "normalised_mse"
        model.add_regression_head(*((values.mean(), values.std() or 1.0) if normalised else ()))
    # What does not answer is not trained: several processes wait for the gradient of every weight.
    model.requires_grad_(False)
    model.encoder_requires_grad_(True)
    for part in (model.regression_head, model.layer_mix):
        if part is not None:
            part.requires_grad_(True)
    model.train(model.training)  # a frozen encoder stays so


def prepare_for_training(model: RLMForConditionalGeneration, options: TrainOptions) -> nn.Module:
    """Adapted and checkpointed as the options say."""
    if options.runtime.gradient_checkpointing:
        # Renamed in the library on the way.
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
    if options.lora.enabled:
        assert options.model.init is not None  # the options refuse adapters without a checkpoint
        return add_lora(model, options.lora, options.model.init)
    return model


def _tuned(
    options: TrainOptions, tokenizer: RLMTokenizer, metrics: list[dict], refitted: set[str]
) -> RLMForConditionalGeneration:
    if options.lora.enabled and is_adapter(options.model.init):
        raise TrainError(
            f"{options.model.init} is a LoRA adapter itself; start from the merged model, its run's final/."
        )
    model, processor = load(options.model.init)
    own = processor.tokenizer
    # True only of the weights that they were fitted with. Without a step these stay, and scores of other metrics' metrics, all
    # that differs, move an answer little.
    fitted = model.config.fitted
    stale = {*fitted.pooling, *fitted.calibration} if options.schedule.steps else refitted
    model.config.set_fitted(fitted.without(stale))
    if tokenizer.codec.format != own.codec.format:
        raise TrainError(f"{options.model.tokenizer} writes numbers in another format than {options.model.init}.")
    _take_new_tokens(model, own, tokenizer, options)
    if options.data.max_objectives > model.config.max_objectives:
        raise TrainError(
            f"max_objectives is {options.data.max_objectives}, but {options.model.init} answers at most "
            f"{model.config.max_objectives} metrics at once. Pass --max_objectives {model.config.max_objectives}."
        )
    known = {m["name"]: m for m in model.config.metrics}
    registered = set(known)
    given = {m["name"]: m for m in options.model.metrics}
    for entry in metrics:
        # What the data suggests gives way to what the checkpoint knows, and that to what the options say.
        earlier = known.get(entry["name"], {})
        merged = {**entry, **earlier, **given.get(entry["name"], {})}
        merged["languages"] = sorted({*earlier.get("languages", ()), *entry["languages"]})
        known[entry["name"]] = merged
    model.config.metrics = [Metric.from_dict(entry).to_dict() for entry in known.values()]
    # Where a run brings a new metric, its own metrics are what is answered for the languages of that metric.
    fresh = {language for entry in metrics if entry["name"] not in registered for language in entry["languages"]}
    learned = {
        language: [entry["name"] for entry in metrics if language in entry["languages"]][: model.config.max_objectives]
        for language in sorted(fresh)
    }
    model.config.default_metrics = {**model.config.default_metrics, **learned, **options.model.default_metrics}
    if options.model.freeze_encoder is not None or options.lora.enabled:
        model.config.freeze_encoder = bool(options.model.freeze_encoder)
        model.encoder_requires_grad_(not options.model.freeze_encoder)
    return model


@torch.no_grad()
def _take_new_tokens(
    model: RLMForConditionalGeneration, own: RLMTokenizer, tokenizer: RLMTokenizer, options: TrainOptions
) -> None:
    """Embeds what a tokenizer has beyond the checkpoint's own; each new token starts as the mean of those that it replaces."""
    ids = list(range(len(own)))
    if len(tokenizer) < len(own) or own.convert_ids_to_tokens(ids) != tokenizer.convert_ids_to_tokens(ids):
        raise TrainError(
            f"{options.model.tokenizer} is not the tokenizer of {options.model.init} with tokens added behind its own; leave "
            "tokenizer out, or extend that one (data/train_tokenizer.py --extend)."
        )
    if len(tokenizer) == len(own):
        return
    replaced = [own.encode(tokenizer.decode([i])) for i in range(len(own), len(tokenizer))]
    old = model.get_input_embeddings().get_parameter("weight")
    means = torch.stack([old[tokens].mean(0) for tokens in replaced])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.get_input_embeddings().get_parameter("weight")[len(own) :] = means
    model.config.encoder.vocab_size = len(tokenizer)


def _new(options: TrainOptions, tokenizer: RLMTokenizer, metrics: list[dict]) -> RLMForConditionalGeneration:
    known = [k for k, kind in RLMConfig.__annotations__.items() if typing.get_origin(kind) is not typing.ClassVar]
    if unknown := sorted(set(options.model.config) - set(known)):
        raise TrainError(f"model has unknown fields {unknown}. Known: {', '.join(known)}.")
    settings = {
        "metrics": metrics,
        "default_metrics": options.model.default_metrics,
        "number_format": tokenizer.codec.format.to_dict(),
        "max_objectives": max(options.data.max_objectives, options.model.config.get("max_objectives", 0)),
        "freeze_encoder": bool(options.model.freeze_encoder),
        **{k: v for k, v in options.model.config.items() if k != "max_objectives"},
    }
    if options.model.pretrained_encoder:
        return RLMForConditionalGeneration.from_encoder_pretrained(
            options.model.pretrained_encoder, keep_decoder=options.model.keep_decoder, **settings
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
    "check_masked_tokens",
    "check_streams",
    "choose_head",
    "count_parameters",
    "load_tokenizer",
    "prepare_for_training",
]
