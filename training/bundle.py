"""The data of a run in one file: tokenised sources with the scores of the feature ensemble, and that ensemble as it was fitted.

To train on a rented GPU, which needs neither the tables nor the hours that cores spend on fitting:

    code-rlm train --config mine.yaml --data.root DATA --data.write-bundle mine.npz
    code-rlm train --config mine.yaml --data.bundle mine.npz --workers 16

A numpy archive of plain arrays, compressed with LZMA: a byte holds some four tokens of source code. Values come back with the
digits that the number format writes, scores in half precision; rows lie by language, as like texts compress better so.
"""

import hashlib
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from code_rlm.data.mixture import Source, mixture_weights
from code_rlm.ensemble_rlm import EnsembleConfig
from code_rlm.familiarity_rlm import NoveltyPool
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.options import TrainError, TrainOptions
from code_rlm.training.sources import Loaded

_VERSION = 3
# What the data of a run depends on; a run from a bundle needs the same.
_BINDING = ("data", "max_tokens", "seed", "metrics", "ensemble", "fallbacks")
_PLAIN = ("name", "metrics", "failed", "dropped", "mask_tokens", "mask_span", "swap_text", "max_tokens")
_WORDS = ("languages", "groups", "contexts")
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, NotImplementedError, zipfile.BadZipFile,
    lzma.LZMAError, zlib.error,
)  # fmt: skip
_PATH_IN_TRAINING = ("score_proj.", "score_embedding")  # of a feature ensemble; the rest is fitted


def write_bundle(
    path: str | os.PathLike,
    options: TrainOptions,
    tokenizer: RLMTokenizer,
    loaded: list[Loaded],
    metrics: list[dict[str, Any]],
    model: RLMForConditionalGeneration,
) -> Path:
    """Writes what `read_bundle` reads; whole or not at all.

    Args:
        path: The file.
        options: Of the run.
        tokenizer: That tokenised the sources.
        loaded: The sources, with ensemble scores if the model has a feature ensemble.
        metrics: The registry.
        model: Its feature ensemble is kept, fitted.
    """
    arrays: dict[str, np.ndarray] = {}
    sources = []
    for number, each in enumerate(loaded):
        parts = {}
        for part, source in (("train", each.train), ("validation", each.validation)):
            if source is not None:
                assert isinstance(source, Source)  # `check_streams` refuses a bundle of streams
                parts[part] = _put(arrays, f"{number}/{part}", source)
        sources.append({"parts": parts, "weight": each.weight, "remarks": each.remarks})
    about = {
        "version": _VERSION,
        "options": _binding(options),
        "tokenizer": _fingerprint(tokenizer),
        "sources": sources,
        "metrics": metrics,
        "ensemble": None,
    }
    if model.ensemble is not None:
        about["ensemble"] = model.ensemble.settings.to_dict()
        pools = model.config.fitted.familiarity.pools
        about["pools"] = {name: pools[name].to_dict() for name in model.ensemble.settings.fallbacks}
        for name, tensor in model.ensemble.state_dict().items():
            if not name.startswith(_PATH_IN_TRAINING):
                arrays[f"ensemble/{name}"] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_LZMA) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
                    np.lib.format.write_array(handle, np.asarray(array), allow_pickle=False)
        with open(partial, "rb") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        raise TrainError(f"{path} cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def check_target(path: str | os.PathLike) -> None:
    """Makes sure, before hours of work, that a bundle can be written.

    Raises:
        TrainError: It cannot.
    """
    path = Path(path)
    if path.is_dir():
        raise TrainError(
            f"data.write_bundle: {path} is a folder; give the name of a file, such as {path / 'data.npz'}."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.touch()
        partial.unlink(missing_ok=True)  # another process of the run looks, too
    except OSError as error:
        raise TrainError(f"data.write_bundle: {path} cannot be written: {error}") from None


def read_bundle(
    path: str | os.PathLike, options: TrainOptions, tokenizer: RLMTokenizer
) -> tuple[list[Loaded], list[float], list[dict[str, Any]], "FittedEnsemble | None"]:
    """Sources, their shares of the examples, the registry and the fitted feature ensemble of a bundle.

    Shares are this run's: an entry's `weight` may be another than when it was written.

    Raises:
        TrainError: No bundle, one of another version, or of other data options or another tokenizer than this run's.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(arrays["about"].tobytes())
    except _UNREADABLE as error:
        raise TrainError(
            f"{path} is no bundle of training data ({error}); make one with --data.write-bundle."
        ) from None
    if about["version"] != _VERSION:
        raise TrainError(
            f"{path} was written by another version of this program; write it again with --data.write-bundle."
        )
    own = _binding(options)
    given = [entry.get("weight") for entry in options.data.sources if not entry.get("fallback_only")]
    if differing := sorted(name for name in _BINDING if own[name] != about["options"][name]):
        raise TrainError(
            f"{path} was written with other options ({', '.join(differing)}); give the same, or write it again."
        )
    if about["tokenizer"] != _fingerprint(tokenizer):
        raise TrainError(
            f"{path} was tokenised by another tokenizer than {options.model.tokenizer or options.model.init}."
        )
    loaded = []
    for number, (entry, weight) in enumerate(zip(about["sources"], given, strict=True)):
        parts = {}
        for part, described in entry["parts"].items():
            parts[part] = _take(arrays, f"{number}/{part}", described, tokenizer)
        loaded.append(Loaded(parts["train"], parts.get("validation"), None, weight, entry["remarks"]))
    weights = mixture_weights([len(each.train) for each in loaded], given, options.data.temperature)
    fitted = None
    if about["ensemble"] is not None:
        state = {
            name.removeprefix("ensemble/"): torch.from_numpy(array)
            for name, array in arrays.items()
            if name.startswith("ensemble/")
        }
        pools = {name: NoveltyPool.from_dict(entry) for name, entry in about["pools"].items()}
        fitted = FittedEnsemble(EnsembleConfig.from_dict(about["ensemble"]), state, pools)
    return loaded, weights, about["metrics"], fitted


class FittedEnsemble:
    """A feature ensemble as it was fitted, without what training teaches the decoder of it.

    Args:
        settings: With its metrics.
        state: Its tensors by name.
        pools: Novelty pools of its fallback regressors by metric.
    """

    def __init__(
        self, settings: EnsembleConfig, state: dict[str, torch.Tensor], pools: Mapping[str, NoveltyPool] | None = None
    ):
        self.settings, self.state, self.pools = settings, state, pools or {}

    def give(self, model: RLMForConditionalGeneration) -> None:
        """Puts the ensemble in the place of a model's own; what that has learned of its metrics stays.

        Raises:
            TrainError: The model has a metric that the bundle lacks, or the bundle is of another version.
        """
        assert model.ensemble is not None  # `train` refuses a bundle whose ensemble the model lacks
        old = model.ensemble
        if lacking := sorted(set(old.settings.metrics) - set(self.settings.metrics)):
            raise TrainError(
                f"The checkpoint to start from has a feature ensemble for {', '.join(lacking)}, which the bundle lacks; "
                "write it with the same init."
            )
        model.add_ensemble(self.settings)
        try:
            found = model.ensemble.load_state_dict(self.state, strict=False)
            strange = found.unexpected_keys + [k for k in found.missing_keys if not k.startswith(_PATH_IN_TRAINING)]
        except RuntimeError as error:  # torch raises it for tensors of another shape
            strange = [str(error)]
        if strange:
            raise TrainError(
                f"The bundle's feature ensemble is of another version ({strange[0]}); write it again with --data.write-bundle."
            )
        model.config.fitted.familiarity.pools.update(self.pools)
        model.ensemble.score_proj.load_state_dict(old.score_proj.state_dict())
        for number, metric in enumerate(old.settings.metrics):
            row = self.settings.metrics.index(metric)
            model.ensemble.score_embedding.data[row] = old.score_embedding.data[number]


def _binding(options: TrainOptions) -> dict[str, Any]:
    """What the data depends on, as JSON gives it back; files by their names, as the bundle may go anywhere."""
    sources = [
        {k: Path(v).name if k == "file" else v for k, v in entry.items() if k != "weight"}
        for entry in options.data.sources
    ]
    known = {
        "data": sources,
        "max_tokens": options.data.max_tokens,
        "seed": options.seed,
        "metrics": options.model.metrics,
        "ensemble": options.ensemble.changes() or options.ensemble.use,
        "fallbacks": options.ensemble.fallbacks,
    }
    return json.loads(json.dumps(known))


def _fingerprint(tokenizer: RLMTokenizer) -> str:
    """Of what texts and numbers become."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    for changing in ("version", "truncation", "padding"):  # use changes the latter two
        described.pop(changing, None)
    described["number_format"] = tokenizer.codec.format.to_dict()
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _put(arrays: dict[str, np.ndarray], prefix: str, source: Source) -> dict[str, Any]:
    """A source's arrays under a prefix; returns what is left of it, for JSON."""
    order = np.argsort(np.array(source.languages), kind="stable")
    bodies = [source.bodies[i] for i in order]
    largest = max((int(body.max()) for body in bodies if len(body)), default=0)
    flat = np.concatenate(bodies) if bodies else np.zeros(0)
    arrays[f"{prefix}/tokens"] = flat.astype(np.uint16 if largest < 2**16 else np.uint32)
    arrays[f"{prefix}/lengths"] = np.array([len(body) for body in bodies], dtype=np.uint32)
    for name in ("codes", "present", "truncated"):
        arrays[f"{prefix}/{name}"] = getattr(source, name)[order]
    if source.ensemble_scores is not None:
        arrays[f"{prefix}/scores"] = source.ensemble_scores[order].astype(np.float16)
    described = {name: getattr(source, name) for name in _PLAIN}
    for name in _WORDS:
        column = getattr(source, name)
        if not column:
            described[name] = []
            continue
        words = {word: number for number, word in enumerate(dict.fromkeys(column[i] for i in order))}
        described[name] = list(words)
        arrays[f"{prefix}/{name}"] = np.array([words[column[i]] for i in order], dtype=np.uint32)
    return described


def _take(arrays: dict[str, np.ndarray], prefix: str, described: dict[str, Any], tokenizer: RLMTokenizer) -> Source:
    """The source that `_put` put away."""
    read = {name.removeprefix(f"{prefix}/"): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}
    bodies = np.split(read["tokens"].astype(np.int32), np.cumsum(read["lengths"], dtype=np.int64)[:-1])
    values = np.full(read["present"].shape, np.nan)
    values[read["present"]] = tokenizer.codec.decode(read["codes"][read["present"]])
    words = {name: [described[name][i] for i in read[name]] if described[name] else [] for name in _WORDS}
    scores = read.get("scores")
    return Source(
        bodies=bodies,
        values=values,
        codes=read["codes"],
        present=read["present"],
        truncated=read["truncated"],
        ensemble_scores=None if scores is None else scores.astype(np.float32),
        languages=words["languages"],
        groups=words["groups"],
        contexts=[tuple(lines) for lines in words["contexts"]],
        **{name: described[name] for name in _PLAIN},
    )


# A field of a source that would be lost on the way is a mistake in this file.
assert {f.name for f in fields(Source)} == {
    *_PLAIN, *_WORDS, "bodies", "values", "codes", "present", "truncated", "ensemble_scores",
}  # fmt: skip

__all__ = ["FittedEnsemble", "check_target", "read_bundle", "write_bundle"]
