"""What the model reads: one contract for training and prediction.

The encoder's text is a short header, then the code:

    # predict: peak_memory_bytes, cpu_time_ms
    # language: python
    # input_size: 1024x1024
    def f(x): ...

A checkpoint can have its own text for a metric instead (`templates_rlm`); `frame` writes whichever holds. `read_input` turns
what users pass (text, dict, path, ONNX graph) into a `CodeInput`; `encode_inputs` turns code inputs and metric names into token
ids. Code longer than the limit keeps its head and its tail, and the count of dropped tokens comes back with it.
"""

import ast
import io
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors_rlm import InputError, MetricError
from .onnx_text_rlm import OnnxTextError, onnx_to_text
from .templates_rlm import fill_template

# Suffix to kind of input. Kinds are what the metrics registry and the header's language line name.
LANGUAGES = {
    ".py": "python", ".pyi": "python", ".c": "c", ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".hpp": "cpp",
    ".s": "x86asm", ".asm": "x86asm", ".onnx": "onnx", ".java": "java", ".go": "go", ".rs": "rust", ".js": "javascript",
    ".mjs": "javascript", ".ts": "typescript", ".rb": "ruby", ".pl": "perl", ".php": "php", ".lua": "lua", ".cs": "csharp",
    ".hs": "haskell", ".ml": "ocaml", ".f90": "fortran", ".f": "fortran", ".pas": "pascal", ".d": "d", ".sh": "bash",
    ".scm": "scheme", ".lisp": "lisp", ".kt": "kotlin", ".swift": "swift", ".scala": "scala", ".fs": "fsharp",
    ".cu": "cuda", ".jl": "julia", ".r": "r",
}  # fmt: skip
MAX_CHARACTERS = 20_000_000
_CUT_TOKEN = "<cut>"


@dataclass(frozen=True)
class CodeInput:
    """One thing to predict for.

    Attributes:
        text: The code.
        language: Kind of input (`python`, `x86asm`, `triton`, `onnx`, ...) or None where unknown.
        context: Further header lines, each `key: value`.
        source: Where it came from, for messages and tables.
        printed: Whether the text is this package's own print of an ONNX graph.
    """

    text: str
    language: str | None = None
    context: tuple[str, ...] = ()
    source: str = "<text>"
    printed: bool = False


def read_input(item: Any, *, language: str | None = None, context: Any = ()) -> CodeInput:
    """Reads whatever users pass as one input.

    Args:
        item: Code as a str; a dict with `text` and optionally `language` and `context`; a path to a file (a `Path`, or a
            str that names an existing file with a known suffix); an `onnx.ModelProto`; a `CodeInput`.
        language: Kind of input, where the item does not say.
        context: Header lines for every item: a mapping or `key: value` strings.

    Raises:
        InputError: Not readable as code; the message says what was given and what is accepted.
    """
    read = _read(item, language, context_lines(context))
    if read.language == "x86asm":
        return replace(read, text=assembly_listing(read.text, read.source))
    return read


def _read(item: Any, language: str | None, extra: tuple[str, ...]) -> CodeInput:
    if isinstance(item, CodeInput):
        text = _checked(item.text, item.source)
        return CodeInput(
            text, item.language or language or _guess(text), (*item.context, *extra), item.source, item.printed
        )
    if isinstance(item, Mapping):
        if unknown := set(item) - {"text", "language", "context"}:
            raise InputError(f"Unknown keys {sorted(map(str, unknown))} in an input; use text, language, context.")
        if "text" not in item:
            raise InputError("An input given as a dict needs a 'text' key.")
        inner = _read(item["text"], item.get("language") or language, ())
        return replace(inner, context=(*context_lines(item.get("context")), *extra))
    if isinstance(item, os.PathLike) or (isinstance(item, str) and _names_a_file(item)):
        return _read_file(Path(item), language, extra)
    if isinstance(item, str):
        return CodeInput(_checked(item, "<text>"), language or _guess(item), extra)
    if type(item).__name__ == "ModelProto" and hasattr(item, "graph"):
        return CodeInput(_onnx_text(item), "onnx", extra, "<onnx graph>", printed=True)
    raise InputError(
        f"Cannot read {type(item).__name__} as an input. Pass code as str, a dict with 'text', a path, an onnx.ModelProto, "
        "or a list of these."
    )


def _names_a_file(text: str) -> bool:
    if len(text) > 1024 or "\n" in text or "\0" in text or Path(text).suffix.lower() not in LANGUAGES:
        return False
    return os.path.isfile(text)


def _read_file(path: Path, language: str | None, context: tuple[str, ...]) -> CodeInput:
    if path.is_dir():
        raise InputError(f"{path} is a directory; pass its files.")
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    kind = language or LANGUAGES.get(path.suffix.lower())
    if kind == "onnx":
        return CodeInput(_onnx_text(path), "onnx", context, str(path), printed=True)
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
    if kind == "python":
        kind = _guess(text) or kind
    return CodeInput(text, kind or _guess(text), context, str(path))


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


# An instruction in Intel syntax: a mnemonic, then nothing or a register, a memory operand or a number.
_INSTRUCTION = re.compile(
    r"\s*(lock |rep[nez]* )?[a-z][a-z0-9.]{1,15}(\s+([re]?[a-ds][ixlhp]l?|[re][a-z]{2}|r\d+[dwb]?|[xyzk]m?m?\d+|"
    r"([xyzdqtf]?[xyzmw]*(byte|word)) ptr .*|\[.*|-?\d.*)(\s*,.*)?)?\s*(;.*)?"
)
_MEMORY = re.compile(r"\[[^\]]*\]")


def _guess(text: str) -> str | None:
    """The kind of a text that came without one, where its own words leave no doubt."""
    if "@triton.jit" in text or "import triton.language" in text:
        return "triton"
    lines = [line for line in re.split(r"[\n;]", text[:20_000]) if line.strip()]
    if len(lines) and all(_INSTRUCTION.fullmatch(line) for line in lines) and any(" " in s.strip() for s in lines):
        return "x86asm"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text[:200_000])
        return "python"
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def assembly_listing(text: str, source: str = "<text>") -> str:
    """x86 assembly in Intel syntax as the one form that the model is trained on: an instruction a line, in lower case.

    Instructions may be separated by semicolons. Comments, labels and directives are left out: they take no cycles. Spacing
    inside memory operands is made even (`[rsi+rcx*4]` becomes `[rsi + rcx*4]`).

    Raises:
        InputError: Nothing is left.
    """
    instructions = []
    for line in text.lower().splitlines():
        for index, part in enumerate(line.partition("#")[0].split(";")):
            part = re.sub(r"\s*,\s*", ", ", " ".join(part.split()))
            comment = index and not _INSTRUCTION.fullmatch(part)
            if part and not comment and not part.startswith(".") and not part.endswith(":"):
                instructions.append(_MEMORY.sub(lambda m: re.sub(r"\s*([+-])\s*", r" \1 ", m.group(0)), part))
    if not instructions:
        raise InputError(f"{source}: there are no instructions in it, only comments, labels or directives.")
    return "\n".join(instructions)


def _onnx_text(model: Any) -> str:
    try:
        return onnx_to_text(model)
    except OnnxTextError as error:
        raise InputError(str(error)) from None


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

    Digits are read one by one, and a product is hard to read off them, so the header says it.
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
    """The text before and behind the code: the header, or what the metric's template says, in training and prediction.

    Args:
        metrics: In decoding order; one with a template stands alone.
        language: Kind of input.
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
class EncodedTexts:
    """Token ids of several inputs, unpadded, and how many code tokens each lost to the limit."""

    input_ids: list[list[int]]
    truncated_tokens: list[int]


def encode_inputs(
    tokenizer: Any,
    inputs: Sequence[CodeInput],
    metrics: Sequence[Sequence[str]],
    max_tokens: int | Sequence[int],
    templates: Mapping[str, str] | None = None,
) -> EncodedTexts:
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
    frames = [
        frame(m, i.language, i.context, templates, printed=i.printed) for i, m in zip(inputs, metrics, strict=True)
    ]
    layout = InputLayout.of(tokenizer, max(limits, default=0))
    heads, bodies, tails, skipped = [], [], [], []
    for item, (head, tail) in zip(inputs, frames, strict=True):
        body, middle = ends_of(item.text, layout.max_tokens, keep_head=layout.keep_head)
        if layout.keep_head:
            # Such text was learned in one piece: a line break in front of the code can merge with the head's.
            head, body, tail = "", head + body + ("" if middle else tail), ""
        for texts, text in ((heads, head), (bodies, body), (tails, tail), (skipped, middle)):
            texts.append(text)
    parts = [tokenize(tokenizer, texts) for texts in (heads, bodies, tails)]
    encoded = EncodedTexts([], [])
    for item, limit, head, body, tail, middle in zip(inputs, limits, *parts, skipped, strict=True):
        ids, lost = replace(layout, max_tokens=limit).join(
            head, body, tail, source=item.source, always_cut=bool(middle)
        )
        encoded.input_ids.append(ids)
        encoded.truncated_tokens.append(lost + (len(tokenize(tokenizer, [middle])[0]) if middle else 0))
    return encoded


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
        cut: Token ids in place of the code left out.
        start: Token ids before everything.
        keep_head: Leave out the end of what is too long instead of the code's middle, and tokenise it in one piece: how
            published checkpoints were trained.
    """

    max_tokens: int
    end: tuple[int, ...]
    cut: tuple[int, ...]
    start: tuple[int, ...] = ()
    keep_head: bool = False

    @classmethod
    def of(cls, tokenizer: Any, max_tokens: int) -> "InputLayout":
        """The layout that the tokenizer was saved with (`input_layout`), or else what its special tokens allow."""
        own = getattr(tokenizer, "init_kwargs", {}).get("input_layout")
        if own is not None:
            return cls(max_tokens, tuple(own["end"]), (), tuple(own["start"]), own["keep"] == "head")
        cut = tokenizer.convert_tokens_to_ids(_CUT_TOKEN)
        end = tokenizer.eos_token_id
        return cls(max_tokens, () if end is None else (end,), () if cut in (None, tokenizer.unk_token_id) else (cut,))

    def join(
        self,
        head: Sequence[int],
        body: Sequence[int],
        tail: Sequence[int] = (),
        *,
        source: str,
        always_cut: bool = False,
    ) -> tuple[list[int], int]:
        """Header, code (cut where it is too long), what a template puts behind it, and end; and how many were left out.

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
            lost, body, tail = max(0, len(body) - room), body[:room], ()
        elif len(body) > room or always_cut:
            keep = min(room - len(self.cut), len(body))
            first = (keep + 1) // 2
            lost = len(body) - keep
            body = [*body[:first], *self.cut, *body[len(body) - (keep - first) :]]
        return [*self.start, *head, *body, *tail, *self.end], lost


__all__ = [
    "LANGUAGES",
    "CodeInput",
    "EncodedTexts",
    "InputLayout",
    "assembly_listing",
    "context_lines",
    "encode_inputs",
    "ends_of",
    "format_header",
    "frame",
    "metric_groups",
    "read_input",
    "tokenize",
]
