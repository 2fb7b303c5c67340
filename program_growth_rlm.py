"""What a program keeps: containers that grow, maps that are stored to, objects and texts."""

import math

from .program_facts_rlm import COPIES, GROWS, GROWS_BY_INDEX, MOST, PASSES, STORES, TEXT_MAKERS
from .program_loops_rlm import Loops
from .program_text_rlm import STRING


class Growth(Loops):
    """A program, and what grows in it."""

    def _add(self, part: str, size: float, at: int, elements: float = 0.0) -> None:
        """Adds bytes to an amount; those under a condition are kept apart."""
        size = min(max(size, 0.0), MOST)
        amounts = self.amounts
        if part == "array_bytes" and self.blocks[self.block_of[at]].conditional:
            amounts["conditional_bytes"] = max(amounts["conditional_bytes"], size)
            return
        amounts[part] += size
        if part != "untouched_bytes":
            amounts["largest_bytes"] = max(amounts["largest_bytes"], size)
            amounts["elements"] += elements

    def _kept(self, at: int) -> float:
        """How many copies of what is allocated at a token are kept: inside comprehensions, other allocations and growth."""
        block = self.blocks[self.block_of[at]]
        kept = block.kept
        if block.weight > max(kept, 1.0) and self._is_kept(at):
            kept = block.weight
        return kept

    def _is_kept(self, at: int, depth: int = 0) -> bool:
        """Whether what is made at a token outlives the loop around: it is stored, linked, or its name goes elsewhere."""
        if self._is_stored(at):
            return True
        line = self.outline.starts[self.outline.lines[at]]
        if "return" in self.texts[max(line, at - 8) : at]:
            return depth == 0 and self._result_is_kept()
        equals = next(
            (back for back in range(at - 1, max(line - 1, at - 16), -1) if self.text(back) in ("=", ":=")), -1
        )
        if equals < 0:
            return self.outline.outer[at] >= 0 and self.text(self.outline.outer[at]) in ("(", "[")
        name_at = self._assigned(equals)
        name = self.text(name_at)
        if self.text(name_at - 1) in (".", "->"):
            return True
        end = min(self.outline.statement_end(equals + 1), self.outline.line_end(equals), equals + 40)
        if name in self.texts[equals + 1 : end]:
            return True  # head = new Node(x, head)
        block = self.blocks[self.block_of[at]]
        for place in range(end, min(block.last, end + 200)):
            if (
                self.text(place) == name
                and self.text(place + 1) in (")", ",", ";", "}")
                and self.text(place - 1) in PASSES
            ):
                return True
        return False

    def _name_is_kept(self, made: int) -> bool:
        """Whether a container that is bound at a token in a loop is kept there, such as a row that is added to rows."""
        if self.blocks[self.block_of[made]].weight <= 1:
            return False
        if made not in self.kept_at:
            self.kept_at[made] = self._is_kept(made + 1)
        return self.kept_at[made]

    def _result_is_kept(self) -> bool:
        """Whether a call of the present function stores its result."""
        source = self.routines[self.now].source
        if source is None or len(self.texts) > 20_000:
            return True
        calls = [
            at
            for at in self.called_at.get(source.name, ())[:6]
            if self.now == 0 or not source.body[0] <= at < source.body[1]
        ]
        return not calls or any(self._is_kept(at, 1) for at in calls)

    def _is_stored(self, at: int) -> bool:
        """Whether what a token begins is stored in a container: `a[i] = ...`, `rows.append(...)`."""
        around = self.outline.outer[at]
        for _ in range(3):
            if around < 0:
                break
            if self.text(around) == "(" and self.text(around - 1) in GROWS:
                return True
            around = self.outline.outer[around]
        line = self.outline.starts[self.outline.lines[at]] if at < len(self.outline.lines) else at
        for back in range(at, max(at - 16, line - 1, 0), -1):
            if self.text(back) in ("=", ":=", "<-"):
                return self.text(back - 1) in ("]", ")")
        return False

    def _growth(self, name: str, at: int) -> float:
        """How many elements a container grows by at a token: the loops around, without those around its making."""
        block = self.blocks[self.block_of[at]]
        made = self.made_at.get(name)
        calls = 1.0
        if made is not None and self.blocks[self.block_of[made]].function == block.function:
            outer = 1.0 if self._name_is_kept(made) else self.blocks[self.block_of[made]].weight
            if name in self._returned():
                calls = min(self.routines[self.now].calls, 1e12)
        else:
            outer = 1.0
            routine = self.routines[self.now]
            calls = min(routine.calls * routine.recursion, 1e12)
        if not block.known and block.kind == "loop":
            self.amounts["unknown_growth"] += 1
        return min(block.weight / max(outer, 1.0) * calls, 1e12)

    def _grow(self, at: int) -> None:
        """`a.append(x)` and its kin, `a = append(a, x)` of Go, `push @a, x` of Perl, `Hashtbl.replace h k v` of OCaml."""
        language, called, word = self.language, self.text(at + 1), self.text(at)
        if self.outline.starts_line(at + 1) and self.facts.newline_ends:
            return
        if language == "ocaml":
            self._grow_ocaml(at)
            return
        arguments = at + 2
        if language == "go" and word == "append" and called == "(":
            name_at = at + 2
            arguments = self.outline.closing[name_at] + 2
            if self.text(at + 3) == "[":
                self._grow_row(at, self.text(name_at), arguments)
                return
        elif language == "perl" and word in ("push", "unshift"):
            name_at = at + 1 + (called == "(")
            while self.text(name_at) in ("{", "@"):
                name_at += 1
            arguments = name_at + 2
        elif self.text(at - 1) in (".", "->", "::", "?.") and called in ("(", "!"):
            name_at = at - 2
            if self.text(name_at) == "]":
                self._grow_row(at, self.text(self.outline.opening[name_at] - 1), arguments)
                return
            if self.text(name_at) == "table" and language == "lua":
                name_at = at + 2
                arguments = name_at + 2
        elif language == "ruby" and self.text(at - 1) == ".":
            name_at, arguments = at - 2, at + 1
        else:
            return
        name = self.text(name_at)
        if self.kinds.get(name) == "map" and word not in ("append", "push", "push_back", "replace"):
            end = self.outline.closing[at + 1] if called == "(" else at + 12
            self._further(name, min(self._growth(name, at), self._distinct(arguments, end)), at, arguments)
        elif word not in ("set", "setdefault", "entry", "merge", "computeIfAbsent", "getOrPut", "replace"):
            self._hold(name, self._growth(name, at), at, self._extra(arguments))

    def _grow_row(self, at: int, name: str, arguments: int) -> None:
        """`rows[i].append(x)`: the rows grow by so many in all."""
        count = self._growth(name, at)
        self.rows[name] = self.rows.get(name, 0.0) + count / max(self.sizes.get(name, 1.0), 1.0)
        size = self.element.get(name, 0)
        plain = self.facts.slot + self._extra(arguments)
        self._add("grown_bytes", count * (1.5 * size if 0 < size < 24 else plain), at, count)

    def _grow_ocaml(self, at: int) -> None:
        module = self.text(at - 2)
        if self.text(at - 1) != "." or not module[:1].isupper() or module in ("List", "Array"):
            return
        name = next((text for text in self.texts[at + 1 : at + 4] if text in self.kinds), module)
        if module == "Buffer":
            self._add("string_bytes", self._growth(name, at), at)
        elif module in ("Queue", "Stack"):
            self._hold(name, self._growth(name, at), at)
        else:
            self.kinds[name] = "map"
            self._hold(name, min(self._growth(name, at), self._distinct(at + 1, at + 3)), at)

    def _extra(self, at: int) -> float:
        """Bytes of an element beside its slot, by what the expression that begins at a token makes."""
        end = at
        scripted = self.facts.boxed > 0 or self.facts.token_ns >= 1
        texts = []
        for _ in range(12):
            if (
                end >= len(self.texts)
                or self.text(end) in (")", ";", ",")
                or (end > at and self.outline.starts_line(end))
            ):
                break
            texts.append(self.text(end))
            end = self.outline.closing[end] + 1
        if (
            STRING in texts
            or any(text in TEXT_MAKERS for text in texts)
            or self.kinds.get(texts[0] if texts else "") == "string"
        ):
            return 48.0
        if texts[:1] in (["["], ["("]) and scripted:
            return 56.0 + 8.0 * len(self.outline.split(at + 1, self.outline.closing[at]))
        if texts[:1] == ["{"] or "new" in texts or any(text[:1].isupper() and text in self.by_class for text in texts):
            return 0.0  # an object, which counts by itself
        return float(self.facts.boxed)

    def _hold(self, name: str, count: float, at: int, extra: float | None = None) -> None:
        """Adds elements to a container, each with some bytes beside its slot."""
        kind = self.kinds.get(name, "")
        facts = self.facts
        if kind != "string":
            self.sizes[name] = max(self.sizes.get(name, 0.0), count)
        if kind == "string" or self.text(at) == "push_str":
            length = self.values[at + 2] if self.text(at + 2) == STRING else 1 if "Byte" in self.text(at) else 4
            self.sizes[name] = count * float(length or 1)
            self._add("string_bytes", count * float(length or 1), at)
        elif self.text(at) in ("write", "Append", "WriteByte", "WriteString", "WriteRune"):
            return
        elif kind == "map":
            self._add(
                "map_bytes", count * (facts.entry + (extra if extra is not None and extra >= 48 else 0.0)), at, count
            )
        else:
            if name in self.element:
                size = float(self.element[name]) + (extra if extra is not None and extra >= 48 else 0.0)
            else:
                size = facts.slot + (facts.boxed if extra is None else extra)
            self._add("grown_bytes", count * size, at, count)

    def _store(self, at: int) -> None:
        """`d[key] = x`, `a[] = x`, `a[#a + 1] = x`, `$h{key} = x`: growth where the container grows by an index."""
        close = at - 1
        perl_hash = self.language == "perl" and self.text(close) == "}"
        if self.text(close) != "]" and not perl_hash:
            return
        opened = self.outline.opening[close]
        name = self.text(opened - 1 - (self.text(opened - 1) == "->"))
        appends = close == opened + 1 or self.text(opened + 1) == "#"
        if name == "]" and self.language in GROWS_BY_INDEX:
            self._store_row(at, self.text(self.outline.opening[opened - 1] - 1))
            return
        if self.kinds.get(name) == "map" or perl_hash:
            self.kinds[name] = "map"
            self._further(name, min(self._growth(name, at), self._distinct(opened + 1, close)), at, opened + 1)
        elif appends and self.language in ("php", "lua"):
            self._hold(name, self._growth(name, at), at, self._extra(at + 1))
        elif (
            self.language in GROWS_BY_INDEX
            and name not in self.fixed
            and (name in self.made_at or (self.language in ("perl", "bash") and name[:1].isalpha()))
        ):
            variable = self._loop_of(opened + 1)
            limit = self._distinct(opened + 1, close)
            if variable is not None and close == opened + 2:
                limit = variable.high + 1
            elif variable is not None and "*" not in self.texts[opened:close]:
                limit = min(limit, variable.high + 2)
            count = min(self._growth(name, at), limit)
            if (
                variable is None
                and self.language in ("lua", "php", "javascript", "typescript")
                and name not in self.sizes
            ):
                self.kinds[name] = "map"
            self._further(name, count, at)

    def _store_row(self, at: int, name: str) -> None:
        """`rows[i][j] = x`, where rows grow by an index."""
        count = self._growth(name, at)
        if (
            (name in self.made_at or self.language == "perl")
            and name not in self.fixed
            and self.rows.get(name, 0.0) * self.sizes.get(name, 1.0) < count
        ):
            self.rows[name] = count / max(self.sizes.get(name, 1.0), 1.0)
            self._add("grown_bytes", count * self.facts.slot, at, count)

    def _further(self, name: str, count: float, at: int, key: int = 0) -> None:
        """Adds the elements of a container that it does not hold yet."""
        known = self.sizes.get(name, 0.0)
        if count > known:
            self._hold(name, count - known, at, self._extra(key or at + 1))
            self.sizes[name] = count

    def _distinct(self, first: int, last: int) -> float:
        """How many values a key can have that is written between two tokens."""
        limit = math.inf
        for at in range(first, min(last, first + 24)):
            if self.text(at) in ("%", "mod", "rem"):
                modulus = self._operand(at + 1, 0)[0]
                limit = modulus if modulus else limit
        if last - first == 1 or self.text(first + 1) == ",":
            limit = min(limit, self.limits.get(self.text(first), math.inf))
        return limit

    def _shift(self, at: int) -> None:
        """`a << x` of Ruby, `a ~= x` of D."""
        if self.language == "ruby" or self.text(at) == "~=":
            name = self.text(at - 1)
            if name[:1].isalpha() and not (
                self.values[at + 1] is not None and self.text(at - 1) not in self.made_at
                if at + 1 < len(self.values)
                else True
            ):
                self._hold(name, self._growth(name, at), at)

    def _make_object(self, at: int, name: str, fields: int = 0) -> None:
        """An object or node that is made again and again."""
        count = self._times(at)
        if count < 2:
            return
        facts = self.facts
        self.amounts["objects"] += count
        if self.blocks[self.block_of[at]].weight > 1 or self.routines[self.now].recursion == 1:
            leaks = self.language in ("c", "cpp") and self.text(at) == "new"
            if not leaks and not self._is_kept(at):
                return
        fields = fields or self.by_class.get(name, 2)
        self._add("object_bytes", count * (facts.object + fields * facts.field), at, count)

    def _bound_to(self, at: int) -> str:
        """The name that is bound to what begins at a token."""
        line = self.outline.starts[self.outline.lines[at]]
        for back in range(at - 1, max(line - 1, at - 14), -1):
            if self.text(back) in ("=", ":="):
                return self.text(self._assigned(back))
        return ""

    def _returned(self) -> set[str]:
        """Names that functions return."""
        if not hasattr(self, "_returned_names"):
            self._returned_names = {
                self.texts[at + 1]
                for at, text in enumerate(self.texts[:-1])
                if text == "return" and self.texts[at + 1][:1].isalpha()
            }
        return self._returned_names

    def _is_written(self, name: str) -> bool:
        return bool(name) and name in self._indexed_names()

    def _indexed_names(self) -> set[str]:
        """Names whose elements are stored to in a loop."""
        if not hasattr(self, "_stored_names"):
            self._stored_names: set[str] = set()
            outline = self.outline
            for at, text in enumerate(self.texts):
                if text == "]" and outline.opening[at] != at and self.text(at + 1) in STORES:
                    begin = outline.opening[at]
                    while self.text(begin - 1) == "]" and outline.opening[begin - 1] != begin - 1:
                        begin = outline.opening[begin - 1]
                    self._stored_names.add(self.text(begin - 1))
        return self._stored_names

    def _grow_string(self, name: str, at: int) -> None:
        """`s += "x"`."""
        total = self._written(name, at, at + 1)
        if self.language in COPIES:
            self.amounts["copied_bytes"] += min(total * self._growth(name, at) / 2, MOST)

    def _print_into(self, at: int) -> None:
        """`fmt.Fprintf(&b, "x%d", i)` into a builder."""
        if self.text(at + 1) != "(" or self.text(at + 2) != "&" or self.text(at + 4) != ",":
            return
        if self.kinds.get(self.text(at + 3)) == "string":
            self._written(self.text(at + 3), at, at + 5)

    def _written(self, name: str, at: int, written: int) -> float:
        """Adds to a text what is written to it at a token; returns the characters."""
        length = self.values[written] if self.text(written) == STRING else 4
        total = self._growth(name, at) * float(length or 1)
        self.sizes[name] = max(total, self.sizes.get(name, 0.0))
        self._add("string_bytes", total, at)
        return total


__all__ = ["Growth"]
