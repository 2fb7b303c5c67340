"""Words and sizes by which programs of all languages are read (`program_costs_rlm.py`)."""

import re

MOST = 1e18  # of an amount
UNKNOWN_COUNT = 4.0  # iterations of a loop that the text says nothing about
DEPTH = 16  # of parentheses in an expression, and of functions that call each other
# Operators of estimated expressions.
PRECEDENCE = {
    "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6, "**": 8, "<<": 4, ">>": 4, ">>>": 4, "^": 8, "^^": 8, "mod": 6,
    "div": 6, "rem": 6, "shl": 4, "shr": 4, "lsl": 7, "lsr": 7, "quot": 6, "ushr": 4,
}  # fmt: skip
# Functions and types that leave a number as it is.
SAME = frozenset(
    "int long float double floor ceil round trunc abs Number Int int64 uint64 int32 i64 u64 usize i32 u32 f64 "
    "size_t to_i fromIntegral fabs Fix truncate float64 isize integer int64_t uint64_t int32_t Int64 unsigned "
    "char short ll toInt toLong BigInt parseInt".split()
)
# What stands before the name of a function.
PREFIXES = frozenset("Math math std np numpy self this Int64 f64 f32 i64 i32 u64 usize cmath Array List torch".split())
# Members and functions that give a size.
# Functions that repeat a text: `str_repeat("x", n)`, `string.rep("x", n)`, `strings.Repeat("x", n)`.
REPEATS = frozenset("str_repeat rep Repeat".split())
# Methods and functions that cut a text into words, and the characters of a word with the space behind it.
SPLITS = frozenset("split Split Fields split_whitespace split_ascii_whitespace explode".split())
WORD_CHARACTERS = 6.0
VOCABULARY = 10.0  # Heaps' law: a text of n words has about 10 sqrt(n) different ones
# Go's functions that print into a builder: `fmt.Fprintf(&b, "x%d", i)`.
PRINTS_INTO = frozenset("Fprintf Fprint Fprintln".split())
LENGTHS = frozenset("length size len count Length Count Len n_elem size_of".split())
# Comparisons, 1 where the left side is the smaller one.
COMPARISONS = {
    "<": 1,
    "<=": 1,
    "!=": 1,
    "~=": 1,
    "/=": 1,
    "<>": 1,
    "!==": 1,
    ">": -1,
    ">=": -1,
    "-lt": 1,
    "-le": 1,
    "-gt": -1,
}
# Languages in which `=` compares, too.
EQUAL_COMPARES = frozenset({"pascal", "ocaml", "haskell"})
# Comparisons that hold for equal numbers.
INCLUSIVE = frozenset({"<=", ">=", "-le", "-ge"})
# Operators that change a name.
UPDATES = frozenset({"+=", "-=", "*=", "/=", "//=", ">>=", "<<=", "++", "--", "%=", "**="})
# Bytes of an element by the name of its type. Names that several languages share have one size in all of them.
SIZES = {
    "bool": 1, "boolean": 1, "byte": 1, "char": 1, "i8": 1, "u8": 1, "int8_t": 1, "uint8_t": 1, "int8": 1,
    "uint8": 1, "Boolean": 1, "Byte": 1, "shortint": 1, "ubyte": 1, "sbyte": 1, "Uint8Array": 1, "Int8Array": 1,
    "BooleanArray": 1, "ByteArray": 1, "logical": 4, "short": 2, "i16": 2, "u16": 2, "int16_t": 2, "uint16_t": 2,
    "int16": 2, "uint16": 2, "smallint": 2, "word": 2, "ushort": 2, "Int16Array": 2, "Uint16Array": 2,
    "ShortArray": 2, "CharArray": 2, "wchar_t": 4, "float16": 2, "int": 4, "unsigned": 4, "float": 4, "i32": 4,
    "u32": 4, "f32": 4, "int32_t": 4, "uint32_t": 4, "int32": 4, "uint32": 4, "float32": 4, "rune": 4, "longint": 4,
    "integer": 4, "real": 4, "single": 4, "cardinal": 4, "uint": 4, "Int32Array": 4, "Uint32Array": 4,
    "Float32Array": 4, "IntArray": 4, "FloatArray": 4, "dword": 4, "long": 8, "double": 8, "i64": 8, "u64": 8,
    "f64": 8, "usize": 8, "isize": 8, "int64_t": 8, "uint64_t": 8, "size_t": 8, "int64": 8, "uint64": 8,
    "float64": 8, "ll": 8, "ull": 8, "ulong": 8, "uintptr": 8, "qword": 8, "Float64Array": 8, "BigInt64Array": 8,
    "LongArray": 8, "DoubleArray": 8, "extended": 10, "complex": 16, "complex128": 16, "u128": 16, "i128": 16,
    "SplFixedArray": 16, "string": 32, "String": 24, "Integer": 4, "Long": 4, "Double": 4,
}  # fmt: skip
# Type codes of the array module of Python.
ARRAY_CODES = {
    "b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "f": 4, "u": 4, "l": 8, "L": 8, "q": 8, "Q": 8, "d": 8,
}  # fmt: skip
# Methods and functions by which a container grows.
GROWS = frozenset(
    "WriteByte WriteString WriteRune Append write append push push_back emplace_back add Add insert put enqueue "
    "Enqueue push_front appendleft addLast addFirst offer emplace unshift Push AddLast AddFirst push_str "
    "array_push insertBack add_last append_list addElement TryAdd AddOrSetValue set setdefault insertFirst "
    "insert_back prepend conj entry merge computeIfAbsent putIfAbsent try_emplace getOrPut replace".split()
)
# Maps and sets.
MAPS = frozenset(
    "dict map set unordered_map unordered_set HashMap HashSet TreeMap TreeSet LinkedHashMap Map Set Dictionary "
    "SortedDictionary BTreeMap BTreeSet defaultdict Counter Hash multiset multimap hash mutableMapOf mutableSetOf "
    "hashMapOf hashSetOf Hashtbl TDictionary SortedSet OrderedDict frozenset SplObjectStorage make-hash-table "
    "LinkedHashSet hashSet WeakMap SortedMap".split()
)
# Lists and arrays.
LISTS = frozenset(
    "vector Vec List ArrayList LinkedList Array ArrayDeque deque list VecDeque [ mutableListOf Queue Stack".split()
)
# Texts.
STRINGS = frozenset(
    "string String str StringBuilder StringBuffer Builder strings Buffer bytearray AnsiString stringstream "
    "ostringstream".split()
)
# Functions that give a text.
TEXT_MAKERS = frozenset(
    "str format String to_string toString sprintf Itoa to_s FormatInt Sprintf fmt concat chr tostring".split()
)
# Sorts.
SORTS = frozenset(
    "sort sorted stable_sort qsort Sort sort_by sort_unstable sorted_by sortBy usort Slice Ints sort! OrderBy "
    "sortWith sort_unstable_by rsort ksort asort sortedBy parallelSort make_heap heapify nth_element sort_by_key "
    "heapsort".split()
)
# Modules of Python that take long to import.
HEAVY = frozenset(
    "numpy pandas scipy torch tensorflow sklearn matplotlib sympy cv2 jax PIL networkx requests asyncio "
    "multiprocessing decimal fractions dataclasses typing collections functools".split()
)
# What reads the input.
INPUTS = frozenset(
    "input scanf cin stdin Scanner readline ReadLine gets readLine STDIN fgets read_line bufio getline readln".split()
)
# Names of the next node of a list.
NEXT = frozenset("next Next rest cdr tail tl List nxt link".split())
# Names that say that a recursion keeps its results.
MEMORY = frozenset(
    "memo cache lru_cache dp memoize _cache table Cacheable memo_table seen tabulate unordered_map HashMap".split()
)
# Words before the name of a type.
CLASS_WORDS = frozenset({"class", "struct", "record", "type"})
# Functions that run though the text does not call them.
CALLED_BY_OTHERS = frozenset(
    "main init constructor run tostring compareto compare hashcode equals call apply start setup initialize".split()
)
# Names of functions by which a container of the program's own grows.
OWN_GROWTH = re.compile(r"push|append|insert|enqueue|add|put|grow|store", re.IGNORECASE)
# Arrays that may be made by a function of the index.
CELLS = frozenset("Array List MutableList init IntArray LongArray DoubleArray BooleanArray CharArray".split())
# Operators that store to an element.
STORES = frozenset({"=", "+=", "++", "-=", "*=", "|=", "^=", ":=", "<-"})
# Functions that go over a whole container.
BULK = frozenset(
    "memset memcpy memmove sum accumulate iota fill max min max_element min_element reverse partial_sum Count".split()
)
# Functions of numpy that take a shape.
SHAPES = frozenset(
    "zeros ones empty full rand randn random randint eye identity linspace zeros_like normal uniform".split()
)
# Those that only reserve memory.
UNTOUCHED = frozenset({"zeros", "empty"})
# Methods that go over a container.
ITERATES = frozenset(
    "map forEach filter reduce each select reject inject each_with_index flat_map flatMap fold any all for_each "
    "Select Where Sum sum each_slice each_cons collect sumOf mapIndexed forEachIndexed iter into_iter Aggregate "
    "every some find max min iteri mapi".split()
)
# Types whose `new` is no object that is kept.
NO_OBJECTS = ("Array", "Vec", "VecDeque", "Random", "Mutex", "Vector", "Box", "Rc", "Arc", "BinaryHeap")
# Languages whose lists grow by a store behind their end.
GROWS_BY_INDEX = frozenset({"lua", "php", "javascript", "typescript", "ruby", "perl", "bash"})
# Languages in which `s += x` copies all of s.
COPIES = frozenset({"go", "java", "csharp", "kotlin", "lua", "pascal"})
# What stands before a name that is passed on.
PASSES = frozenset({"(", ",", "=", "<-", ":=", "return", "{", "[", ":"})
# Languages whose `map` makes a list.
EAGER = frozenset({"ruby", "javascript", "typescript", "kotlin", "scala", "swift", "perl"})
# Languages in which a literal in braces or brackets is an object.
LITERAL_OBJECTS = frozenset({"javascript", "typescript", "lua", "perl", "python", "ruby", "php"})
# Functions that make vectors.
SCHEME_VECTORS = (
    "make-vector",
    "make-string",
    "make-bytevector",
    *(f"make-{kind}vector" for kind in ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64")),
)
# Arrays of numbers of JavaScript and Kotlin.
TYPED_ARRAYS = tuple(name for name in SIZES if name.endswith("Array"))
# Methods whose argument stands for a value that is missing.
DEFAULTS = frozenset("unwrap_or unwrap_or_else getOrElse orElse getOrDefault".split())
# Operators of ranges.
DOTS = ("..", "...", "..=", "..<", "until", "downTo")

__all__ = [
    "ARRAY_CODES",
    "BULK",
    "CALLED_BY_OTHERS",
    "CELLS",
    "CLASS_WORDS",
    "COMPARISONS",
    "COPIES",
    "DEFAULTS",
    "DEPTH",
    "DOTS",
    "EAGER",
    "EQUAL_COMPARES",
    "GROWS",
    "GROWS_BY_INDEX",
    "HEAVY",
    "INCLUSIVE",
    "INPUTS",
    "ITERATES",
    "LENGTHS",
    "LISTS",
    "LITERAL_OBJECTS",
    "MAPS",
    "MEMORY",
    "MOST",
    "NEXT",
    "NO_OBJECTS",
    "OWN_GROWTH",
    "PASSES",
    "PRECEDENCE",
    "PREFIXES",
    "PRINTS_INTO",
    "REPEATS",
    "SAME",
    "SCHEME_VECTORS",
    "SHAPES",
    "SIZES",
    "SORTS",
    "SPLITS",
    "STORES",
    "STRINGS",
    "TEXT_MAKERS",
    "TYPED_ARRAYS",
    "UNKNOWN_COUNT",
    "UNTOUCHED",
    "UPDATES",
    "VOCABULARY",
    "WORD_CHARACTERS",
]
