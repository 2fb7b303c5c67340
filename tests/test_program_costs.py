"""What a program's text says about its work and memory."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from code_rlm.program_costs_rlm import PROGRAM_COSTS, program_costs
from code_rlm.program_text_rlm import LANGUAGES, Outline

# Language, program, iterations of its loops, bytes that it holds.
PROGRAMS = [
    ("python", 'a = "AB" * 500\nt = [0] * (len(a) + 24)\nfor x in range(len(a)):\n    pass\n', 1000, 8192),
    (
        "rust",
        "fn main() { let rows: Vec<(u32, u32)> = (0..500).map(|i| (i, i)).collect(); "
        "let t = vec![vec![1u64; 4000]; rows.len()]; }",
        500,
        1.6e7,
    ),
    (
        "go",
        'package main\nimport ("fmt"; "strings")\nfunc main() {\n\tvar b strings.Builder\n\tfor i := 0; i < 1000000; i++ {\n'
        '\t\tfmt.Fprintf(&b, "k%d;", i)\n\t}\n\tfmt.Println(b.Len())\n}\n',
        1e6,
        6e6,
    ),
    ("bash", "n=5000\na=($(seq 1 $n))\ndeclare -A m\nfor x in $(seq 1 $n); do\n  m[$x]=1\ndone\n", 5000, 8e5),
    (
        "fortran",
        "program p\n  integer, parameter :: n = 1000\n  real(8) :: a(n, n), b(0:n)\n  integer, dimension(n) :: c\n"
        "  integer :: i\n  do i = 1, n\n    c(i) = i\n  end do\nend program\n",
        1000,
        8e6 + 8008 + 4000,
    ),
    (
        "haskell",
        "main = do\n  let n = 1000 :: Int\n  let a = V.replicate n (0 :: Int)\n"
        "  let m = M.fromList [(i, i + 1) | i <- [1 .. n]]\n  print (M.size m)\n",
        1000,
        8000 + 72000,
    ),
    ("python", "a = [i * i for i in range(20_000_000)]", 2e7, 8.2e8),
    (
        "python",
        "total = sum(x * x for x in range(50_000_000) if x % 3 == 0)\nprint(total)",
        5e7,
        0,
    ),
    (
        "python",
        "cache = {}\nfor i in range(1, 2_000_001):\n    cache[i] = i * i\n",
        2e6,
        2e8,
    ),
    (
        "python",
        "n = 300\nc = [[0.0] * n for _ in range(n)]\nfor i in range(n):\n    for j in range(n):\n        c[i][j] = 1\n",
        90000,
        720000,
    ),
    (
        "python",
        "def solve(n):\n"
        "    s = 0\n"
        "    for i in range(n):\n"
        "        for j in range(i):\n"
        "            s += j\n"
        "    return s\n"
        "solve(2000)\n",
        2e6,
        0,
    ),
    (
        "python",
        "import sys\nn = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000\ni = 0\nwhile i < n:\n    i += 1\n",
        1e6,
        0,
    ),
    (
        "python",
        "import numpy as np\nx = np.ones((4000, 4000), dtype=np.float32)\n",
        0,
        6.4e7,
    ),
    (
        "cpp",
        "int main() { vector<vector<long long>> a(5000, vector<long long>(5000)); for (auto& r : a) for "
        "(auto& v : r) v = 1; }",
        2.5e7,
        2e8,
    ),
    (
        "cpp",
        "int main() { unsigned x = 1; for (long i = 0; i < 10000000000L; i++) x = x * 3u; }",
        1e10,
        0,
    ),
    (
        "cpp",
        "const int N = 5005;\n"
        "int dp[N][N];\n"
        "int main() { for (int i = 1; i <= 5000; i++) for (int j = 1; j <= 5000; j++) dp[i][j] = i; }",
        2.5e7,
        1e8,
    ),
    (
        "cpp",
        "bool p(int n) { for (int i = 2; i * i <= n; i++) if (n % i == 0) return false; return true; }\n"
        "int main() { for (int i = 0; i < 3000000; i++) p(i); }",
        3.7e9,
        0,
    ),
    (
        "c",
        "typedef struct node { int v; struct node *next; } node;\n"
        "int main(void) { node *head = NULL; for (int i = 0; i < 3000000; i++) { node *n = malloc(sizeof "
        "*n); n->next = head; head = n; } for (node *p = head; p; p = p->next) i++; }",
        6e6,
        9.6e7,
    ),
    (
        "c",
        "#define N 2000\n"
        "int main() { double **m = malloc(N * sizeof(double *)); for (int i = 0; i < N; i++) { m[i] = "
        "malloc(N * sizeof(double)); for (int j = 0; j < N; j++) m[i][j] = i; } }",
        4e6,
        3.2e7,
    ),
    (
        "java",
        "public class Main { public static void main(String[] a) { List<Integer> l = new ArrayList<>(); for "
        "(int i = 0; i < 5_000_000; i++) { l.add(i); } for (int x : l) s += x; } }",
        1e7,
        1.1e8,
    ),
    (
        "java",
        "class A { static void main() { for (long i = 0; i < 80_000_000; i++) { Point p = new Point(i); s += "
        "p.x; } } }",
        8e7,
        0,
    ),
    (
        "javascript",
        "const n = 2000;\n"
        "let g = Array.from({ length: n }, () => new Array(n).fill(0));\n"
        "for (let i = 0; i < n; i++) g[i][i] = 1;\n",
        4000,
        3.2e7,
    ),
    (
        "typescript",
        "const m: Map<number, number> = new Map();\nfor (let i = 0; i < 1e6; i++) m.set(i, i);\n",
        1e6,
        6e7,
    ),
    (
        "go",
        "package main\n"
        "func main() {\n"
        "\tm := make(map[int]int)\n"
        "\tfor i := 0; i < 1000000; i++ {\n"
        "\t\tm[i] = i\n"
        "\t}\n"
        "}\n",
        1e6,
        4e7,
    ),
    (
        "rust",
        "fn main() {\n"
        "    let v: Vec<u64> = (0..5_000_000).map(|i| i * 3).collect();\n"
        "    for x in 1..=200_000_000u64 { s += x; }\n"
        "}",
        2.05e8,
        5e7,
    ),
    (
        "ruby",
        "squares = (1..1_000_000).map { |i| i * i }\n1000.times do |i|\n  500.times { |j| i * j }\nend\n",
        1.5e6,
        9e6,
    ),
    (
        "csharp",
        "class P { static void Main() { var d = new List<double>(); for (int i = 0; i < 4000000; i++) "
        "d.Add(i); long[,] g = new long[1500, 1500]; } }",
        4e6,
        5.8e7,
    ),
    (
        "kotlin",
        "fun main() {\n    val a = IntArray(5_000_000)\n    repeat(10) { for (i in 0 until 1000) { a[i] += i } }\n}\n",
        10000,
        2e7,
    ),
    (
        "php",
        "<?php\n"
        "$data = [];\n"
        "for ($i = 0; $i < 1000000; $i++) {\n"
        "    $data[] = $i * 2;\n"
        "}\n"
        "foreach ($data as $v) { $s += $v; }\n",
        2e6,
        2e7,
    ),
    (
        "haskell",
        "main :: IO ()\nmain = do\n  let n = 5000000\n  print (foldl' (+) 0 [1..n])\n",
        5e6,
        0,
    ),
    (
        "bash",
        "for ((i=0; i<100000; i++)); do\n  s=$((s + i))\ndone\nfor x in $(seq 1 500); do\n  echo $x\ndone\n",
        100500,
        0,
    ),
    (
        "fortran",
        "program p\n"
        "  integer, parameter :: n = 2000\n"
        "  allocate(a(n,n))\n"
        "  do j = 1, n\n"
        "    do i = 1, n\n"
        "      a(i,j) = i\n"
        "    end do\n"
        "  end do\n"
        "end program\n",
        4e6,
        3.2e7,
    ),
    (
        "pascal",
        "const N = 3000;\n"
        "var a: array[1..3000, 1..3000] of Integer;\n"
        "begin\n"
        "  for i := 1 to N do\n"
        "    for j := 1 to N do begin\n"
        "      a[i, j] := i;\n"
        "    end;\n"
        "end.\n",
        9e6,
        3.6e7,
    ),
    (
        "perl",
        "my @list;\nfor my $i (1 .. 500000) {\n    push @list, $i * 2;\n}\n",
        500000,
        1.7e7,
    ),
    (
        "lua",
        "local m = {}\nfor i = 1, 400 do\n  m[i] = {}\n  for j = 1, 400 do\n    m[i][j] = i * j\n  end\nend\n",
        160000,
        3.2e6,
    ),
    (
        "ocaml",
        "let () =\n  let a = Array.make 3_000_000 0 in\n  for i = 0 to 2_999_999 do a.(i) <- i done\n",
        3e6,
        2.4e7,
    ),
    (
        "scheme",
        "(define v (make-vector 1000000 0))\n"
        "(do ((i 0 (+ i 1))) ((= i 1000000)) (vector-set! v i i))\n"
        "(let loop ((i 0)) (if (< i 500000) (loop (+ i 1))))\n",
        1.5e6,
        8e6,
    ),
    ("d", "void main() { auto a = new int[](3); foreach (i; 0 .. 200_000) x += i; }", 200000, 0),
]


@pytest.mark.parametrize(("language", "text", "iterations", "held"), PROGRAMS)
def test_when_a_program_names_its_sizes_then_work_and_memory_follow(language, text, iterations, held):
    costs = program_costs(text, language)
    assert costs["iterations"] == pytest.approx(iterations, rel=0.35, abs=2)
    assert costs["held_bytes"] == pytest.approx(held, rel=0.35, abs=5e4)


# Language, program, iterations of its loops, bytes that it holds: sizes are lengths of texts and of what was collected.
LENGTHS = [
    (
        "python",
        'a = "ACGTTGCA" * 150\nb = "TGCATGCC" * 150\ntable = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]\n'
        "for i in range(1, len(a) + 1):\n    for j in range(1, len(b) + 1):\n        table[i][j] = 1\n",
        1.44e6,
        1.15e7,
    ),
    ("python", 'word = "hello world"\nfor c in word:\n    print(c)\n', 11, 0),
    (
        "rust",
        "fn main() {\n    let items: Vec<(usize, u64)> = (1..=400).map(|i| (i, i as u64)).collect();\n"
        "    let mut best = vec![vec![0u64; 50_001]; items.len() + 1];\n"
        "    for i in 0..items.len() { for c in 0..50_001 { best[i][c] = 1; } }\n}",
        2e7,
        1.6e8,
    ),
    ("rust", 'fn main() { let a = "ab".repeat(1000); let dp = vec![vec![0u32; a.len() + 1]; a.len() + 1]; }', 0, 1.6e7),
    (
        "java",
        'class M { void f() { String a = "ab".repeat(1000); int[][] dp = new int[a.length()][a.length()]; } }',
        0,
        1.6e7,
    ),
    (
        "cpp",
        "int main() { string a(2000, 'x'); vector<vector<int>> dp(a.size() + 1, vector<int>(a.size() + 1)); }",
        0,
        1.6e7,
    ),
    (
        "go",
        'func main() {\n\ta := strings.Repeat("ab", 1000)\n\tdp := make([]int, len(a)*1000)\n\tdp[0] = 1\n}',
        0,
        1.6e7,
    ),
    # A word for every six characters; words repeat.
    (
        "python",
        'text = "the quick brown fox " * 60_000\ncounts = {}\nfor w in text.split():\n    counts[w] = counts.get(w, 0) + 1\n',
        2e5,
        1.3e7,
    ),
    (
        "go",
        'func main() {\n\tvar b strings.Builder\n\tfor i := 0; i < 600_000; i++ {\n\t\tfmt.Fprintf(&b, "word%d ", i)\n\t}\n'
        "\tcounts := map[string]int{}\n\tfor _, w := range strings.Fields(b.String()) {\n\t\tcounts[w]++\n\t}\n}",
        1.3e6,
        2.3e7,
    ),
    ("javascript", 'const a = "ab".repeat(1000);\nfor (let i = 0; i < a.length; i++) f(i);\n', 2000, 2000),
    ("php", '<?php\n$a = str_repeat("ab", 1000);\nfor ($i = 0; $i < strlen($a); $i++) { echo $i; }\n', 2000, 2000),
    ("lua", 'local a = string.rep("ab", 1000)\nfor i = 1, #a do print(i) end\n', 2000, 2000),
    ("ruby", 'a = "ab" * 1000\na.length.times { |i| puts i }\n', 2000, 2000),
    ("csharp", "var a = new string('x', 2000); for (int i = 0; i < a.Length; i++) { }", 2000, 2000),
    ("c", 'int main(void) { char *a = "hello world"; for (size_t i = 0; i < strlen(a); i++) { } }', 11, 0),
    ("kotlin", 'fun main() { val a = "ab".repeat(1000); for (i in 0 until a.length) { println(i) } }', 2000, 2000),
    ("perl", 'my $a = "ab" x 1000;\nfor my $i (0 .. length($a) - 1) { print $i; }\n', 2000, 2000),
]


@pytest.mark.parametrize(("language", "text", "iterations", "held"), LENGTHS)
def test_when_sizes_are_lengths_of_texts_and_containers_then_work_and_memory_follow(language, text, iterations, held):
    costs = program_costs(text, language)
    assert costs["iterations"] == pytest.approx(iterations, rel=0.05, abs=1)
    assert costs["held_bytes"] == pytest.approx(held, rel=0.1, abs=100)


def test_when_every_language_has_a_layout_then_one_is_in_the_table():
    assert {language for language, *_ in PROGRAMS} >= set(LANGUAGES) - {
        "cuda",
        "triton",
        "swift",
        "scala",
        "julia",
        "lisp",
    }


@pytest.mark.parametrize("spelled", ["4000000", "4'000'000", "4e6", "1 << 22", "4 * 1000 * 1000", "0x3d0900"])
def test_when_a_bound_is_spelled_differently_then_the_amounts_agree(spelled):
    text = "const int N = {}; int main() {{ vector<int> a(N); for (int i = 0; i < N; i++) a[i] = i; }}"
    plain, other = program_costs(text.format("4000000"), "cpp"), program_costs(text.format(spelled), "cpp")
    for name in ("iterations", "held_bytes", "largest_nest"):
        assert other[name] == pytest.approx(plain[name], rel=0.06) and plain[name] > 1e6


def test_when_a_function_calls_itself_then_branching_argument_and_calls_are_read():
    fib = program_costs(
        "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\nfib(38)\n", "python"
    )
    assert (fib["recursion_branching"], fib["recursion_argument"], fib["remembers"]) == (2, 38, 0)
    assert fib["recursion_calls"] == pytest.approx(1.618**38, rel=0.1)
    memo = program_costs(
        "@lru_cache\ndef fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\nfib(300)\n", "python"
    )
    assert memo["remembers"] == 1 and memo["recursion_calls"] == pytest.approx(300, rel=0.1)
    hanoi = program_costs("void h(int n) { if (n) { h(n - 1); h(n - 1); } }\nint main() { h(20); }", "c")
    assert hanoi["recursion_calls"] == pytest.approx(2**20, rel=0.1)
    sort = "void s(int l, int r) { if (r - l < 2) return; int m = (l + r) / 2; s(l, m); s(m, r); LOOP }\n"
    loop = "for (int i = l; i < r; i++) t[i] = 0;"
    merge = program_costs(sort.replace("LOOP", loop) + "int main() { s(0, 1000000); }", "cpp")
    assert 1e6 < merge["iterations"] < 1e8  # n log n, not n * n


def test_when_loops_halve_or_square_then_they_are_short():
    halving = program_costs("int main() { for (long i = 1; i < 1000000; i *= 2) x++; }", "c")
    assert halving["iterations"] == pytest.approx(20, abs=2)
    root = program_costs("int main() { for (long i = 1; i * i <= 1000000; i++) x++; }", "c")
    assert root["iterations"] == pytest.approx(1000, rel=0.01)


def test_when_the_text_does_not_say_a_number_then_the_loop_is_unknown():
    costs = program_costs("n = int(input())\nfor i in range(n):\n    for x in data:\n        a.append(i)\n", "python")
    assert (costs["unknown_loops"], costs["unknown_depth"], costs["reads_input"], costs["unknown_growth"]) == (
        2,
        2,
        1,
        1,
    )
    assert costs["iterations"] < 100


def test_when_memory_is_reserved_only_then_it_is_untouched():
    costs = program_costs('int main() { long *p = calloc(1000000, sizeof(long)); printf("%p", p); }', "c")
    assert costs["untouched_bytes"] == 8e6 and costs["held_bytes"] == 0
    written = program_costs(
        "int main() { long *p = calloc(1000000, sizeof(long)); for (int i = 0; i < 9; i++) p[i] = 1; }", "c"
    )
    assert written["array_bytes"] == 8e6


def test_when_a_branch_never_runs_then_it_costs_nothing():
    text = "x = 0\nif x > 5:\n    x = x + 1\n    a = [0] * 100000000\n    for i in range(100000000):\n        x += i\n"
    assert program_costs(text, "python")["iterations"] < 1
    assert program_costs(text.replace("x > 5", "x < 5"), "python")["iterations"] >= 1e8


def test_when_keys_repeat_then_a_map_holds_the_distinct_ones():
    text = "d = {}\nfor i in range(1000000):\n    d[i % 1000] = i\n"
    assert program_costs(text, "python")["map_bytes"] == pytest.approx(1e5, rel=0.1)


def test_when_comments_and_strings_hold_code_then_it_does_not_count():
    text = "# for i in range(10**9): pass\ns = 'for i in range(10**9): pass'\n"
    assert program_costs(text, "python")["iterations"] == 0


def test_when_a_number_grows_then_amounts_grow_with_it():
    text = "int main() {{ vector<int> a; for (int i = 0; i < {0}; i++) a.push_back(i); }}"
    small, large = (program_costs(text.format(n), "cpp") for n in (10**5, 10**7))
    for name in ("work", "iterations", "grown_bytes", "step_ns"):
        assert large[name] == pytest.approx(100 * small[name], rel=0.01)


def test_outline_when_a_comprehension_nests_then_both_loops_have_its_body():
    outline = Outline("x = [i * j for i in range(3) for j in range(4)]\n", "python")
    assert [head.kind for head in outline.heads] == ["comprehension"] * 2
    assert len({head.body for head in outline.heads}) == 1


PIECES = [
    *"()[]{};:,.=<>+-*/%'\"#|&\n ",
    *"for in range 1..9 if def f(n): n.times x 10 => -> vec! malloc append let f( while (define new A \t é \\".split(
        " "
    ),
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=80),
    st.sampled_from(sorted(LANGUAGES)),
)
def test_when_a_text_is_no_program_then_amounts_are_finite(parts, language):
    costs = program_costs(" ".join(parts), language)
    assert tuple(costs) == PROGRAM_COSTS
    assert all(math.isfinite(amount) and amount >= 0 for amount in costs.values())


@given(st.text(max_size=200), st.sampled_from([*sorted(LANGUAGES), "klingon"]))
@settings(max_examples=40, deadline=None)
def test_when_a_text_is_any_text_then_it_is_read(text, language):
    assert set(program_costs(text, language)) == set(PROGRAM_COSTS)


@pytest.mark.parametrize("language", sorted({language for language, *_ in PROGRAMS}))
def test_when_a_program_is_cut_anywhere_then_it_is_read(language):
    text = next(text for each, text, *_ in PROGRAMS if each == language)
    for end in range(0, len(text), 5):
        program_costs(text[:end], language)
        program_costs(text[end:], language)


@pytest.mark.parametrize("part", ["for (", "x = [", "a[i] = ", "0..", "f(", "def f(n): return f(n-1)\n"])
def test_when_a_text_doubles_then_its_time_does_not_grow_by_much_more(part):
    def seconds(length: int) -> float:
        start = time.process_time()
        program_costs(part * (length // len(part)), "python")
        return time.process_time() - start

    seconds(2000)
    assert seconds(32_000) < 8 * seconds(8000) + 1.0  # 16 times in quadratic time
