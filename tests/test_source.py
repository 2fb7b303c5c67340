"""Numbers in source text: spellings, constant expressions, named constants, allocations."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from code_rlm.source_rlm import SYNTAX, allocated_bytes, canonical_source, constants, tokens, with_kernel_sizes

SPELLINGS = [
    ("cpp", "const int N = 4'000'000;"),
    ("cpp", "const int N = 4e6;"),
    ("cpp", "const int N = 4 * 1000 * 1000;"),
    ("cpp", "const int N = (4 * 1000) * 1000;"),
    ("cpp", "const int N = 0x3d0900;"),
    ("cpp", "#define N 4000000\n"),
    ("cpp", "constexpr long N = 4000000LL;"),
    ("rust", "let N: usize = 4_000_000;"),
    ("java", "final int N = 4_000_000;"),
    ("python", "N = 4 * 10**6\n"),
    ("go", "N := 4_000_000\n"),
    ("ruby", "N = 4_000_000\n"),
    ("lua", "local N = 4 * 10^6"),
    ("javascript", "const N = 4e6;"),
]


@pytest.mark.parametrize(("language", "text"), SPELLINGS)
def test_when_a_constant_is_spelled_in_any_way_then_its_value_is_read(language, text):
    assert constants(text, language) == {"N": 4_000_000}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1 << 22;", "x = 4194304;"),
        ("f(1<<20, 2);", "f(1048576, 2);"),
        ("x = a - 2 + 3;", "x = a - 2 + 3;"),
        ("x = 1 + 2 * n;", "x = 1 + 2 * n;"),
        ("x = n * 2 * 3;", "x = n * 2 * 3;"),
        ("x = 2 * 3 + n;", "x = 6 + n;"),
        ("cout << 1 << 2;", "cout << 1 << 2;"),
        ("x = -2 * 3;", "x = -2 * 3;"),
        ("x = 7 / 2;", "x = 7 / 2;"),
        ("x = 1.5 + 2;", "x = 1.5 + 2;"),
        ("x = 010 + 1;", "x = 010 + 1;"),
        ('s = "1 << 20"; // 4e6', 's = "1 << 20"; // 4e6'),
        ("v = {1'000, 'a', 2};", "v = {1000, 'a', 2};"),
        ("x = 5000000000u;", "x = 5000000000u;"),
    ],
)
def test_when_an_expression_is_constant_then_it_is_folded_and_nothing_else_is(text, expected):
    assert canonical_source(text, "cpp") == expected


def test_when_a_name_changes_later_then_it_is_no_constant():
    for change in ("n += 1;", "n++;", "n = 6;", "cin >> n;", 'scanf("%d", &n);', "for (n = 0;;) {}"):
        assert "n" not in constants(f"int n = 5; {change}", "cpp"), change
    assert constants("int n = 5; int m = n * n;", "cpp") == {"n": 5, "m": 25}


@given(st.integers(0, 10**15), st.sampled_from(["c", "cpp", "java", "python", "rust", "go", "javascript"]))
def test_when_a_plain_decimal_is_read_then_the_text_stays(number, language):
    text = f"x = {number};"
    assert canonical_source(text, language) == text
    assert [token.value for token in tokens(text, language) if token.value is not None] == [number]


@given(st.text(alphabet="0123456789abcxe_'\".+-*/<>()[]{}=#;,\n \\", max_size=200), st.sampled_from(sorted(SYNTAX)))
def test_when_a_text_is_garbage_then_it_is_read_once_and_for_all(text, language):
    once = canonical_source(text, language)
    allocated_bytes(text, language)
    pieces = tokens(once, language)
    assert all(a.end <= b.start for a, b in pairwise(pieces))


def test_when_a_text_is_long_then_reading_it_takes_linear_time():
    random.seed(0)
    text = "".join(random.choice(["(", "1 + ", "1 << ", "'", '"', "x", "[0] * ", "{", "\n"]) for _ in range(100_000))
    for language in ("cpp", "python", "rust"):
        canonical_source(text, language)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("python", "data = [i * 2 for i in range(30_000_000)]", 1_200_000_000),
        ("python", "g = [[0] * 5000 for _ in range(5000)]", 200_040_000),
        ("python", "g = [[0] * 5000] * 5000", 40_000),
        ("cpp", "vector<vector<long long>> a(5000, vector<long long>(5000));", 200_120_000),
        ("cpp", "const int n = 1000000000; std::vector<long long> a(n);", 8_000_000_000),
        ("rust", "let v = vec![1u64; 4_000_000];", 32_000_000),
        ("rust", "let v = vec![0u64; 4_000_000];", 0),
        ("java", "long[][] d = new long[5000][4000];", 160_000_000),
        ("javascript", "const a = new Array(5e6).fill(0);", 40_000_000),
        ("cpp", "int a[1000000];", 0),
        ("cpp", "if (x > 5) {\n    vector<int> a(1000000);\n}", 0),
        ("python", "if x:\n    a = [0] * 1000000\n", 0),
    ],
)
def test_when_allocations_have_a_constant_size_then_what_is_written_counts(language, text, expected):
    assert allocated_bytes(text, language) == expected


TEST = """
import torch

def kernel(x):
    out = torch.empty((x.shape[0], 2), device=x.device)

def test():
    rows, cols = 512, 1 << 12
    x = torch.randn(rows, cols, device="cuda")
    w = torch.zeros((cols,), device="cuda")
    k = torch.randint(0, 9, (2 * rows,), device="cuda")
    x = torch.randn(7, 7)
"""


@pytest.mark.parametrize(
    "value", ["4096x512, 512", "(4096, 512), (512,)", "[[4096, 512], [512]]", "4096 X 512, 512", " 4096\u00d7512, 512"]
)
@pytest.mark.parametrize("key", ["input_size", "input_shapes", "Sizes", "shape"])
def test_when_the_size_of_a_kernel_is_given_then_every_spelling_is_the_same(key, value):
    context = (f"{key}: {value}", "gpu: H100")
    assert with_kernel_sizes(context, TEST) == ("input_size: 4096x512, 512", "gpu: H100")


def test_when_no_size_of_a_kernel_is_given_then_its_file_states_it():
    assert with_kernel_sizes(("gpu: H100",), TEST) == ("input_size: 512x4096, 4096, 1024", "gpu: H100")
    without = TEST.replace("512, 1 << 12", "read()")
    assert with_kernel_sizes(("gpu: H100",), without.split("x = torch.randn(7")[0]) == ("gpu: H100",)
    assert with_kernel_sizes((), "no python (") == ()


@pytest.mark.parametrize("value", ["2x4, value=2.5, scalar", "value=16, value=[1, 2]", "[1x2, 3], 4"])
def test_when_a_size_is_written_as_in_training_then_it_stays(value):
    assert with_kernel_sizes((f"input_size: {value}",), "") == (f"input_size: {value}",)
