"""The data of a run in one file: tokenised sources with the scores of the lexical path, and that path as it was fitted.

To train on a rented GPU, which needs neither the tables nor the hours that cores spend on fitting:

    code-rlm train --config mine.yaml --data_root DATA --pack mine.npz
    code-rlm train --config mine.yaml --packed mine.npz --workers 16

A numpy archive of plain arrays, compressed with LZMA: a byte holds some four tokens of source code. Values come back with the
digits that the number format writes, scores in half precision; rows lie by language, as like texts compress better so.
"""

import hashlib
import json
import lzma
import os
import zipfile
import zlib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from code_rlm.data.mixture import Source, mixture_weights
from code_rlm.lexical_rlm import LexicalSettings
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.options import TrainError, TrainOptions
from code_rlm.training.sources import Loaded

_VERSION = 1
# What the data of a run depends on; a run from a pack has to have been told the same.
_BINDING = ("data", "max_tokens", "seed", "metrics", "lexical")
_PLAIN = ("name", "metrics", "failed", "dropped", "mask_tokens", "mask_span", "swap_text")
_WORDS = ("languages", "groups", "contexts")
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, NotImplementedError, zipfile.BadZipFile,
    lzma.LZMAError, zlib.error,
)  # fmt: skip
_PATH_IN_TRAINING = ("score_proj.", "channel_embedding")  # of a lexical path; the rest is fitted


def write_pack(
    path: str | os.PathLike,
    options: TrainOptions,
    tokenizer: RLMTokenizer,
    loaded: list[Loaded],
    metrics: list[dict[str, Any]],
    model: RLMForConditionalGeneration,
) -> Path:
    """Writes what `read_pack` reads; whole or not at all.

    Args:
        path: The file.
        options: Of the run.
        tokenizer: That tokenised the sources.
        loaded: The sources, with lexical scores if the model has a lexical path.
        metrics: The registry.
        model: Its lexical path is kept, fitted.
    """
    arrays: dict[str, np.ndarray] = {}
    sources = []
    for number, each in enumerate(loaded):
        parts = {}
        for part, source in (("train", each.train), ("validation", each.validation)):
            if source is not None:
                parts[part] = _put(arrays, f"{number}/{part}", source)
        sources.append({"parts": parts, "weight": each.weight, "remarks": each.remarks})
    about = {
        "version": _VERSION,
        "options": _binding(options),
        "tokenizer": _fingerprint(tokenizer),
        "sources": sources,
        "metrics": metrics,
        "lexical": None,
    }
    if model.lexical is not None:
        about["lexical"] = model.lexical.settings.to_dict()
        for name, tensor in model.lexical.state_dict().items():
            if not name.startswith(_PATH_IN_TRAINING):
                arrays[f"lexical/{name}"] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
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
    """Makes sure, before hours of work, that a pack can be written.

    Raises:
        TrainError: It cannot.
    """
    path = Path(path)
    if path.is_dir():
        raise TrainError(f"pack: {path} is a folder; give the name of a file, such as {path / 'data.npz'}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.touch()
        partial.unlink(missing_ok=True)  # another process of the run looks, too
    except OSError as error:
        raise TrainError(f"pack: {path} cannot be written: {error}") from None


def read_pack(
    path: str | os.PathLike, options: TrainOptions, tokenizer: RLMTokenizer
) -> tuple[list[Loaded], list[float], list[dict[str, Any]], "FittedPath | None"]:
    """Sources, their shares of the examples, the registry and the fitted lexical path of a pack.

    Shares are this run's: an entry's `weight` may be another than when it was packed.

    Raises:
        TrainError: No pack, one of another version, or of other data options or another tokenizer than this run's.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(arrays["about"].tobytes())
    except _UNREADABLE as error:
        raise TrainError(f"{path} is no pack of training data ({error}); make one with --pack.") from None
    if about["version"] != _VERSION:
        raise TrainError(f"{path} was packed by another version of this program; make it anew with --pack.")
    own = _binding(options)
    given = [entry.get("weight") for entry in options.data]
    if differing := sorted(name for name in _BINDING if own[name] != about["options"][name]):
        raise TrainError(
            f"{path} was packed with other options ({', '.join(differing)}); give the same, or make it anew."
        )
    if about["tokenizer"] != _fingerprint(tokenizer):
        raise TrainError(f"{path} was tokenised by another tokenizer than {options.tokenizer or options.init}.")
    loaded = []
    for number, (entry, weight) in enumerate(zip(about["sources"], given, strict=True)):
        train, validation = (
            _take(arrays, f"{number}/{part}", entry["parts"][part], tokenizer) if part in entry["parts"] else None
            for part in ("train", "validation")
        )
        loaded.append(Loaded(train, validation, None, weight, entry["remarks"]))
    weights = mixture_weights([len(each.train) for each in loaded], given, options.temperature)
    fitted = None
    if about["lexical"] is not None:
        state = {
            name.removeprefix("lexical/"): torch.from_numpy(array)
            for name, array in arrays.items()
            if name.startswith("lexical/")
        }
        fitted = FittedPath(LexicalSettings.from_dict(about["lexical"]), state)
    return loaded, weights, about["metrics"], fitted


class FittedPath:
    """A lexical path as it was fitted, without what training teaches the decoder of it.

    Args:
        settings: With its channels.
        state: Its tensors by name.
    """

    def __init__(self, settings: LexicalSettings, state: dict[str, torch.Tensor]):
        self.settings, self.state = settings, state

    def give(self, model: RLMForConditionalGeneration) -> None:
        """Puts the path in the place of a model's own; what that has learned of its channels stays.

        Raises:
            TrainError: The model has a channel that the pack lacks, or the pack is of another version.
        """
        old = model.lexical
        if lacking := sorted(set(old.settings.channels) - set(self.settings.channels)):
            raise TrainError(
                f"The checkpoint to start from has a lexical path for {', '.join(lacking)}, which the pack lacks; make the "
                "pack with the same init."
            )
        model.add_lexical_path(self.settings)
        try:
            found = model.lexical.load_state_dict(self.state, strict=False)
            strange = found.unexpected_keys + [k for k in found.missing_keys if not k.startswith(_PATH_IN_TRAINING)]
        except RuntimeError as error:  # torch says so of tensors of another shape
            strange = [str(error)]
        if strange:
            raise TrainError(
                f"The pack's lexical path is not one of this version ({strange[0]}); make it anew with --pack."
            )
        model.lexical.score_proj.load_state_dict(old.score_proj.state_dict())
        for number, metric in enumerate(old.settings.channels):
            row = self.settings.channels.index(metric)
            model.lexical.channel_embedding.data[row] = old.channel_embedding.data[number]


def _binding(options: TrainOptions) -> dict[str, Any]:
    """What the data depends on, as JSON gives it back; files by their names, as the pack may go anywhere."""
    told = {name: asdict(options)[name] for name in _BINDING}
    told["data"] = [
        {k: Path(v).name if k == "file" else v for k, v in entry.items() if k != "weight"} for entry in told["data"]
    ]
    return json.loads(json.dumps(told))


def _fingerprint(tokenizer: RLMTokenizer) -> str:
    """Of what texts and numbers become."""
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    for changing in ("version", "truncation", "padding"):  # use changes the latter two
        told.pop(changing, None)
    told["number_format"] = tokenizer.codec.format.to_dict()
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _put(arrays: dict[str, np.ndarray], prefix: str, source: Source) -> dict[str, Any]:
    """A source's arrays under a prefix; returns what is left of it, for JSON."""
    order = np.argsort(np.array(source.languages), kind="stable")
    bodies = [source.bodies[i] for i in order]
    largest = max((int(body.max()) for body in bodies if len(body)), default=0)
    flat = np.concatenate(bodies) if bodies else np.zeros(0)
    arrays[f"{prefix}/tokens"] = flat.astype(np.uint16 if largest < 2**16 else np.uint32)
    arrays[f"{prefix}/lengths"] = np.array([len(body) for body in bodies], dtype=np.uint32)
    for name in ("codes", "present", "cut"):
        arrays[f"{prefix}/{name}"] = getattr(source, name)[order]
    if source.lexical_scores is not None:
        arrays[f"{prefix}/scores"] = source.lexical_scores[order].astype(np.float16)
    told = {name: getattr(source, name) for name in _PLAIN}
    for name in _WORDS:
        column = getattr(source, name)
        if not column:
            told[name] = []
            continue
        words = {word: number for number, word in enumerate(dict.fromkeys(column[i] for i in order))}
        told[name] = list(words)
        arrays[f"{prefix}/{name}"] = np.array([words[column[i]] for i in order], dtype=np.uint32)
    return told


def _take(arrays: dict[str, np.ndarray], prefix: str, told: dict[str, Any], tokenizer: RLMTokenizer) -> Source:
    """The source that `_put` put away."""
    read = {name.removeprefix(f"{prefix}/"): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}
    bodies = np.split(read["tokens"].astype(np.int32), np.cumsum(read["lengths"], dtype=np.int64)[:-1])
    values = np.full(read["present"].shape, np.nan)
    values[read["present"]] = tokenizer.codec.decode(read["codes"][read["present"]])
    words = {name: [told[name][i] for i in read[name]] if told[name] else [] for name in _WORDS}
    words["contexts"] = [tuple(lines) for lines in words["contexts"]]
    scores = read.get("scores")
    return Source(
        bodies=bodies,
        values=values,
        codes=read["codes"],
        present=read["present"],
        cut=read["cut"],
        lexical_scores=None if scores is None else scores.astype(np.float32),
        **words,
        **{name: told[name] for name in _PLAIN},
    )


# A field of a source that would be lost on the way is a mistake in this file.
assert {f.name for f in fields(Source)} == {
    *_PLAIN, *_WORDS, "bodies", "values", "codes", "present", "cut", "lexical_scores",
}  # fmt: skip

__all__ = ["FittedPath", "check_target", "read_pack", "write_pack"]
