"""The processor: one reading of each input, for training and prediction.

The encoder's text is a short header, then the code:

    # predict: peak_memory_bytes, cpu_time_ms
    # language: python
    # input_size: 1024x1024
    def f(x): ...

A checkpoint can have its own text for a metric instead (`configuration_rlm.fill_template`); `frame` writes whichever holds.
`read_input` turns what users pass (text, dict, path, ONNX graph) into a `CodeInput`; `encode_inputs` turns code inputs and
metric names into token ids. Code longer than the limit keeps its head and its tail, and the count of dropped tokens comes back
with it.
`RLMProcessor` does all of it, and adds the features that the checkpoint's ensemble reads (`features_rlm`):

    processor = RLMProcessor.from_pretrained("checkpoints/default")
    inputs = processor("def f(n): return [0] * n", metrics=["peak_rss_bytes"])
    model.predict(inputs, metrics=["peak_rss_bytes"])
"""

import ast
import io
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import PROCESSOR_NAME

from .assembly_rlm import Region, chosen_regions, looks_like_assembly, one_region, parse_assembly
from .configuration_rlm import AUTO_MAP, RLMConfig, fill_template
from .ensemble_rlm import EnsembleConfig
from .errors_rlm import InputError, MetricError
from .features_rlm import RLMFeatureExtractor, token_texts
from .language_model_rlm import HiddenStates
from .onnx_text_rlm import OnnxTextError, onnx_to_text_and_cost
from .source_rlm import canonical_source
from .tokenization_rlm import RLMTokenizer
from .x86_rlm import least_measured, lower_bound

# Suffix to language, as the metrics registry and the header's language line name it.
LANGUAGES = {
    ".py": "python", ".pyi": "python", ".c": "c", ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".hpp": "cpp",
    ".s": "x86asm", ".asm": "x86asm", ".onnx": "onnx", ".java": "java", ".go": "go", ".rs": "rust", ".js": "javascript",
    ".mjs": "javascript", ".ts": "typescript", ".rb": "ruby", ".pl": "perl", ".php": "php", ".lua": "lua", ".cs": "csharp",
    ".hs": "haskell", ".ml": "ocaml", ".f90": "fortran", ".f": "fortran", ".pas": "pascal", ".d": "d", ".sh": "bash",
    ".scm": "scheme", ".lisp": "lisp", ".kt": "kotlin", ".swift": "swift", ".scala": "scala", ".fs": "fsharp",
    ".cu": "cuda", ".jl": "julia", ".r": "r",
}  # fmt: skip
MAX_CHARACTERS = 20_000_000
_TRUNCATION_TOKEN = "<cut>"  # stands in place of the code left out


@dataclass(frozen=True)
class ExactValue:
    """A metric that is computed from the input, not predicted.

    Attributes:
        metric: Name.
        value: In the metric's unit.
        unknown: Operators that cost something and whose size is not known; the value is that of all others.
    """

    metric: str
    value: float
    unknown: int = 0


@dataclass(frozen=True)
class CodeInput:
    """One thing to predict for.

    Attributes:
        text: The code.
        language: Language (`python`, `x86asm`, `triton`, `onnx`, ...) or None where unknown.
        context: Further header lines, each `key: value`.
        source: Where it came from, for messages and tables.
        printed: Whether the text is this package's own print of an ONNX graph.
        lower_bounds: Pairs of a metric and a value below which it cannot lie, in the metric's unit.
        exact: What is computed from the input: operations and parameters of a graph.
        record: Further keys of the record that it came from; answers carry them along.
    """

    text: str
    language: str | None = None
    context: tuple[str, ...] = ()
    source: str = "<text>"
    printed: bool = False
    lower_bounds: tuple[tuple[str, float], ...] = ()
    exact: tuple[ExactValue, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)


def read_input(
    item: Any,
    *,
    language: str | None = None,
    context: Any = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> CodeInput:
    """Reads whatever users pass as one input.

    Args:
        item: Code as a str; a dict with `text`, optionally `language` and `context`, and further keys that answers carry
            along; a path to a file (a `Path`, or a str that names an existing file); an
            `onnx.ModelProto`; a `CodeInput`.
        language: Language, where the item does not name it.
        context: Header lines for every item: a mapping or `key: value` strings.
        input_shapes: Shapes of a graph's inputs by name, where its file leaves sizes free; "" stands for the only input.

    Raises:
        InputError: Not readable as code.
    """
    read = _read(item, language, context_lines(context), input_shapes)
    if read.language == "x86asm":
        return _of_region(read, one_region(parse_assembly(read.text, read.source)), read.source)
    return read


def _of_region(read: CodeInput, region: Region, source: str) -> CodeInput:
    """A loop or block of assembly as an input; a bound that the input has already, from its whole text, is kept."""
    bounds = read.lower_bounds or (("cycles", least_measured(lower_bound(region.bound_text))),)
    return replace(read, text=region.text, source=source, lower_bounds=bounds)


def expand_input(
    item: Any,
    *,
    language: str | None = None,
    context: Any = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> list[CodeInput]:
    """Reads whatever users pass as one input or, where it holds several things to predict for, as several.

    Assembly with loops gives its innermost loops, assembly of several blocks without a loop these; `source` then ends in
    their lines (`a.s:12-19`). Everything else gives what `read_input` reads.

    Args:
        item: See `read_input`.
        language: See `read_input`.
        context: See `read_input`.
        input_shapes: See `read_input`.

    Raises:
        InputError: See `read_input`.
    """
    read = _read(item, language, context_lines(context), input_shapes)
    if read.language != "x86asm":
        return [read]
    assembly = parse_assembly(read.text, read.source)
    parts = chosen_regions(assembly)
    if len(assembly.regions()) == 1:
        return [_of_region(read, parts[0], read.source)]
    return [_of_region(read, part, f"{read.source}:{part.lines}") for part in parts]


def _read(
    item: Any,
    language: str | None,
    extra: tuple[str, ...],
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> CodeInput:
    if isinstance(item, CodeInput):
        text = _checked(item.text, item.source)
        return replace(
            item, text=text, language=item.language or language or _guess(text), context=(*item.context, *extra)
        )
    if isinstance(item, Mapping):
        if "text" not in item:
            raise InputError(f"An input given as a dict needs a 'text' key, got the keys {sorted(map(str, item))}.")
        inner = _read(item["text"], item.get("language") or language, (), shapes)
        record = {str(key): value for key, value in item.items() if key not in ("text", "language", "context")}
        return replace(inner, context=(*context_lines(item.get("context")), *extra), record=record)
    if isinstance(item, os.PathLike) or (isinstance(item, str) and _names_a_file(item)):
        return _read_file(Path(item), language, extra, shapes)
    if isinstance(item, str) and _looks_like_a_path(item):
        raise InputError(
            f"{item!r} looks like a path, and there is no such file. Pass an existing path, or code as {{'text': ...}}."
        )
    if isinstance(item, str):
        return CodeInput(_checked(item, "<text>"), language or _guess(item), extra)
    if type(item).__name__ == "ModelProto" and hasattr(item, "graph"):
        return _read_graph(item, extra, "<onnx graph>", shapes)
    raise InputError(
        f"Cannot read {type(item).__name__} as an input. Pass code as str, a dict with 'text', a path, an onnx.ModelProto, "
        "or a list of these."
    )


# A path: one word with a directory in it, or with a suffix that files of code, models or tables have.
_PATH = re.compile(r"(?:~|\.{1,2}|[A-Za-z]:)?[\w.@+-]*(?:[/\\][\w.@+-]*)+|[\w.@+-]+\.[A-Za-z]\w{0,7}")
_TABLE_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet", ".tsv")
_PROSE_SUFFIXES = (".md", ".rst", ".txt", ".adoc", ".html", ".tex")


def _looks_like_a_path(text: str) -> bool:
    """Whether a text is one word that names a file rather than code: a known suffix, or a separator."""
    word = text.strip()
    if not _PATH.fullmatch(word):
        return False
    known = (*LANGUAGES, *_TABLE_SUFFIXES, *_PROSE_SUFFIXES)
    return "/" in word or "\\" in word or Path(word).suffix.lower() in known


def _names_a_file(text: str) -> bool:
    """Whether a text is the path of a file that is there."""
    if len(text) > 1024 or "\n" in text or "\0" in text:
        return False
    known = Path(text).suffix.lower() in LANGUAGES or _looks_like_a_path(text)
    return known and os.path.isfile(text)


def _read_file(
    path: Path, language: str | None, context: tuple[str, ...], shapes: Mapping[str, Sequence[int]] | None = None
) -> CodeInput:
    if path.is_dir():
        raise InputError(f"{path} is a directory; pass its files.")
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    suffix = path.suffix.lower()
    if suffix in _TABLE_SUFFIXES:
        raise InputError(f"{path} is a table; pass its rows, or name it to code-rlm predict with --text-column.")
    known = language or LANGUAGES.get(suffix)
    if known == "onnx":
        return _read_graph(path, context, str(path), shapes)
    if path.stat().st_size > MAX_CHARACTERS:
        raise InputError(f"{path} is larger than {MAX_CHARACTERS:,} bytes; pass the part to predict for.")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); is it a binary file?") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    text = text.removeprefix("\ufeff")
    text = _checked(io.IncrementalNewlineDecoder(None, True).decode(text), str(path))
    if known in (None, "python"):
        known = _guess(text) or known
    if known is None and suffix in _PROSE_SUFFIXES:
        raise InputError(f"{path} is text for people, not code. Pass language=... if it does hold code.")
    return CodeInput(text, known, context, str(path))


def _checked(text: Any, source: str) -> str:
    if not isinstance(text, str):
        raise InputError(f"{source}: the text must be a str, got {type(text).__name__}.")
    if not text.strip():
        raise InputError(f"{source}: the text is empty or only whitespace; there is nothing to predict for.")
    if "\0" in text:
        raise InputError(f"{source}: the text holds NUL bytes at position {text.index(chr(0))}; is it a binary file?")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{source}: the text holds a lone surrogate at position {error.start}, which no encoding can write. Decode the "
            "file with its real encoding, or with errors='replace'."
        ) from None
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"{source}: {len(text):,} characters; at most {MAX_CHARACTERS:,} are read. Pass the relevant part."
        )
    return text


def _guess(text: str) -> str | None:
    """The language of a text that came without one, where it is unambiguous."""
    if "@triton.jit" in text or "import triton.language" in text:
        return "triton"
    if looks_like_assembly(text):
        return "x86asm"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text[:200_000])
        return "python"
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _read_graph(
    model: Any, context: tuple[str, ...], source: str, shapes: Mapping[str, Sequence[int]] | None
) -> CodeInput:
    """An ONNX graph as an input, with what can be computed from it; shapes that were asked for stand in its context."""
    try:
        text, cost = onnx_to_text_and_cost(model, shapes)
    except OnnxTextError as error:
        message = str(error)
        raise InputError(message if source in message else f"{source}: {message}") from None
    given = [f"{name or 'input'}_shape: {'x'.join(map(str, shape))}" for name, shape in (shapes or {}).items()]
    exact = (
        ExactValue("macs_count", float(cost.macs), cost.unknown),
        ExactValue("flops_count", float(cost.flops), cost.unknown),
        ExactValue("params_count", float(cost.parameters), 0),
    )
    return CodeInput(text, "onnx", (*given, *context), source, printed=True, exact=exact)


def context_lines(context: Any) -> tuple[str, ...]:
    """Header lines `key: value` from a mapping, a string or a sequence of strings.

    Raises:
        InputError: A line without a key, or one that would break out of the header.
    """
    if not context:
        return ()
    if isinstance(context, Mapping):
        context = [f"{key}: {value}" for key, value in context.items()]
    if isinstance(context, str):
        context = [context]
    for line in context if isinstance(context, Iterable) else [context]:
        if not isinstance(line, str) or "\n" in line or not all(line.partition(":")[:2]):
            raise InputError(f"A context line must read 'key: value' on one line, got {line!r}.")
        _checked(line, "context")
    return tuple(context)


def format_header(metrics: Sequence[str], language: str | None = None, context: Iterable[str] = ()) -> str:
    """The header that precedes the code: metrics in decoding order, language, context."""
    if isinstance(metrics, str) or not metrics:
        raise MetricError(f"metrics must be a non-empty list of names, got {metrics!r}.")
    if repeated := [m for m in metrics if list(metrics).count(m) > 1]:
        raise MetricError(f"metrics names {repeated[0]!r} more than once.")
    lines = [f"# predict: {', '.join(metrics)}"]
    if language:
        if len(language.split()) != 1:
            raise InputError(f"language must be one word, such as 'python', got {language!r}.")
        lines.append(f"# language: {language}")
    for line in context:
        lines.append(f"# {line}")
        if (elements := _elements(line)) is not None:
            lines.append(f"# elements: {elements}")
    return "\n".join(lines) + "\n"


_SHAPE = re.compile(r"(?<![\w.=])\d+(?:x\d+)*(?![\w.])")


def _elements(line: str) -> int | None:
    """How many elements the shapes of a context line `..._size: 1024x4096, 4096` or `..._shape:` have; None for others.

    Digits are read one by one, and a product is hard to read off them, so the header holds it.
    """
    key, _, value = line.partition(":")
    if not key.endswith(("_size", "_shape")) or key.endswith(("batch_size", "image_size")):
        return None
    shapes = [math.prod(map(int, shape.split("x"))) for shape in _SHAPE.findall(value)]
    return sum(shapes) if shapes else None


def frame(
    metrics: Sequence[str],
    language: str | None = None,
    context: Iterable[str] = (),
    templates: Mapping[str, str] | None = None,
    *,
    printed: bool = False,
) -> tuple[str, str]:
    """The text before and behind the code: the header, or what the metric's template holds, in training and prediction.

    Args:
        metrics: In decoding order; one with a template stands alone.
        language: Language of the input.
        context: Lines `key: value`.
        templates: Metric to template, of those that have one.
        printed: See `CodeInput`.

    Raises:
        MetricError: A metric with a template beside others.
        InputError: A language, context line or placeholder that is missing or cannot be written.
    """
    own = [m for m in metrics if (templates or {}).get(m)]
    if not own:
        return format_header(metrics, language, context), ""
    if len(metrics) > 1:
        raise MetricError(
            f"{own[0]} is asked for with a text of its own, so not in one answer with others: {list(metrics)}."
        )
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in context)}
    return fill_template(templates[own[0]], own[0], language, values, printed=printed)


def metric_groups(metrics: Sequence[str], templates: Mapping[str, str] | None) -> list[list[str]]:
    """Metrics that are answered together: all without a template, and each with one alone; order of first appearance.

    Raises:
        MetricError: A metric named twice.
    """
    if repeated := [m for m in metrics if list(metrics).count(m) > 1]:
        raise MetricError(f"metrics names {repeated[0]!r} more than once.")
    groups: list[list[str]] = []
    shared: list[str] | None = None
    for name in metrics:
        if (templates or {}).get(name):
            groups.append([name])
        elif shared is None:
            groups.append(shared := [name])
        else:
            shared.append(name)
    return groups


@dataclass
class EncodedInput:
    """One input as token ids.

    Attributes:
        input_ids: Token ids, unpadded.
        truncated_tokens: How many tokens of the code were left out.
        language: The language that the header names; None without one, as in a text of a metric's own template.
        code_ids: Token ids of the code alone, before any were left out for the limit.
    """

    input_ids: list[int]
    truncated_tokens: int = 0
    language: str | None = None
    code_ids: list[int] = field(default_factory=list)


def encode_inputs(
    tokenizer: Any,
    inputs: Sequence[CodeInput],
    metrics: Sequence[Sequence[str]],
    max_tokens: int | Sequence[int],
    templates: Mapping[str, str] | None = None,
) -> list[EncodedInput]:
    """Token ids of header and code, the code's middle left out where it is longer than the limit.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        inputs: Code inputs.
        metrics: For each input, the metrics in decoding order.
        max_tokens: Limit on header, code and end token together, one for all or one for each input.
        templates: Metric to template, see `frame`; `RLMConfig.templates` of the checkpoint.

    Raises:
        InputError: A header that alone fills the limit, or a language, context or placeholder that cannot be written.
    """
    limits = [max_tokens] * len(inputs) if isinstance(max_tokens, int) else list(max_tokens)
    layout = InputLayout.of(tokenizer, max(limits, default=0))
    heads, bodies, tails, skipped = [], [], [], []
    for item, names in zip(inputs, metrics, strict=True):
        head, tail = frame(names, item.language, item.context, templates, printed=item.printed)
        body, middle = ends_of(item.text, layout.max_tokens, keep_head=layout.keep_head)
        if not layout.keep_head:
            body = model_text(body, item.language)
        else:
            # Such text was learned in one piece: a line break in front of the code can merge with the head's.
            body = head + body + ("" if middle else tail)
            head = tail = ""
        heads.append(head)
        bodies.append(body)
        tails.append(tail)
        skipped.append(middle)
    ids_of_heads, ids_of_bodies, ids_of_tails = (tokenize(tokenizer, texts) for texts in (heads, bodies, tails))
    encoded = []
    for row, item in enumerate(inputs):
        middle = skipped[row]
        ids, lost = replace(layout, max_tokens=limits[row]).join(
            ids_of_heads[row], ids_of_bodies[row], ids_of_tails[row], source=item.source, truncated=bool(middle)
        )
        if middle:
            lost += len(tokenize(tokenizer, [middle])[0])
        language = header_language(metrics[row], item.language, templates)
        encoded.append(EncodedInput(ids, lost, language, ids_of_bodies[row]))
    return encoded


def code_texts(tokenizer: Any, codes: Sequence[Sequence[int] | np.ndarray]) -> list[str]:
    """The texts of code given as token ids, as a language model reads them."""
    return [tokenizer.decode(np.asarray(ids, dtype=np.int64), clean_up_tokenization_spaces=False) for ids in codes]


def header_language(
    metrics: Sequence[str], language: str | None, templates: Mapping[str, str] | None = None
) -> str | None:
    """The language that the header of an input names: none in the text of a metric's own template."""
    return None if any((templates or {}).get(name) for name in metrics) else language


def length_batches(
    lengths: Sequence[int] | np.ndarray,
    *,
    batch_tokens: int | None = None,
    batch_size: int | None = None,
    order: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Inputs that run together: of like length, so that little is padded.

    Args:
        lengths: Tokens of each input.
        batch_tokens: The most tokens in a batch, padding included; a longer input is a batch of its own.
        batch_size: The most inputs in a batch.
        order: Indices of the inputs in the order to take them; None: the shortest first.

    Returns:
        Indices of the inputs of each batch.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(lengths, kind="stable") if order is None else order
    most = batch_size or len(order)
    batches = []
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and end - start < most:
            if batch_tokens is not None and lengths[order[end]] * (end + 1 - start) > batch_tokens:
                break
            end += 1
        batches.append(order[start:end])
        start = end
    return batches


def pad_rows(rows: Sequence[Sequence[int] | np.ndarray], value: int) -> torch.Tensor:
    """Rows of integers side by side, `value` behind the shorter ones, int64 `(rows, longest)`."""
    padded = torch.full((len(rows), max(map(len, rows))), value, dtype=torch.long)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = torch.as_tensor(row)
    return padded


def pad_inputs(rows: Sequence[Sequence[int] | np.ndarray], pad_token_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, int64 `(rows, longest)` each, of unpadded token ids."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = pad_rows(rows, pad_token_id)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def model_text(text: str, language: str | None) -> str:
    """Code as the model reads it: integers and constant expressions as plain decimals, whatever their spelling.

    Args:
        text: The code.
        language: Its language; texts of languages without numbers in programs (`x86asm`, `onnx`) stay as they are.
    """
    return canonical_source(text, language) if language else text


def ends_of(text: str, max_tokens: int, *, keep_head: bool = False) -> tuple[str, str]:
    """The text that can count within a limit of tokens, and the rest that cannot and is left out before tokenisation.

    No token is longer than a few dozen characters, so the characters kept always hold more tokens than the limit does: a
    megabyte on one line costs no more than a page. What is kept are both ends, or the head alone, see `InputLayout`.
    """
    reach = 64 * max_tokens
    if len(text) <= 2 * reach:
        return text, ""
    return (text[:reach], text[reach:]) if keep_head else (text[:reach] + text[-reach:], text[reach:-reach])


def tokenize(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of texts, without the tokenizer's own special tokens: `<eos>` or `</s>` in code is text like any other."""
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []


@dataclass(frozen=True)
class InputLayout:
    """How header, code and end are put together as token ids.

    Attributes:
        max_tokens: Limit on the whole.
        end: Token ids at the end.
        filler: Token ids in place of the code left out.
        start: Token ids before everything.
        keep_head: Leave out the end of what is too long instead of the code's middle, and tokenise it in one piece: how
            published checkpoints were trained.
    """

    max_tokens: int
    end: tuple[int, ...]
    filler: tuple[int, ...]
    start: tuple[int, ...] = ()
    keep_head: bool = False

    @classmethod
    def of(cls, tokenizer: Any, max_tokens: int) -> "InputLayout":
        """The layout that the tokenizer was saved with (`input_layout`), or else what its special tokens allow."""
        own = getattr(tokenizer, "init_kwargs", {}).get("input_layout")
        if own is not None:
            return cls(max_tokens, tuple(own["end"]), (), tuple(own["start"]), own["keep"] == "head")
        # A tokenizer that puts tokens before every text (Gemma's <bos>) was trained with them.
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = tokenizer("a")["input_ids"]
        start: list[int] = next((whole[:i] for i in range(len(whole)) if whole[i : i + len(bare)] == bare), [])
        end = tokenizer.eos_token_id
        filler = tokenizer.convert_tokens_to_ids(_TRUNCATION_TOKEN)
        has_filler = filler not in (None, tokenizer.unk_token_id)
        return cls(max_tokens, () if end is None else (end,), (filler,) if has_filler else (), tuple(start))

    def join(
        self,
        head: Sequence[int],
        body: Sequence[int],
        tail: Sequence[int] = (),
        *,
        source: str,
        truncated: bool = False,
    ) -> tuple[list[int], int]:
        """Puts an input together; code that is too long loses its middle.

        Args:
            head: Token ids of the header.
            body: Token ids of the code.
            tail: Token ids of what a template puts behind the code.
            source: Where the input came from, for messages.
            truncated: Whether the middle of the code was left out before tokenisation.

        Returns:
            The token ids, and how many of the code were left out here.

        Raises:
            InputError: A header that alone fills the limit.
        """
        fixed = len(head) + (0 if self.keep_head else len(tail))
        room = self.max_tokens - fixed - len(self.start) - len(self.end)
        if room < 8:
            raise InputError(
                f"{source}: the header takes {fixed} of {self.max_tokens} tokens, which leaves no room for code. Ask for "
                "fewer metrics or shorten the context lines."
            )
        lost = 0
        body = list(body)
        if self.keep_head:
            body += tail
            lost = max(0, len(body) - room)
            body = body[:room]
            tail = ()
        elif len(body) > room or truncated:
            keep = min(room - len(self.filler), len(body))
            first = (keep + 1) // 2
            lost = len(body) - keep
            body = [*body[:first], *self.filler, *body[len(body) - (keep - first) :]]
        return [*self.start, *head, *body, *tail, *self.end], lost


class RLMProcessor(ProcessorMixin):
    """Reads each input once: token ids for the encoder, and features for the ensemble where the checkpoint has one.

    It is made from the checkpoint's tokenizer and config, so checkpoints without a `processor_config.json` have one, too.

    Args:
        tokenizer: The checkpoint's `RLMTokenizer`.
        config: The checkpoint's config: its metrics with their templates and limits, and the layout of the features.
    """

    def __init__(self, tokenizer: Any, config: RLMConfig):
        super().__init__(tokenizer)
        self.config = config
        self._texts: list[str] = []
        self._extractor: RLMFeatureExtractor | None = None
        self._extractor_settings: Any = None
        self._hidden_states: HiddenStates | None = None

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call returns."""
        return ["input_ids", "attention_mask", *([] if self.config.ensemble is None else ["features"])]

    @property
    def feature_extractor(self) -> RLMFeatureExtractor | None:
        """Computes the features of the config's ensemble; None where it has none."""
        if self.config.ensemble is None:
            return None
        # Fitting an ensemble gives the config new settings.
        if self._extractor is None or self._extractor_settings is not self.config.ensemble:
            settings = EnsembleConfig.from_dict(self.config.ensemble)
            if len(self._texts) < len(self.tokenizer):
                self._texts = token_texts(self.tokenizer)
            self._extractor = RLMFeatureExtractor(settings.features, self._texts, settings.domain_names)
            self._extractor_settings = self.config.ensemble
        return self._extractor

    def hidden_states(self, inputs: Sequence[EncodedInput]) -> torch.Tensor | None:
        """What the language model of the config's ensemble reads of the inputs' code; None where it has none.

        Returns:
            float32 `(inputs, size)`; see `HiddenStates`, which loads the model where it is needed.

        Raises:
            CheckpointError: The language model cannot be had.
        """
        extractor = self.feature_extractor
        if extractor is None or extractor.layout.language_model is None:
            return None
        if self._hidden_states is None or self._hidden_states.settings != extractor.layout.language_model:
            self._hidden_states = HiddenStates(extractor.layout.language_model)
        return self._hidden_states(code_texts(self.tokenizer, [item.code_ids for item in inputs]))

    def __call__(  # type: ignore[override]
        self,
        inputs: Any,
        metrics: Sequence[str] | None = None,
        *,
        language: str | None = None,
        context: Any = (),
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Reads one input or a list of them.

        Args:
            inputs: What `read_input` takes, or a list of these.
            metrics: Names in decoding order, for all inputs; None: the checkpoint's default metrics for the language.
            language: Language of the inputs, where they do not name it.
            context: Header lines for every input.
            return_tensors: `pt` for tensors, `np` for arrays.

        Returns:
            `input_ids` and `attention_mask` `(batch, length)`, and with an ensemble `features` float32 `(batch, size)`.

        Raises:
            InputError: Not readable, or of an unknown language where no metrics are named.
            MetricError: A metric that the checkpoint does not know, or metrics that cannot be asked for together.
        """
        if return_tensors not in ("pt", "np"):
            raise InputError(f"return_tensors must be 'pt' or 'np', got {return_tensors!r}.")
        items = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if not items:
            raise InputError("There are no inputs: the list is empty.")
        read = [read_input(item, language=language, context=context) for item in items]
        batch = self.collate(self.encode(read, [self._metrics_for(item, metrics) for item in read]))
        return batch if return_tensors == "pt" else BatchFeature({name: t.numpy() for name, t in batch.items()})

    def _metrics_for(self, item: CodeInput, metrics: Sequence[str] | None) -> list[str]:
        if isinstance(metrics, str):
            raise MetricError(f"metrics must be a list of names, got the text {metrics!r}. Write [{metrics!r}].")
        if metrics is not None:
            return list(metrics)
        if item.language is None:
            raise InputError(f"{item.source}: its language is not known. Pass language=... or metrics=[...].")
        return self.config.metrics_for(item.language)

    def encode(self, inputs: Sequence[CodeInput], metrics: Sequence[Sequence[str]]) -> list[EncodedInput]:
        """Token ids of inputs, each asked for its metrics in decoding order, within the limits of these metrics.

        Raises:
            InputError, MetricError: See `encode_inputs`; or a metric that is computed from others.
        """
        if derived := [name for names in metrics for name in names if name in self.config.fitted.derived]:
            raise MetricError(f"{derived[0]} is computed from the answers for other metrics; ask the pipeline for it.")
        limits = [min(self.config.max_input_tokens_of(name) for name in names) for names in metrics]
        return encode_inputs(self.tokenizer, inputs, metrics, limits, self.config.templates)

    def collate(self, inputs: Sequence[EncodedInput]) -> BatchFeature:
        """Pads inputs to the longest of the batch and computes their features; see a call for what it returns."""
        batch = pad_inputs([item.input_ids for item in inputs], self.tokenizer.pad_token_id)
        if self.feature_extractor is not None:
            mask = batch["attention_mask"]
            languages = [item.language for item in inputs]
            batch["features"] = self.feature_extractor(
                batch["input_ids"], None if bool(mask.all()) else mask, languages, self.hidden_states(inputs)
            )
        return BatchFeature(batch)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "RLMProcessor":
        """Reads tokenizer and config of a checkpoint, a folder or a hub id.

        Args:
            pretrained_model_name_or_path: The checkpoint.
            **kwargs: `revision`, `token`, `cache_dir`, `local_files_only` and `force_download` go to the hub.
        """
        hub = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
        config = RLMConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        return cls(RLMTokenizer.from_pretrained(pretrained_model_name_or_path, **hub), config)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike, **kwargs: Any
    ) -> list[str]:
        """Writes the tokenizer, `processor_config.json` and the files of code that a load from the Hub runs.

        The config, which a load needs as well, is the model's: `model.save_pretrained` writes it.

        Args:
            save_directory: Where to.
            **kwargs: What `push_to_hub` passes for models; nothing of it concerns a processor.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        files = list(self.tokenizer.save_pretrained(folder))
        custom_object_save(self, folder)
        about = {"processor_class": type(self).__name__, "auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]}}
        target = folder / PROCESSOR_NAME
        target.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        return [*files, str(target)]


_HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
RLMProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "LANGUAGES",
    "CodeInput",
    "EncodedInput",
    "ExactValue",
    "InputLayout",
    "RLMProcessor",
    "code_texts",
    "context_lines",
    "encode_inputs",
    "ends_of",
    "expand_input",
    "format_header",
    "frame",
    "header_language",
    "length_batches",
    "metric_groups",
    "model_text",
    "pad_inputs",
    "pad_rows",
    "read_input",
    "tokenize",
]
