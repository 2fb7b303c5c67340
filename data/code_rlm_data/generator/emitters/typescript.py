"""TypeScript: the JavaScript of `javascript`, with types."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import Lines, Target, Value
from code_rlm_data.generator.emitters.javascript import _TYPED, JavaScript


class TypeScript(JavaScript):
    language = "typescript"
    sure = "!"

    def colon(self, type: ir.Type) -> str:
        return f": {type}"

    def ambient(self) -> list[str]:
        return []

    def field(self, name: str, type: ir.Type) -> str:
        return f"{name}: {type};"

    def type_text(self, type: ir.Type) -> str:
        if type.kind in ("int", "long"):
            return "number"
        if type.form == "typed":
            return _TYPED[type.elem]
        if type.kind in ("arr", "vec"):
            return "number[]"
        if type.form == "rows":
            return "Uint8Array[]"
        if type.kind in ("mat", "jag"):
            return "number[][]"
        if type.kind == "map":
            return "Record<number, number>" if type.form == "object" else "Map<number, number>"
        if type.kind in ("smap", "set", "deque", "str", "strs"):
            return {"smap": "Map<string, number>", "set": "Set<number>", "deque": "Queue"}.get(
                type.kind, "string" if type.kind == "str" else "string[]"
            )
        name = self.cell_type(type.kind)
        if self.formed(ir.Type(type.kind)).form == "object":
            fields = ("value", "next") if type.kind == "list" else ("left", "value", "right")
            lines = [f"  {each}: {'number' if each == 'value' else f'{name} | null'};" for each in fields]
            self.need(f"{name} type", "\n".join([f"interface {name} {{", *lines, "}"]))
        return f"{name} | null"

    def let(self, name: str, type: ir.Type, value: Value) -> None:
        word = "let" if name in self.varying else self.pick("const", "const", "const", "let")
        self.put(f"{word} {self.v(name)}{self.colon(self.type_text(type))} = {value};")

    def vec_pop(self, a: Target) -> Lines:
        return f"{a}.pop()!"


EMITTER = TypeScript
