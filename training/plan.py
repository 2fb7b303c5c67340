"""What a run would do: rows, tokens, epochs, padding, memory."""

from collections.abc import Sequence

import numpy as np
import torch

from code_rlm.data.mixture import Item, Mixture
from code_rlm.data.streamed import StreamSource
from code_rlm.training.adapters import base_of
from code_rlm.training.encoder_cache import FeatureCache, possible_inputs
from code_rlm.training.models import count_parameters
from code_rlm.training.options import TrainOptions
from code_rlm.training.sources import Loaded

# Bytes an optimiser keeps for each trained parameter: two moments, one, or (Adafactor) rows and columns alone.
_STATE_BYTES = {"adamw": 8, "muon": 4, "adafactor": 0}

MANY_TRUNCATED = 0.05  # share of the inputs from which on a dry run advises


def describe(options: TrainOptions, loaded: Sequence[Loaded], mixture: Mixture, model: torch.nn.Module) -> list[str]:
    """Returns lines for people on what a run with these options would do.

    Batches are counted over one pool of the mixture, drawn as training draws it. Activations are measured: what one forward
    pass over the longest rows keeps for the backward pass, taken times the rows of the largest batch.
    """
    items, groups = mixture.pool_of(0)
    lengths = np.array([len(item.input_ids) for item in items])
    padded = sum(int(lengths[group].max()) * len(group) for group in groups)
    per_batch = len(items) / len(groups)
    examples = options.schedule.steps * options.schedule.accumulate * per_batch
    lines = []
    mixed = [each for each in loaded if not each.fallback_only]
    lines += [str(each) for each in loaded if each.fallback_only]
    for each, weight in zip(mixed, np.array(mixture.weights) / sum(mixture.weights), strict=True):
        lines.append(f"{each}; {weight:.0%} of the examples, {weight * examples / len(each.train):.2g} epochs")
        if isinstance(each.train, StreamSource):
            lines.append(f"  {', '.join(each.train.metrics)}")
            continue
        asked = each.train.present.sum(0)
        lines += [f"  {name}: {count} values" for name, count in zip(each.train.metrics, asked.tolist(), strict=True)]
    every, trained = count_parameters(model)
    lines += [
        f"input: {np.median(lengths):.0f} tokens in the median, {np.quantile(lengths, 0.95):.0f} at 95%, "
        f"{lengths.max()} at most of {options.data.max_tokens}; {mixture.truncated / mixture.drawn:.1%} truncated",
        f"batches: {per_batch:.1f} examples, {lengths.sum() / len(groups):.0f} tokens, "
        f"{1 - lengths.sum() / padded:.1%} padding",
        f"run: {options.schedule.steps} steps of {options.schedule.accumulate} batches, {examples:.0f} examples, "
        f"{examples * lengths.mean() / 1e6:.1f}M tokens",
        f"model: {every / 1e6:.2f}M parameters, {trained / 1e6:.2f}M trained by {options.optimizer.name}",
    ]
    share = mixture.truncated / mixture.drawn
    if share > MANY_TRUNCATED:
        limit = base_of(model).config.max_input_tokens
        lines.append(
            f"advice: {share:.0%} of the inputs lose their middle; "
            + (
                f"raise data.max_tokens (the model reads {limit} tokens), or pass the part of the code that matters"
                if options.data.max_tokens < limit
                else f"pass the part of the code that matters: the model reads no more than {limit} tokens"
            )
        )
    if options.runtime.feature_cache:
        inputs = possible_inputs(mixture)
        cache = FeatureCache(options.runtime.feature_cache, base_of(model))
        cache.refresh()
        lacking = cache.missing(inputs)
        lines.append(
            f"features: {len({cache.key(ids) for ids in inputs})} inputs, {len(lacking)} to compute, "
            f"{cache.bytes_of(lacking) / 1e6:.0f} MB to write"
        )
    largest = max(groups, key=lambda group: len(group) * int(lengths[group].max()))
    state = _STATE_BYTES[options.optimizer.name] + 4 + 4 * bool(options.optimizer.ema)
    fixed = 4 * every + state * trained
    activations = _activation_bytes(model, mixture, [items[i] for i in largest], options)
    lines.append(
        f"memory: about {(fixed + activations) / 1e6:.0f} MB: weights, gradients and optimiser {fixed / 1e6:.0f} MB, "
        f"activations {activations / 1e6:.0f} MB on one process"
    )
    return lines


def _activation_bytes(model: torch.nn.Module, mixture: Mixture, items: list[Item], options: TrainOptions) -> float:
    """Returns the bytes that a forward pass over a batch keeps, scaled up from its two longest rows."""
    few = sorted(items, key=lambda item: len(item.input_ids))[-2:]
    batch = mixture.collate(few)
    batch.pop("first_metric")
    ensemble = base_of(model).ensemble
    if ensemble is not None and "ensemble_scores" not in batch:  # not fitted yet
        batch["ensemble_scores"] = torch.zeros(len(few), len(ensemble.settings.metrics))
    if options.runtime.feature_cache:
        with torch.no_grad():
            states = base_of(model).encode_layers(batch.pop("input_ids"), batch["attention_mask"])
        batch["encoder_states"] = states.to(torch.bfloat16)
    held = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    half = torch.autocast("cpu", torch.bfloat16, enabled=options.runtime.mixed_precision == "bf16")
    with half, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(**batch)  # held to the end, so that no storage is given away and noted twice
        del output
    return sum(kept.values()) * len(items) / len(few)


__all__ = ["describe"]
