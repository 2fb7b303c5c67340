"""One emitter for each language, by name."""

from importlib import import_module

from code_rlm_data.generator.emitters.base import Emitter, Style

_MODULES = (
    "bash",
    "c",
    "cpp",
    "csharp",
    "d",
    "fortran",
    "go",
    "java",
    "javascript",
    "lua",
    "ocaml",
    "pascal",
    "perl",
    "php",
    "python",
    "ruby",
    "rust",
    "scheme",
    "typescript",
)

EMITTERS: dict[str, type[Emitter]] = {
    name: import_module(f"code_rlm_data.generator.emitters.{name}").EMITTER for name in _MODULES
}

__all__ = ["EMITTERS", "Emitter", "Style"]
