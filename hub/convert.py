"""Reads the paper's published checkpoints (`regresslm`) into ours: `code-rlm convert SOURCE OUT`.

    code-rlm convert akhauriyash/RLM-GemmaS-Code-v0 published
    code-rlm predict solution.cpp --model published --metrics judge_memory_bytes

Read are `config.json`, the safetensors files and the text tokenizer's JSON files; never Python and never a pickle. The model is
the library's T5Gemma with a numeric vocabulary, so the weights are copied as they are, under our names:

    model.model.encoder.*          encoder.encoder.*
    model.model.decoder.*          decoder.*
    model.lm_head.out_proj.weight  number_head.weight
    regression_head.*              regression_head.*
    model.final_logits_bias        (a buffer of zeros that nothing reads; refused if it is anything else)

What does not fit is listed before anything is written, and the folder appears whole or not at all.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tokenizers import Tokenizer, processors
from transformers.dynamic_module_utils import custom_object_save

from code_rlm import cli
from code_rlm.configuration_rlm import RLMConfig
from code_rlm.data.published import accuracy_metric
from code_rlm.errors_rlm import CheckpointError, RLMError
from code_rlm.hub.safetensors_copy import ITEM_BYTES, StoredTensor, stored_tensors, write_tensors
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import NumberCodec, NumberFormat
from code_rlm.tokenization_rlm import RLMTokenizer

MODEL_TYPE = "regresslm"
TOKENIZER = "encoder_tokenizer"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_INDEX = "model.safetensors.index.json"
_UNREAD_BUFFER = "model.final_logits_bias"
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Longest input that the published weights were trained on, in tokens; graphs are longer.
_MAX_TOKENS, _MAX_GRAPH_TOKENS = 2048, 4096

# The languages of CodeNet that this package has a name for.
_CODENET = (
    "ada awk bash c clojure cobol cpp crystal csharp d dart elixir erlang fortran fsharp go groovy haskell java javascript "
    "julia kotlin lisp lua nim ocaml octave pascal perl php prolog python racket ruby rust scala scheme swift typescript vb"
).split()
# Spaces of the published graphs, as their prefix spells them; the names of their metrics are those of the readers.
_SPACES = (
    "NASBench101 NASBench201 FBNet NASNet Amoeba PNAS ENAS DARTS OfaMB OfaPN OfaRN Twopath Hiaml Inception SNAS"
).split()
METRICS: tuple[dict[str, Any], ...] = (
    {
        "name": "peak_memory_bytes",
        "unit": "bytes",
        "description": "Peak of tracemalloc over a Python solution of an APPS problem (arXiv 2509.26476). The text is the "
        "problem's statement and then the solution; without the statement the ranking is weaker.",
        "languages": ["python"],
        "template": "APPS\n{text}",
    },
    {
        "name": "latency_ms@rtx_a6000",
        "unit": "ms",
        "description": "Median latency of a KernelBook module, its Triton code as Inductor wrote it, on an RTX A6000.",
        "languages": ["triton", "python"],
        "template": "KBSS\n{text}",
    },
    {
        "name": "judge_memory_bytes",
        "unit": "bytes",
        "description": "Memory of a submission as CodeNet's judge recorded it. The published table calls the unit bytes, "
        "CodeNet documents kB; the scale was not checked against the judge's.",
        "languages": _CODENET,
        "template": "# CDSS\n# Language: {language}\n{text}",
    },
    *(
        {
            "name": accuracy_metric(space),
            "smaller_is_better": False,
            "description": f"Validation accuracy of an architecture of {space}, on the scale of that space's table (percent in "
            "some, a fraction in others), its ONNX graph printed as in the published table. context: space.",
            "languages": ["onnx"],
            "template": "{space}\n\n{onnx}",
            "max_input_tokens": _MAX_GRAPH_TOKENS,
        }
        for space in _SPACES
    ),
)
DEFAULT_METRICS = {"python": ["peak_memory_bytes"], "triton": ["latency_ms@rtx_a6000"]}

_CARD = """
# {name}

The weights of [{source}](https://huggingface.co/{source}){revision}, "Regression Language Models for Code" (arXiv 2509.26476),
in the layout of [Code-RLM](https://pypi.org/project/code-rlm/): the same tensors under other names. Nothing was trained or
measured anew; for scores see the original.

```python
from transformers import pipeline

pipe = pipeline("code-regression", model="{name}", trust_remote_code=True)
pipe({{"text": code, "language": "cpp"}}, metrics=["judge_memory_bytes"], interval=0.9)
```

| metric | unit | the text that the model reads |
|---|---|---|
{rows}

{notes}
"""


@dataclass
class Converted:
    """What was written.

    Attributes:
        folder: Where.
        parameters: Number of weights.
        source_bytes, written_bytes: Sizes of the weights' files.
        notes: What a user of the checkpoint must know.
    """

    folder: Path
    parameters: int
    source_bytes: int
    written_bytes: int
    notes: list[str] = field(default_factory=list)


def convert(
    source: str | os.PathLike, out: str | os.PathLike, *, revision: str | None = None, token: str | bool | None = None
) -> Converted:
    """Converts a published checkpoint.

    Args:
        source: Hub id or folder.
        out: Folder to write; must not exist, or be empty.
        revision, token: For the hub.

    Raises:
        CheckpointError: Not such a checkpoint, or keys and shapes that do not fit, all of them listed; nothing is written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists already. Name a new folder.")
    folder = _folder(source, revision, token)
    published = _json(folder / "config.json")
    if published.get("model_type") != MODEL_TYPE:
        raise CheckpointError(
            f"{source} holds a {published.get('model_type')!r} model; convert reads {MODEL_TYPE!r} ones, such as "
            "akhauriyash/RLM-GemmaS-Code-v0."
        )
    problems: list[str] = []
    notes: list[str] = []
    config = _config(published, problems, notes)
    if config is None:
        raise _refusal(source, problems)
    with torch.device("meta"):
        model = RLMForConditionalGeneration(config)
    tokenizer = _tokenizer(folder / TOKENIZER, config, problems)
    stored = stored_tensors(_weight_files(folder))
    tensors = _match(model, stored, problems)
    if problems or tokenizer is None:
        raise _refusal(source, problems)

    # Written beside its final place and then moved, so that a folder of that name is always whole.
    part = out.parent / f".{out.name}.part-{os.getpid()}"
    part.mkdir(parents=True)
    try:
        written = write_tensors(tensors, part / "model.safetensors")
        config.architectures = [type(model).__name__]
        config.dtype = _DTYPES[tensors["number_head.weight"].dtype]
        config.save_pretrained(part)
        model.generation_config.save_pretrained(part)
        custom_object_save(model, part)
        tokenizer.save_pretrained(part)
        _card(out.name, source, revision, notes).save(part / "README.md")
        if out.exists():
            out.rmdir()
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    parameters = sum(p.numel() for p in model.parameters())
    return Converted(
        out, parameters, sum({t.path: t.path.stat().st_size for t in stored.values()}.values()), written, notes
    )


def _refusal(source: Any, problems: list[str]) -> CheckpointError:
    lines = "\n".join(f"  - {p}" for p in problems)
    return CheckpointError(f"{source} cannot be converted; {len(problems)} things do not fit:\n{lines}")


# ---------------------------------------------------------------------------------------------------- what is read


def _folder(source: str | os.PathLike, revision: str | None, token: str | bool | None) -> Path:
    where = str(source)
    if os.path.isfile(where):
        raise CheckpointError(
            f"{where} is a file. State dictionaries of regress-lm (.pt) are not supported: they are pickles of another "
            "architecture (its own encoder and torch's nn.TransformerDecoder) and state neither its sizes nor its tokenizer. "
            "Give the folder or hub id of an exported checkpoint with config.json and safetensors."
        )
    if os.path.isdir(where):
        folder = Path(where)
    elif where.count("/") != 1 or where.startswith((".", "~", "/")):
        raise CheckpointError(f"There is no folder {where}; a hub id reads 'owner/name'.")
    else:
        wanted = ["config.json", "*.safetensors", _INDEX, *(f"{TOKENIZER}/{name}" for name in _TOKENIZER_FILES)]
        try:
            folder = Path(snapshot_download(where, revision=revision, token=token, allow_patterns=wanted))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(f"{where} could not be fetched from the hub: {reason}") from error
    if not (folder / "config.json").is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".pt", ".pth", ".bin", ".ckpt"))
        hint = f" It holds {pickles[0]}, a pickle, which is never read." if pickles else ""
        raise CheckpointError(f"{where} has no config.json.{hint}")
    return folder


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable JSON file: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return content


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _INDEX).is_file():
        names = sorted(set(_json(folder / _INDEX).get("weight_map", {}).values()))
    else:
        names = ["model.safetensors"]
    if strange := [n for n in names if not isinstance(n, str) or Path(n).name != n]:
        raise CheckpointError(f"{folder / _INDEX} names {strange[0]!r}, which is not a file beside it.")
    if missing := [n for n in names if not (folder / n).is_file()] or ([] if names else [_INDEX]):
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}; pickled weights (.bin, .pt) are never read.")
    return [folder / n for n in names]


_REGRESSION_HEAD = (
    "It was trained by squared error and answers with its regression head (`model.regress`): one number without an interval, "
    "on the scale of its training targets. Its decoder came along untrained."
)
_SEVERAL_NUMBERS = (
    "It writes up to {} numbers, but its config does not name them. The pipeline gives the first; "
    "`model.predict(..., metrics=[...])` with as many names gives all."
)


def _whole_number(published: dict[str, Any], name: str, default: int | None = None) -> int:
    """Returns a whole number of a published config."""
    value = published.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"config.json: {name} must be a whole number, got {value!r}")
    return value


def _number_format(published: dict[str, Any], problems: list[str]) -> NumberFormat:
    """Returns how a published checkpoint writes numbers. Adds to `problems` what does not fit."""
    name = str(published.get("decoder_tokenizer", "P10")).upper()
    if name == "P10":
        written = NumberFormat.p10(
            _whole_number(published, "num_digits", 6), _whole_number(published, "exponent_range", 10)
        )
    elif name.startswith("IEEE"):
        if _whole_number(published, "ieee_base", 10) != 10:
            problems.append(f"config.json: ieee_base is {published['ieee_base']}, only 10 can be read")
        exponent = _whole_number(published, "ieee_exponent_digits")
        written = NumberFormat.ieee(exponent, _whole_number(published, "ieee_mantissa_digits"))
    else:
        raise CheckpointError(f"config.json: decoder_tokenizer {name!r} is neither IEEE nor P10")
    codec = NumberCodec(written)
    for key, expected in (("decoder_vocab_size", codec.vocab_size), ("num_tokens_per_obj", codec.length)):
        if _whole_number(published, key, expected) != expected:
            problems.append(f"config.json: {key} is {published[key]}, but {name} numbers have {expected}")
    return written


def _config(published: dict[str, Any], problems: list[str], notes: list[str]) -> RLMConfig | None:
    """Returns our config of a published one; None where it cannot be built. Adds to `problems` and `notes`."""
    backbone = published.get("backbone_config")
    if not isinstance(backbone, dict):
        problems.append("config.json: backbone_config is missing; it must hold a whole T5Gemma config")
        return None
    if backbone.get("model_type", "t5gemma") != "t5gemma":
        problems.append(f"config.json: backbone_config is of type {backbone['model_type']!r}, not 't5gemma'")
        return None
    try:
        written = _number_format(published, problems)
        for name in ("pad_token_id", "decoder_start_token_id"):
            if _whole_number(published, name, 0) != 0:
                problems.append(f"config.json: {name} is {published[name]}, not 0")
        whole = {**backbone, "model_type": "t5gemma"}
        encoder = {**whole, "is_encoder_decoder": False}
        if published.get("encoder_vocab_size") is not None:
            size = _whole_number(published, "encoder_vocab_size")
            encoder["encoder"] = {**encoder.get("encoder", {}), "vocab_size": size}
        decoder = {**whole, "decoder": {**whole.get("decoder", {}), "vocab_size": NumberCodec(written).vocab_size}}
        head = bool(published.get("use_regression_head", False))
        objectives = max(1, _whole_number(published, "max_num_objs", 1))
        if head:
            notes.append(_REGRESSION_HEAD)
        if objectives > 1:
            notes.append(_SEVERAL_NUMBERS.format(objectives))
        return RLMConfig(
            encoder=encoder,
            decoder=decoder,
            regression_head=head,
            number_format=written.to_dict(),
            max_objectives=objectives,
            max_input_tokens=_MAX_TOKENS,
            metrics=[dict(m) for m in METRICS],
            default_metrics=dict(DEFAULT_METRICS),
            eos_token_id=0,
            bos_token_id=0,
        )
    except (
        RLMError,
        TypeError,
        KeyError,
        ValueError,
    ) as error:  # transformers' own checks of a config raise any of these
        problems.append(str(error).strip().splitlines()[-1])
        return None


def _tokenizer(folder: Path, config: RLMConfig, problems: list[str]) -> RLMTokenizer | None:
    """Their text tokenizer, which reads as theirs does and writes our numbers."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        problems.append(f"{TOKENIZER}/tokenizer.json is missing")
        return None
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        problems.append(f"{TOKENIZER}/tokenizer.json cannot be read: {error}")
        return None
    backend.no_padding()
    backend.no_truncation()
    said: dict[str, Any] = {}
    for name in _TOKENIZER_FILES[1:]:
        if (folder / name).is_file():
            said.update(_json(folder / name))
    special = {}
    for role, usual in (("pad", "<pad>"), ("eos", "<eos>"), ("bos", "<bos>"), ("unk", "<unk>")):
        named = said.get(f"{role}_token", usual)
        named = named.get("content") if isinstance(named, dict) else named
        if named is not None and backend.token_to_id(named) is not None:
            special[f"{role}_token"] = named
    if "pad_token" not in special:
        problems.append(f"{TOKENIZER}: the tokenizer has no padding token")
        return None
    rows = config.encoder.encoder.vocab_size
    if backend.get_vocab_size() > rows:
        problems.append(f"{TOKENIZER}: {backend.get_vocab_size()} tokens for {rows} embeddings")
    start, end = _surrounding(backend)
    # Gemma's tokenizer class adds these by a flag of its own, whatever tokenizer.json says.
    for role, given in (("bos", start), ("eos", end)):
        flag, token = said.get(f"add_{role}_token"), special.get(f"{role}_token")
        number = backend.token_to_id(token) if token else None
        if flag is False:
            given.clear()
        elif flag and number is not None and number not in given:
            given.append(number)
    around = [(str(backend.id_to_token(i)), i) for i in dict.fromkeys([*start, *end])]
    single = [*(backend.id_to_token(i) for i in start), "$A", *(backend.id_to_token(i) for i in end)]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
    return RLMTokenizer(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        number_format=config.number_format,
        input_layout={"start": start, "end": end, "keep": "head"},
        **special,
    )


def _surrounding(backend: Tokenizer) -> tuple[list[int], list[int]]:
    """Token ids that the tokenizer puts before and behind a text."""
    bare, whole = backend.encode("a", add_special_tokens=False).ids, backend.encode("a").ids
    for first in range(len(whole) - len(bare) + 1):
        if whole[first : first + len(bare)] == bare:
            return whole[:first], whole[first + len(bare) :]
    return [], []


# ---------------------------------------------------------------------------------------------------- what fits


def _published_name(name: str) -> str:
    """Their name of one of our weights."""
    for ours, theirs in (
        ("encoder.encoder.", "model.model.encoder."),
        ("decoder.", "model.model.decoder."),
        ("number_head.", "model.lm_head.out_proj."),
    ):
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def _match(model: torch.nn.Module, stored: dict[str, StoredTensor], problems: list[str]) -> dict[str, StoredTensor]:
    """Our names to their tensors; what is missing, of another shape or left over goes to `problems`."""
    matched, left = {}, dict(stored)
    for name, weight in model.state_dict().items():
        theirs = _published_name(name)
        found = left.pop(theirs, None)
        if found is None:
            problems.append(f"{theirs} is missing, expected {list(weight.shape)}")
        elif found.shape != tuple(weight.shape):
            problems.append(f"{theirs} has shape {list(found.shape)}, expected {list(weight.shape)}")
        elif found.dtype not in ITEM_BYTES:
            problems.append(f"{theirs} is of type {found.dtype}, expected one of {', '.join(ITEM_BYTES)}")
        else:
            matched[name] = found
    bias = left.pop(_UNREAD_BUFFER, None)
    if bias is not None and any(bias.read()):
        problems.append(f"{_UNREAD_BUFFER} is not zero; there is no place for it")
    problems += [f"{name} {list(tensor.shape)} is not a weight of this model" for name, tensor in sorted(left.items())]
    return matched


def _card(name: str, source: Any, revision: str | None, notes: list[str]) -> ModelCard:
    rows = "\n".join(f"| `{m['name']}` | {m.get('unit', '')} | `{json.dumps(m['template'])[1:-1]}` |" for m in METRICS)
    local = os.path.isdir(str(source))
    data = ModelCardData(
        license="mit", library_name="transformers", tags=["code-regression", "regression"],
        base_model=None if local else str(source),
    )  # fmt: skip
    text = _CARD.format(
        name=name,
        source="akhauriyash/RLM-GemmaS-Code-v0" if local else source,
        revision=f" at {revision}" if revision else "",
        rows=rows,
        notes="\n".join(f"- {note}" for note in notes),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def summary(done: Converted) -> Iterator[str]:
    yield f"{done.folder}: {done.parameters:,} parameters, {done.written_bytes / 1e6:.0f} MB, read with code_rlm.load(...)"
    yield from (f"note: {note}" for note in done.notes)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `code-rlm convert` and returns its exit status."""
    return cli.main(["convert", *(sys.argv[1:] if argv is None else argv)])


__all__ = ["DEFAULT_METRICS", "METRICS", "Converted", "convert", "summary"]


if __name__ == "__main__":
    sys.exit(main())
