"""Templates: the whole text that a model reads for one metric, where that is not this package's own header.

    "# Language: {language}\\n{text}"
    "{space}\\n\\n{onnx}"

One placeholder stands for the code: `{text}`, or `{onnx}` for a graph that was printed elsewhere (this package's own print of a
graph is another text, which such a model has never seen). `{language}` is the language's name as people write it, and any other
placeholder is filled from the context line of that name. `{{` and `}}` stand for braces.
"""

from collections.abc import Mapping
from string import Formatter

from .errors_rlm import InputError, MetricError

CODE_PLACEHOLDERS = ("text", "onnx")

# Kinds of input whose name as a word differs from the kind's with a capital letter: the names that CodeNet gives them.
LANGUAGE_NAMES = {
    "cpp": "C++", "csharp": "C#", "fsharp": "F#", "javascript": "JavaScript", "typescript": "TypeScript", "ocaml": "OCaml",
    "php": "PHP", "cobol": "COBOL", "visualbasic": "Visual Basic",
}  # fmt: skip
_PLAIN_KINDS = (
    "ada awk bash c clojure crystal d dart elixir erlang fortran go groovy haskell java julia kotlin lisp lua nim octave "
    "pascal perl prolog python r racket ruby rust scala scheme swift vim"
)
LANGUAGE_NAMES.update({kind: kind.capitalize() for kind in _PLAIN_KINDS.split()})


def template_parts(template: str, metric: str) -> list[tuple[str, str | None]]:
    """Pieces of a template, each text and the placeholder behind it (None at the end).

    Raises:
        MetricError: Not a template; the message says what one looks like.
    """
    try:
        parts = [(text, name, spec, conversion) for text, name, spec, conversion in Formatter().parse(template)]
    except ValueError as error:
        raise MetricError(f"{metric}: the template {template!r} cannot be read: {error}.") from None
    if wrong := [name for _, name, spec, conversion in parts if name is not None and (spec or conversion)]:
        raise MetricError(f"{metric}: {{{wrong[0]}}} in the template takes neither a format nor a conversion.")
    names = [name for _, name, _, _ in parts if name is not None]
    if wrong := [name for name in names if not name.isidentifier()]:
        raise MetricError(f"{metric}: {{{wrong[0]}}} is not a placeholder. Use one word, such as {{language}}.")
    if sum(name in CODE_PLACEHOLDERS for name in names) != 1:
        raise MetricError(
            f"{metric}: a template holds the code once, as {{text}} or {{onnx}}, got {template!r}. Write for example "
            "'# Language: {language}\\n{text}'."
        )
    return [(text, name) for text, name, _, _ in parts]


def fill_template(
    template: str, metric: str, language: str | None, context: Mapping[str, str], *, printed: bool = False
) -> tuple[str, str]:
    """What stands before and behind the code.

    Args:
        template: See the module.
        metric: Whose it is, for messages.
        language: Kind of input or name of a language.
        context: Values of the other placeholders.
        printed: Whether the code is this package's own print of an ONNX graph.

    Raises:
        InputError: A placeholder without a value, or a context line that the template has no place for.
    """
    sides, side, used = ["", ""], 0, set()
    for text, name in template_parts(template, metric):
        sides[side] += text
        if name in CODE_PLACEHOLDERS:
            if name == "onnx" and printed:
                raise InputError(
                    f"{metric} was trained on ONNX graphs printed by its authors, not on this package's print of them. Pass "
                    "the printed graph as text, with language='onnx'."
                )
            side = 1
        elif name == "language":
            if not language:
                raise InputError(
                    f"{metric} needs the language, which the text does not tell: pass language=..., such as 'cpp' or 'C++', "
                    "or a file with a known suffix."
                )
            sides[side] += LANGUAGE_NAMES.get(language, language)
        elif name is not None:
            if name not in context:
                raise InputError(f"{metric} needs {name!r}: pass context={{{name!r}: ...}}.")
            sides[side] += context[name]
            used.add(name)
    if unused := [name for name in context if name not in used]:
        raise InputError(
            f"{metric} reads a fixed text, which has no place for the context {unused}. Leave it out; it names "
            f"{sorted(used) or 'no context'}."
        )
    return sides[0], sides[1]


__all__ = ["CODE_PLACEHOLDERS", "LANGUAGE_NAMES", "fill_template", "template_parts"]
