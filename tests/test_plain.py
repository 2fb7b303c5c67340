"""polyglot-range: programs in everyday style that run at any size, spell numbers that mean what they say, and span a range."""

import json
import os
import random
import re
import statistics
import subprocess
import sys
from collections import Counter, defaultdict

import pytest
from datasets import load_dataset

from code_rlm.data.readers import read_task
from code_rlm.data.schema import DataError
from code_rlm_data.measure import TOOLCHAINS, Program, measure_programs
from code_rlm_data.plain import templates
from code_rlm_data.plain.__main__ import LIMITS, TASK, main
from code_rlm_data.plain.declarations import CUSTOMS
from code_rlm_data.plain.generate import samples
from code_rlm_data.plain.names import POOLS, Names
from code_rlm_data.plain.numerals import spell
from code_rlm_data.plain.templates import SHARED, choose, languages, templates_of
from code_rlm_data.plain.writing import MOST_BYTES, MOST_NS, Sizes, draw_sizes, write

MAIN = ("python", "cpp", "c", "java", "javascript", "go", "rust")
QUICK = ("python", "perl", "lua", "ruby", "php", "c", "javascript")

TEXTS = """
import hashlib
from code_rlm_data.plain.generate import samples
texts = [made.text for made in samples(7, 12, ["c", "python", "typescript"])]
digest = hashlib.sha256("".join(texts).encode()).hexdigest()
"""


def skip_without(language):
    missing = TOOLCHAINS[language].missing()
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (data/code_rlm_data/generator/install_toolchains.sh)")


def outcomes(folder):
    """What came of each program, by name, with the end of its output."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return {line["name"]: (line["outcome"], line["detail"]) for line in lines if "key" in line}


def test_when_the_seed_is_the_same_then_so_are_the_texts_in_another_process():
    here = {}
    exec(TEXTS, here)
    command = [sys.executable, "-c", TEXTS + "print(digest)"]
    environment = {**os.environ, "PYTHONHASHSEED": "12"}
    there = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.strip()
    assert there == here["digest"]
    assert [made.text for made in samples(8, 12, ["c"])] != [made.text for made in samples(7, 12, ["c"])]


@pytest.mark.parametrize("language", languages())
def test_when_programs_are_drawn_then_no_hole_is_left_and_no_text_comes_twice(language):
    made = list(samples(3, 150, [language]))
    assert len({each.text for each in made}) == len(made) == 150
    left = re.compile("[«»¦⟦⟧§‹›]")
    assert [each.name for each in made if left.search(each.text)] == []
    assert all(each.group == each.name.split("-")[1] for each in made)
    tasks = {template.task for template in templates_of(language)}
    assert len(tasks) >= (25 if language in MAIN else 6)
    assert all(re.fullmatch(r"[a-z]+/[a-z_]+", task) for task in tasks)


def test_when_a_task_is_in_many_languages_then_its_programs_are_one_group():
    groups = defaultdict(set)
    for language in MAIN:
        for template in templates_of(language):
            groups[template.task].add(language)
    everywhere = [task for task, found in groups.items() if len(found) == len(MAIN)]
    assert len(everywhere) >= 25 and "primes/sieve" in everywhere and "trivial/hello" in everywhere
    assert SHARED["typescript"] == "javascript"
    assert {t.task for t in templates_of("typescript")} == {t.task for t in templates_of("javascript")}
    assert any(": number" in t.text for t in templates_of("typescript"))
    assert not any(": number" in t.text for t in templates_of("javascript"))


@pytest.mark.parametrize("language", MAIN)
def test_when_sizes_are_drawn_then_memory_and_time_span_the_range(language):
    sizes = [made.sizes for made in samples(1, 400, [language])]
    memory = [each.bytes for each in sizes]
    seconds = [each.ns / 1e9 for each in sizes]
    assert max(memory) <= MOST_BYTES and max(seconds) <= MOST_NS / 1e9
    assert sum(each > 3e8 for each in memory) >= 12 and sum(each > 1e9 for each in memory) >= 2
    assert sum(each > 2 for each in seconds) >= 10 and statistics.mean(seconds) < 1.2
    assert statistics.mean(each > 5 for each in seconds) < 0.06
    assert 0.15 < statistics.mean(m < 1e5 and s < 0.005 for m, s in zip(memory, seconds)) < 0.5


def test_when_a_target_is_drawn_then_the_size_keeps_to_it():
    (sieve, *_) = [each for each in templates_of("c") if each.task == "primes/sieve"]
    drawn = [draw_sizes(sieve, random.Random(seed)) for seed in range(300)]
    assert all(each.bytes == sieve.bytes_of(each.n, each.m) for each in drawn)
    assert max(each.n for each in drawn) > 100 * statistics.median(each.n for each in drawn)
    round_ones = [each.n for each in drawn if str(each.n).rstrip("0") != str(each.n) or each.n & (each.n - 1) == 0]
    assert len(round_ones) > 150
    (hello, *_) = [each for each in templates_of("c") if each.task == "trivial/hello"]
    assert draw_sizes(hello, random.Random(0)).ns == 0


PRINTERS = {
    "python": "print({})",
    "c": "#include <stdio.h>\nint main(void) {{\n{}\n}}\n",
    "cpp": "#include <iostream>\nint main() {{\n{}\n}}\n",
    "java": "public class Main {{\n    public static void main(String[] args) {{\n{}\n    }}\n}}\n",
    "javascript": "{}",
    "typescript": "{}",
    "go": 'package main\n\nimport "fmt"\n\nfunc main() {{\n{}\n}}\n',
    "rust": "fn main() {{\n{}\n}}\n",
    "ruby": "{}",
    "perl": "{}",
    "php": "<?php\n{}",
    "lua": "{}",
    "csharp": "class Program\n{{\n    static void Main()\n    {{\n{}\n    }}\n}}\n",
}
LINES = {
    "python": "print({})",
    "c": 'printf("%lld\\n", (long long)({}));',
    "cpp": 'std::cout << (long long)({}) << "\\n";',
    "java": "System.out.println((long) ({}));",
    "javascript": "console.log({});",
    "typescript": "console.log({});",
    "go": "fmt.Println(int64({}))",
    "rust": 'println!("{{}}", {{ let v: u64 = {}; v }});',
    "ruby": "puts({})",
    "perl": 'printf "%d\\n", {};',
    "php": 'echo {}, "\\n";',
    "lua": "print({})",
    "csharp": "System.Console.WriteLine((long)({}));",
}
NUMBERS = [7, 999, 1000, 4096, 12345, 20_000, 65536, 1_000_000, 2_250_000, 4_194_304, 30_000_000, 123_456_789]
NUMBERS += [1 << 29, 2**31 - 1, 3_000_000_000, 10_000_000_000, 1 << 33]


@pytest.mark.parametrize(
    "language", [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in languages()]
)
def test_when_a_number_is_spelled_then_the_language_reads_the_same_number(language, tmp_path):
    skip_without(language)
    spelled = [(value, spell(value, language, random.Random(seed), "u64")) for seed in range(12) for value in NUMBERS]
    forms = {text for value, text in spelled if value == 4_194_304} | {t for v, t in spelled if v == 30_000_000}
    assert len(forms) >= 4, forms
    lines = "\n".join(LINES[language].format(text) for _, text in spelled)
    text = lines if language == "python" else PRINTERS[language].format(lines)
    expected = "\n".join(str(value) for value, _ in spelled)
    program = Program(text, language, expected_stdout=expected, name="numbers")
    measure_programs([program], tmp_path, repeats=1, metrics=("peak_rss_bytes",), limits=LIMITS)
    assert outcomes(tmp_path) == {"numbers": ("ok", "")}, text


@pytest.mark.parametrize(
    "language", [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in languages()]
)
def test_when_a_toolchain_is_there_then_every_template_runs_at_a_small_size(language, tmp_path):
    skip_without(language)
    programs = []
    for number, template in enumerate(templates_of(language)):
        rng = random.Random(f"{language} {number}")
        m = template.second[0] if template.second else 1
        n = (
            10_000
            if template.by == "size"
            else next(n for n in (2000, 300, 60, 20, 9, 6, 4, 2) if n <= template.most and template.ns_of(n, m) < 2e6)
        )
        text = write(template, Sizes(n, m, 0, 0), rng)
        programs.append(Program(text, language, name=f"{template.task} {number}"))
    measure_programs(programs, tmp_path, repeats=1, metrics=("peak_rss_bytes",), limits=LIMITS)
    bad = {name: found for name, found in outcomes(tmp_path).items() if found[0] != "ok"}
    assert not bad, bad


def test_when_sizes_are_declared_then_every_form_of_a_language_is_used():
    texts = {language: "\n".join(each.text for each in samples(2, 300, [language])) for language in MAIN}
    for language, pattern in (
        ("c", r"#define [A-Z_]+ \(?\d"),
        ("c", r"argc > 1 \? ato(i|ll)\(argv\[1\]\) : "),
        ("cpp", r"constexpr (int|long|std::size_t|size_t|long long) \w+ = "),
        ("cpp", r"\d'\d{3}'\d{3}"),
        ("java", r"static final (int|long) [A-Za-z_]+ = "),
        ("java", r"args\.length >= 1 \? Integer\.parseInt\(args\[0\]\) : "),
        ("python", r"int\(sys\.argv\[1\]\) if len\(sys\.argv\) > 1 else "),
        ("python", r"range\(\d+ \* 10\*\*\d\)"),
        ("python", r"(rows|blocks|groups|num|ROWS|BLOCKS|GROUPS|NUM) = [\d_]+\n"),
        ("javascript", r"Number\(process\.argv\[2\] \|\| "),
        ("go", r"const \w+ = \d+ << \d+"),
        ("rust", r"const [A-Z_]+: usize = \d"),
        ("rust", r"std::env::args\(\)\.nth\(1\)"),
    ):
        assert re.search(pattern, texts[language]), (language, pattern)
    assert texts["cpp"].count("using namespace std;") > 60 and texts["cpp"].count("bits/stdc++.h") > 20
    assert texts["python"].count("__main__") > 60
    assert set(CUSTOMS) == set(languages())


def test_when_names_are_drawn_then_no_two_roles_share_one():
    for seed in range(40):
        for language in ("java", "cpp", "python"):
            names = Names(language, random.Random(seed))
            given = [names.of(role) for role in [*POOLS, "a2", "s2"]]
            assert len(set(given)) == len(given)
            assert not {"size", "count", "data"} & set(given) or language != "cpp"
    pooled = Counter(name for pool in POOLS.values() for name in set(pool))
    assert [name for name, count in pooled.items() if count > 1] == []


def test_when_alternatives_are_nested_then_one_of_each_is_taken():
    found = {choose("«a«1¦2»¦b»!", random.Random(seed)) for seed in range(40)}
    assert found == {"a1!", "a2!", "b!"}


def test_when_a_head_or_a_language_is_wrong_then_the_message_names_it(tmp_path, monkeypatch, capsys):
    with pytest.raises(DataError, match="no templates for 'cobol'; there are some for c, cpp,"):
        templates_of("cobol")
    assert main(["generate", "--languages", "cobol", "--out", str(tmp_path / "x.parquet")]) == 2
    assert "plain: no templates for 'cobol'" in capsys.readouterr().err
    monkeypatch.setattr(templates, "FOLDER", tmp_path)
    (tmp_path / "algol.txt").write_text("=== loops/sum by=luck t=3*n\nbegin end\n")
    with pytest.raises(DataError, match="algol: cannot read the head '=== loops/sum by=luck"):
        templates_of("algol")


def test_when_programs_are_generated_measured_and_exported_then_the_data_set_loads_with_its_card(tmp_path, capsys):
    table, measured, again, out = (str(tmp_path / name) for name in ("programs.parquet", "first", "second", TASK))
    assert main(["generate", "--seed", "4", "--each", "3", "--languages", "python", "--out", table]) == 0
    assert "3 programs; python 3" in capsys.readouterr().out
    assert main(["measure", table, "--out", measured]) == 0
    assert main(["remeasure", table, "--measured", measured, "--out", again, "--programs-each", "1"]) == 0
    assert main(["export", measured, "--noise", again, "--out", out]) == 0
    loaded = load_dataset(out, cache_dir=str(tmp_path / "cache"))
    rows = [row for part in loaded.values() for row in part]
    assert len(rows) == 3 and {row["source"] for row in rows} == {TASK}
    read = read_task(TASK, data_root=tmp_path)
    assert len(read) == 3 and read[0]["metrics"] == ["peak_rss_bytes", "cpu_time_ms"]
    assert all("/" in row["group"] for row in read)
