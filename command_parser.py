"""The parser of every command: jsonargparse, with dashes and underscores alike, suggestions, and errors of one line."""

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import NoReturn

import jsonargparse

from code_rlm.errors_rlm import RLMError


class UsageError(RLMError):
    """Arguments that a command does not take."""


class HelpFormatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the line breaks of descriptions and epilogues as they are written, and empty defaults out."""

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        return re.sub(r" \(default: (null|False|\[\]|\{\})\)|, default: (null|\[\]|\{\})(?=\))", "", text)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean NAME?` for the known name that is nearest, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


class CommandParser(jsonargparse.ArgumentParser):
    """A parser of one command.

    Options are written with dashes; underscores are accepted. A switch that takes true or false may stand without a value.

    Args:
        command: Name of the command after `code-rlm`; empty for `code-rlm` itself.
        description: Text above the options.
        usage: The usage line, where the automatic one would be too long.
        epilog: Text below the options.
    """

    def __init__(self, command: str, description: str = "", usage: str | None = None, epilog: str | None = None):
        super().__init__(
            prog=f"code-rlm {command}".strip(),
            description=description,
            usage=usage,
            epilog=epilog,
            formatter_class=HelpFormatter,
            exit_on_error=False,
        )

    def parse(self, argv: Sequence[str], namespace: jsonargparse.Namespace | None = None) -> jsonargparse.Namespace:
        """Returns the parsed arguments.

        Args:
            argv: Arguments of the command.
            namespace: Values that stand where no argument gives another.

        Raises:
            UsageError: An unknown option, or a value that it does not take.
        """
        return self.parse_args(self.canonical(argv), namespace=namespace)

    def canonical(self, argv: Sequence[str]) -> list[str]:
        """Returns arguments with options spelled as they were added, and switches with their value.

        Raises:
            UsageError: An unknown option.
        """
        known = self._option_string_actions
        result: list[str] = []
        for position, token in enumerate(argv):
            if token == "--":
                return [*result, *argv[position:]]
            if not token.startswith("--"):
                result.append(token)
                continue
            name, equals, value = token.partition("=")
            name = name.replace("_", "-")
            if name not in known:
                raise UsageError(f"There is no option {name}.{suggestion(name, known)} See {self.prog} --help.")
            follows = argv[position + 1] if position + 1 < len(argv) else "--"
            if not equals and follows.startswith("-") and self._is_switch(known[name]):
                equals, value = "=", "true"
            result.append(name + equals + value)
        return result

    @staticmethod
    def _is_switch(action: argparse.Action) -> bool:
        """Whether an option is true or false, so that its name alone means true."""
        return getattr(action, "_typehint", None) in (bool, bool | None)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises what argparse would print and exit with."""
        text = " ".join(message.split())
        # The library names Python's classes and its own keys; people know options and types.
        text = re.sub(r'Parser key "([\w.]+)":', lambda found: f"--{found[1].replace('_', '-')}:", text)
        text = re.sub(r"Expected a <class '(\w+)'>\. Got value:", r"must be \1, got", text)
        text = re.sub(r"Not of type \w+: (\S+) does not conform to restriction v", r"\1 must be ", text)
        raise UsageError(f"{text}; see {self.prog} --help.") from ex


__all__ = ["CommandParser", "UsageError", "suggestion"]
