"""C: malloc and calloc, growing arrays, open hashing and rings written out as people do."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, Lines, Target, Value
from code_rlm_data.generator.emitters.braces import Braces, assembled

_ELEM = {"u8": "unsigned char", "i32": "int", "i64": "long long", "f64": "double"}


class C(Braces):
    language = "c"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion"})
    forms = {"mat": ("flat", "rows"), "map": ("open", "chained"), "set": ("open",)}
    max_depth = 60_000
    speed = 1_000_000
    start_ms = 2.0
    bytes_of = {"map.open": 48, "map.chained": 64, "smap": 96, "set": 26, "deque": 16, "str": 2, "strs": 40}
    bytes_of |= {"list": 32, "tree": 32, "call": 96, "vec": 16, "jag": 16, "row": 32}
    case = "snake"
    cast_int = "(int)"
    cast_long = "(long long)"

    def text(self) -> str:
        functions, main = self.written()
        self.imports |= {"<stdio.h>", "<stdlib.h>"}
        spell = "#define {} {}" if self.pick("constants", 0, 1) else "static const int {} = {};"
        constants = [spell.format(self.v(name), value) for name, value in self.program.constants]
        includes = [f"#include {each}" for each in sorted(self.imports)]
        helpers = [text.split("\n") for text in self.snippets.values()]
        return assembled(
            [*self.title(), *includes],
            constants,
            *helpers,
            functions,
            ["int main(void) {", *main, "    return 0;", "}"],
        )

    def type_text(self, type: ir.Type) -> str:
        if type.kind == "arr":
            return f"{_ELEM[type.elem]} *"
        if type.kind == "mat":
            return f"{_ELEM[type.elem]} *" + ("*" if type.form == "rows" else "")
        if type.kind == "list":
            self.cells()
            return "struct cell *"
        if type.kind == "tree":
            self.trees()
            return "struct tree *"
        if type.kind == "int":
            return "int"
        return {"long": "long long"}.get(type.kind) or f"{self.struct(type)} *"

    def declare(self, type: ir.Type, name: str, value: str) -> str:
        text = self.type_text(type)
        return f"{text}{'' if text.endswith('*') else ' '}{name} = {value};"

    def parameter(self, name: str, type: ir.Type, changes: bool) -> str:
        text = self.type_text(type)
        return f"{text}{'' if text.endswith('*') else ' '}{self.v(name)}"

    def head(self, function: ir.Function, parameters: str) -> str:
        text = self.type_text(function.result_type)
        return f"static {text}{'' if text.endswith('*') else ' '}{self.f(function.name)}({parameters or 'void'})"

    def narrow(self, value: Value) -> Value:
        return Value(value, ir.INT, value.level) if self.pick("narrow", 1, 0) else super().narrow(value)

    def show(self, value: Value) -> None:
        self.put(f'printf("%lld\\n", {self.as_long(value)});')

    def free(self, a: Target) -> str | list[str] | None:
        if a.type.kind in ("arr", "str"):
            return f"free({a});" if a.type.kind == "arr" else f"free({a}->data);"
        if a.type.kind == "vec":
            return f"free({a}->data);"
        return None

    # Arrays

    def plain(self, value: Value) -> Value:
        return value

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        elem = _ELEM[a.elem]
        if fill == "0" and self.pick("calloc", 1, 1, 0):
            return f"{elem} *{a} = calloc({size}, sizeof({elem}));"
        at = self.fresh("q")
        return [
            f"{elem} *{a} = malloc(sizeof({elem}) * {size.atom});",
            f"for (int {at} = 0; {at} < {size}; {at}++) {a}[{at}] = {fill};",
        ]

    def arr_get(self, a: Target, i: Value) -> str:
        return f"(long long){a}[{i}]" if a.elem == "f64" else f"{a}[{i}]"

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}] = {value};"

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        self.imports.add("<string.h>")
        elem = _ELEM[a.elem]
        return [
            f"{elem} *{a} = malloc(sizeof({elem}) * {size.atom});",
            f"memcpy({a}, {source}, sizeof({elem}) * {size.atom});",
        ]

    def arr_sort(self, a: Target) -> Lines:
        elem = _ELEM[a.elem]
        self.need(
            f"order {a.elem}",
            f"""
static int order_{a.elem}(const void *x, const void *y) {{
    {elem} a = *(const {elem} *)x, b = *(const {elem} *)y;
    return (a > b) - (a < b);
}}""",
        )
        return f"qsort({a}, {self.sizes[a.name]}, sizeof({elem}), order_{a.elem});"

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        elem = _ELEM[a.elem]
        at = self.fresh("q")
        k = self.fresh("q")
        self.sizes[a.name] = columns
        if a.form == "rows":
            lines = [
                f"{elem} **{a} = malloc(sizeof({elem} *) * {rows.atom});",
                f"for (int {at} = 0; {at} < {rows}; {at}++) {{",
            ]
            if fill == "0":
                return [*lines, f"    {a}[{at}] = calloc({columns}, sizeof({elem}));", "}"]
            lines.append(f"    {a}[{at}] = malloc(sizeof({elem}) * {columns.atom});")
            return [*lines, f"    for (int {k} = 0; {k} < {columns}; {k}++) {a}[{at}][{k}] = {fill};", "}"]
        size = f"(size_t){rows.atom} * {columns.atom}"
        if fill == "0":
            return f"{elem} *{a} = calloc({size}, sizeof({elem}));"
        return [
            f"{elem} *{a} = malloc(sizeof({elem}) * {size});",
            f"for (size_t {at} = 0; {at} < {size}; {at}++) {a}[{at}] = {fill};",
        ]

    def cell(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}[{i}][{j}]" if a.form == "rows" else f"{a}[{i.atom} * {self.sizes[a.name].atom} + {j}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return f"(long long){self.cell(a, i, j)}" if a.elem == "f64" else self.cell(a, i, j)

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} = {value};"

    # Structures written out

    def struct(self, type: ir.Type) -> str:
        """Returns the name of a container's structure, and add it to the file."""
        if type.kind == "vec":
            return self.vector(type.elem)
        if type.kind == "jag":
            return self.vector(type.elem)
        return getattr(self, f"_{type.kind}")(type)

    def vector(self, elem: str) -> str:
        text = _ELEM[elem]
        name = f"vec_{elem}"
        self.need(
            name,
            f"""
typedef struct {{
    {text} *data;
    int size, room;
}} {name};

static void {name}_push({name} *v, {text} x) {{
    if (v->size == v->room) {{
        v->room = v->room ? v->room * 2 : {self.pick("room", 4, 8, 16)};
        v->data = realloc(v->data, sizeof({text}) * v->room);
    }}
    v->data[v->size++] = x;
}}""",
        )
        return name

    def vec_new(self, a: Target) -> Lines:
        name = self.vector(a.elem)
        box = self.fresh("box")
        return [f"{name} {box} = {{0}};", f"{name} *{a} = &{box};"]

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"{self.vector(a.elem)}_push({a}, {value});"

    def vec_pop(self, a: Target) -> Lines:
        return f"{self.load(a)}{a}->data[--{a}->size]"

    def load(self, a: Target) -> str:
        return "(long long)" if a.elem == "f64" else ""

    def vec_get(self, a: Target, i: Value) -> str:
        return f"{self.load(a)}{a}->data[{i}]"

    def vec_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}->data[{i}] = {value};"

    def vec_len(self, a: Target) -> str:
        return f"{a}->size"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        name = self.vector(a.elem)
        return f"{name} *{a} = calloc({rows}, sizeof({name}));"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{self.vector(a.elem)}_push(&{a}[{i}], {value});"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"{a}[{i}].size"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return f"{self.load(a)}{a}[{i}].data[{j}]"

    def _map(self, type: ir.Type) -> str:
        if type.form == "chained":
            self.need(
                "map",
                """
struct entry {
    long long key, value;
    struct entry *next;
};

typedef struct {
    struct entry **slots;
    int room, size;
} map;

static map *map_new(void) {
    map *m = calloc(1, sizeof(map));
    m->room = 64;
    m->slots = calloc(m->room, sizeof(struct entry *));
    return m;
}

static struct entry *map_find(map *m, long long key) {
    struct entry *e = m->slots[(unsigned long long)key % m->room];
    while (e && e->key != key) e = e->next;
    return e;
}

static long long *map_at(map *m, long long key) {
    struct entry *e = map_find(m, key);
    if (e) return &e->value;
    if (m->size >= m->room) {
        int room = m->room * 2;
        struct entry **slots = calloc(room, sizeof(struct entry *));
        for (int i = 0; i < m->room; i++) {
            for (struct entry *p = m->slots[i], *next; p; p = next) {
                next = p->next;
                p->next = slots[(unsigned long long)p->key % room];
                slots[(unsigned long long)p->key % room] = p;
            }
        }
        free(m->slots);
        m->slots = slots;
        m->room = room;
    }
    e = malloc(sizeof(struct entry));
    e->key = key;
    e->value = 0;
    e->next = m->slots[(unsigned long long)key % m->room];
    m->slots[(unsigned long long)key % m->room] = e;
    m->size++;
    return &e->value;
}

static int map_has(map *m, long long key) {
    return map_find(m, key) != NULL;
}

static long long map_get(map *m, long long key, long long fallback) {
    struct entry *e = map_find(m, key);
    return e ? e->value : fallback;
}""",
            )
        else:
            self.need(
                "map",
                """
typedef struct {
    long long *keys, *values;
    unsigned char *used;
    int room, size;
} map;

static map *map_new(void) {
    map *m = calloc(1, sizeof(map));
    m->room = 64;
    m->keys = malloc(sizeof(long long) * m->room);
    m->values = malloc(sizeof(long long) * m->room);
    m->used = calloc(m->room, 1);
    return m;
}

static int map_slot(map *m, long long key) {
    unsigned long long h = (unsigned long long)key * 11400714819323198485ull;
    int i = (int)(h >> 32) & (m->room - 1);
    while (m->used[i] && m->keys[i] != key) i = (i + 1) & (m->room - 1);
    return i;
}

static long long *map_at(map *m, long long key) {
    int i = map_slot(m, key);
    if (m->used[i]) return &m->values[i];
    if (m->size * 2 >= m->room) {
        map old = *m;
        m->room *= 2;
        m->keys = malloc(sizeof(long long) * m->room);
        m->values = malloc(sizeof(long long) * m->room);
        m->used = calloc(m->room, 1);
        for (int j = 0; j < old.room; j++) {
            if (!old.used[j]) continue;
            int k = map_slot(m, old.keys[j]);
            m->used[k] = 1;
            m->keys[k] = old.keys[j];
            m->values[k] = old.values[j];
        }
        free(old.keys);
        free(old.values);
        free(old.used);
        i = map_slot(m, key);
    }
    m->used[i] = 1;
    m->keys[i] = key;
    m->values[i] = 0;
    m->size++;
    return &m->values[i];
}

static int map_has(map *m, long long key) {
    return m->used[map_slot(m, key)];
}

static long long map_get(map *m, long long key, long long fallback) {
    int i = map_slot(m, key);
    return m->used[i] ? m->values[i] : fallback;
}""",
            )
        return "map"

    def map_new(self, m: Target) -> Lines:
        return f"{self._map(m.type)} *{m} = map_new();"

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"map_get({m}, {key}, {default})"

    def map_has(self, m: Target, key: Value) -> str:
        return f"map_has({m}, {key})"

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"*map_at({m}, {key}) = {value};"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        return f"*map_at({m}, {key}) += {delta};"

    def map_len(self, m: Target) -> str:
        return f"{m}->size"

    def map_each(self, node: ir.Each, m: Target) -> None:
        at = self.fresh("q")
        each = self.v(node.var)
        self.put(f"for (int {at} = 0; {at} < {m}->room; {at}++) {{")
        with self.indented():
            if m.form == "chained":
                self.put(f"for (struct entry *e = {m}->slots[{at}]; e; e = e->next) {{")
                self.depth += 1
                self.put(f"long long {each} = e->value;")
                self.body(node.body)
                self.depth -= 1
                self.put("}")
            else:
                self.put(f"if (!{m}->used[{at}]) continue;", f"long long {each} = {m}->values[{at}];")
                self.body(node.body)
        self.put("}")

    def _smap(self, type: ir.Type) -> str:
        self.imports.add("<string.h>")
        self.need(
            "smap",
            """
struct word {
    char *key;
    long long value;
    struct word *next;
};

typedef struct {
    struct word **slots;
    int room, size;
} smap;

static smap *smap_new(void) {
    smap *m = calloc(1, sizeof(smap));
    m->room = 64;
    m->slots = calloc(m->room, sizeof(struct word *));
    return m;
}

static unsigned smap_hash(const char *key) {
    unsigned h = 2166136261u;
    while (*key) h = (h ^ (unsigned char)*key++) * 16777619u;
    return h;
}

static struct word *smap_find(smap *m, const char *key) {
    struct word *e = m->slots[smap_hash(key) % m->room];
    while (e && strcmp(e->key, key) != 0) e = e->next;
    return e;
}

static void smap_add(smap *m, const char *prefix, long long number, long long delta) {
    char key[64];
    snprintf(key, sizeof key, "%s%lld", prefix, number);
    struct word *e = smap_find(m, key);
    if (e) {
        e->value += delta;
        return;
    }
    if (m->size >= m->room) {
        int room = m->room * 2;
        struct word **slots = calloc(room, sizeof(struct word *));
        for (int i = 0; i < m->room; i++) {
            for (struct word *p = m->slots[i], *next; p; p = next) {
                next = p->next;
                p->next = slots[smap_hash(p->key) % room];
                slots[smap_hash(p->key) % room] = p;
            }
        }
        free(m->slots);
        m->slots = slots;
        m->room = room;
    }
    e = malloc(sizeof(struct word));
    e->key = malloc(strlen(key) + 1);
    strcpy(e->key, key);
    e->value = delta;
    e->next = m->slots[smap_hash(key) % m->room];
    m->slots[smap_hash(key) % m->room] = e;
    m->size++;
}

static long long smap_get(smap *m, const char *prefix, long long number, long long fallback) {
    char key[64];
    snprintf(key, sizeof key, "%s%lld", prefix, number);
    struct word *e = smap_find(m, key);
    return e ? e->value : fallback;
}""",
        )
        return "smap"

    def smap_new(self, m: Target) -> Lines:
        return f"{self._smap(m.type)} *{m} = smap_new();"

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        return f'smap_add({m}, "{prefix}", {value}, {delta});'

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f'smap_get({m}, "{prefix}", {value}, {default})'

    smap_len = map_len

    def smap_each(self, node: ir.Each, m: Target) -> None:
        at = self.fresh("q")
        self.put(f"for (int {at} = 0; {at} < {m}->room; {at}++) {{")
        with self.indented():
            self.put(f"for (struct word *e = {m}->slots[{at}]; e; e = e->next) {{")
            with self.indented():
                self.put(f"long long {self.v(node.var)} = e->value;")
                self.body(node.body)
            self.put("}")
        self.put("}")

    def _set(self, type: ir.Type) -> str:
        self.need(
            "set",
            """
typedef struct {
    long long *keys;
    unsigned char *state;
    int room, size, filled;
} set;

static set *set_new(int room) {
    set *s = malloc(sizeof(set));
    s->keys = malloc(sizeof(long long) * room);
    s->state = calloc(room, 1);
    s->room = room;
    s->size = s->filled = 0;
    return s;
}

static int set_slot(set *s, long long key) {
    int i = (int)((unsigned long long)key * 11400714819323198485ull >> 32) & (s->room - 1);
    while (s->state[i] && !(s->state[i] == 1 && s->keys[i] == key)) i = (i + 1) & (s->room - 1);
    return i;
}

static void set_add(set *s, long long key) {
    int i = set_slot(s, key);
    if (s->state[i] == 1) return;
    if (s->filled * 2 >= s->room) {
        set *wider = set_new(s->room * 2);
        for (int j = 0; j < s->room; j++)
            if (s->state[j] == 1) set_add(wider, s->keys[j]);
        free(s->keys);
        free(s->state);
        *s = *wider;
        free(wider);
        i = set_slot(s, key);
    }
    s->keys[i] = key;
    s->state[i] = 1;
    s->size++;
    s->filled++;
}

static int set_has(set *s, long long key) {
    return s->state[set_slot(s, key)] == 1;
}

static void set_del(set *s, long long key) {
    int i = set_slot(s, key);
    if (s->state[i] != 1) return;
    s->state[i] = 2;
    s->size--;
}""",
        )
        return "set"

    def set_new(self, s: Target) -> Lines:
        return f"{self._set(s.type)} *{s} = set_new({self.pick('room', 16, 64, 256)});"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"set_add({s}, {value});"

    def set_has(self, s: Target, value: Value) -> str:
        return f"set_has({s}, {value})"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"set_del({s}, {value});"

    set_len = map_len

    def _deque(self, type: ir.Type) -> str:
        self.need(
            "queue",
            """
typedef struct {
    long long *data;
    int room, head, size;
} queue;

static void queue_push(queue *q, long long x) {
    if (q->size == q->room) {
        int room = q->room ? q->room * 2 : 16;
        long long *data = malloc(sizeof(long long) * room);
        for (int i = 0; i < q->size; i++) data[i] = q->data[(q->head + i) % q->room];
        free(q->data);
        q->data = data;
        q->room = room;
        q->head = 0;
    }
    q->data[(q->head + q->size++) % q->room] = x;
}

static long long queue_pop(queue *q) {
    long long x = q->data[q->head];
    q->head = (q->head + 1) % q->room;
    q->size--;
    return x;
}""",
        )
        return "queue"

    def deque_new(self, q: Target) -> Lines:
        self._deque(q.type)
        return f"queue *{q} = calloc(1, sizeof(queue));"

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"queue_push({q}, {value});"

    def deque_pop(self, q: Target) -> Lines:
        return f"queue_pop({q})"

    deque_len = map_len

    # Texts

    def _str(self, type: ir.Type) -> str:
        self.need(
            "buffer",
            """
typedef struct {
    char *data;
    int size, room;
} buffer;

static void buffer_add(buffer *b, char c) {
    if (b->size == b->room) {
        b->room = b->room ? b->room * 2 : 64;
        b->data = realloc(b->data, b->room);
    }
    b->data[b->size++] = c;
}""",
        )
        return "buffer"

    def str_new(self, s: Target) -> Lines:
        self._str(s.type)
        return f"buffer *{s} = calloc(1, sizeof(buffer));"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"buffer_add({s}, (char){code.atom});"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        self.need(
            "buffer_number",
            """
static void buffer_number(buffer *b, long long x) {
    char digits[32];
    int n = snprintf(digits, sizeof digits, "%lld", x);
    for (int i = 0; i < n; i++) buffer_add(b, digits[i]);
}""",
        )
        return f"buffer_number({s}, {value});"

    def str_each(self, node: ir.Each, s: Target) -> None:
        at = self.fresh("q")
        self.put(f"for (int {at} = 0; {at} < {s}->size; {at}++) {{")
        with self.indented():
            self.put(f"long long {self.v(node.var)} = {s}->data[{at}];")
            self.body(node.body)
        self.put("}")

    def _strs(self, type: ir.Type) -> str:
        self.imports.add("<string.h>")
        self.need(
            "words",
            """
typedef struct {
    char **data;
    int size, room;
} wordlist;

static void wordlist_push(wordlist *w, const char *prefix, long long x) {
    char text[64];
    int n = snprintf(text, sizeof text, "%s%lld", prefix, x);
    if (w->size == w->room) {
        w->room = w->room ? w->room * 2 : 16;
        w->data = realloc(w->data, sizeof(char *) * w->room);
    }
    w->data[w->size] = malloc(n + 1);
    memcpy(w->data[w->size++], text, n + 1);
}""",
        )
        return "wordlist"

    def strs_new(self, s: Target) -> Lines:
        self._strs(s.type)
        return f"wordlist *{s} = calloc(1, sizeof(wordlist));"

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f'wordlist_push({s}, "{prefix}", {value});'

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        self._str(target.type)
        at = self.fresh("q")
        c = self.fresh("q")
        return [
            f"buffer *{target} = calloc(1, sizeof(buffer));",
            f"for (int {at} = 0; {at} < {source}->size; {at}++) {{",
            f"    if ({at} > 0) buffer_add({target}, '{separator}');",
            f"    for (char *{c} = {source}->data[{at}]; *{c}; {c}++) buffer_add({target}, *{c});",
            "}",
        ]

    # Cells

    def cells(self) -> None:
        self.need(
            "cell",
            """
struct cell {
    long long value;
    struct cell *next;
};

static struct cell *cons(long long value, struct cell *next) {
    struct cell *c = malloc(sizeof(struct cell));
    c->value = value;
    c->next = next;
    return c;
}""",
        )

    def trees(self) -> None:
        self.need(
            "tree",
            """
struct tree {
    struct tree *left, *right;
    long long value;
};

static struct tree *branch(struct tree *left, long long value, struct tree *right) {
    struct tree *t = malloc(sizeof(struct tree));
    t->left = left;
    t->right = right;
    t->value = value;
    return t;
}""",
        )

    def nil(self, kind: str) -> str:
        return "NULL"

    def cons(self, head: Value, tail: Value) -> str:
        self.cells()
        return f"cons({head}, {tail})"

    def node(self, left: Value, value: Value, right: Value) -> str:
        self.trees()
        return f"branch({left}, {value}, {right})"

    def list_some(self, c: Value) -> Value:
        return Value(f"{c} != NULL", level=LOOSE)

    tree_some = list_some

    def list_head(self, c: Value) -> str:
        return f"{c}->value"

    tree_value = list_head

    def list_tail(self, c: Value) -> str:
        return f"{c}->next"

    def tree_left(self, c: Value) -> str:
        return f"{c}->left"

    def tree_right(self, c: Value) -> str:
        return f"{c}->right"


EMITTER = C
