"""polyglot-memory: programs that compile, agree, differ and keep to their budget; the data set that is made of them."""

import os
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from code_rlm.data.external import generic
from code_rlm.data.readers import read_task
from code_rlm.data.schema import FEATURES, DataError, Example, to_dataset
from code_rlm.data.splits import split_of
from code_rlm_data.cards import check_card
from code_rlm_data.generator import cost_model, dataset, estimates, ir
from code_rlm_data.generator.__main__ import main
from code_rlm_data.generator.cost import estimate
from code_rlm_data.generator.emitters import EMITTERS, Style
from code_rlm_data.generator.families import FAMILIES
from code_rlm_data.generator.generate import Budget, can_write, problem_families, sample, samples
from code_rlm_data.generator.ir import Assign, Call, For, Function, If, Int, Let, New, Type, Var
from code_rlm_data.generator.naming import choose_names
from code_rlm_data.generator.reference import answer, answer_in_c, answer_in_python
from code_rlm_data.measure import TOOLCHAINS, Program, measure_programs
from code_rlm_data.near_duplicates import near_duplicates

SMALL = Budget(most_ms=75, most_bytes=20e6)


def total_program(high):
    """Add i * 3 up to a bound, in a function."""
    i, total = Var("i"), Var("total")
    body = (
        Let("total", ir.LONG, Int(0)),
        For("i", Int(0), Var("bound"), (If(i > 2, (Assign("total", total + i * 3),), (), 0.9),)),
    )
    function = Function("work", (("bound", ir.INT),), body, total)
    return ir.Program((), (function,), (), Call("work", (Int(high),)))


TEXTS = """
import hashlib
from code_rlm_data.generator.generate import sample
texts = [sample(7, problem, 1, language).text for problem in (1, 5, 12) for language in ("c", "python", "scheme")]
digest = hashlib.sha256("".join(texts).encode()).hexdigest()
"""


def test_when_the_seed_is_the_same_then_so_are_the_texts_in_another_process():
    here = {}
    exec(TEXTS, here)
    environment = {**os.environ, "PYTHONHASHSEED": "12"}
    command = [sys.executable, "-c", TEXTS + "print(digest)"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == here["digest"], done.stderr


def test_when_the_seed_variant_or_problem_changes_then_so_does_the_text():
    base = sample(0, 3, 0, "python").text
    assert base == sample(0, 3, 0, "python").text
    others = [sample(1, 3, 0, "python"), sample(0, 3, 1, "python"), sample(0, 40, 0, "python")]
    assert base not in [other.text for other in others]


def test_when_many_are_drawn_then_texts_are_distinct_and_within_the_budget():
    made = list(samples(0, 6, 2, ["c", "python", "bash", "java"], SMALL))
    assert len(made) > 30
    assert len({each.text for each in made}) == len(made)
    for each in made:
        assert each.estimated_ms <= SMALL.most_ms
        assert each.estimated_bytes <= SMALL.most_bytes


def test_when_variants_of_a_problem_differ_in_size_then_memory_spreads_over_a_decade():
    spreads = []
    for problem in range(0, 36, 6):
        drawn = [sample(0, problem, variant, "c") for variant in range(8)]
        needed = [each.estimated_bytes for each in drawn if each]
        spreads.append(max(needed) / max(min(needed), 1e4))
    assert statistics.median(spreads) >= 10


def test_when_problems_are_split_by_group_then_hardly_any_text_has_a_near_copy():
    texts = defaultdict(list)
    for each in samples(0, 40, 1, ["cpp", "python"]):
        texts[split_of(each.group, validation=0.25, test=0.25)].append(each.text)
    found = near_duplicates({name: texts[name] for name in ("train", "validation", "test")})
    rows = sum(found.rows[name] for name in ("validation", "test"))
    copies = sum(len(found.rows_in(name)) for name in ("validation", "test"))
    assert rows >= 20
    assert copies <= 0.05 * rows, str(found)


def test_when_there_are_seventeen_languages_then_most_write_most_families():
    assert len(EMITTERS) >= 17
    assert set(EMITTERS) <= set(TOOLCHAINS)
    for name, emitter in EMITTERS.items():
        written = [each for each in FAMILIES if can_write(emitter, [each])]
        assert len(written) >= len(FAMILIES) // 2, name


@pytest.mark.parametrize("language", EMITTERS)
def test_when_a_family_is_supported_then_its_text_is_written(language):
    # Every family in a third of the languages.
    for problem in range(list(EMITTERS).index(language) % 3, len(FAMILIES), 3):
        made = sample(3, problem, 0, language, SMALL)
        if not can_write(EMITTERS[language], problem_families(3, problem)):
            assert made is None
            continue
        if made is None:  # even the smallest size is over this budget
            assert language in ("bash", "java")
            continue
        assert made.language == language and made.group.startswith(f"s3-p{problem:04d}-")
        assert len(made.text.splitlines()) > 5


def test_when_names_are_chosen_then_no_two_differ_only_in_case():
    for seed in range(12):
        program = sample(seed, 4, 0, "c", SMALL).program
        names = choose_names(program, str(seed))
        loops = {
            node.var for f in (*program.functions, program.main) for node in ir.walk(f.body) if isinstance(node, ir.For)
        }
        spelled = ["".join(words).lower() for name, words in names.items() if name not in loops]
        assert len(set(spelled)) == len(spelled)


def test_when_python_and_c_run_the_same_programs_then_they_agree():
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    for problem in range(0, 38, 5):
        made = sample(5, problem, 0, "python", SMALL)
        assert answer_in_python(made.program) == answer_in_c(made.program), made.group


def test_when_a_program_is_known_by_hand_then_the_reference_gives_its_answer():
    assert answer_in_python(total_program(6)) == str(3 * (3 + 4 + 5))
    assert estimate(total_program(1000)).operations > estimate(total_program(10)).operations * 50


def test_when_a_loop_has_no_known_bounds_then_the_cost_says_so():
    endless = ir.Program((), (), (For("i", Int(0), ir.Ask("vec.len", "v"), ()),), Int(0))
    with pytest.raises(ValueError, match="not known from constants"):
        estimate(endless)


def test_when_a_container_is_declared_under_a_dead_branch_then_it_costs_nothing():
    new = New("a", Type("arr", "i64"), (Int(10**7), Int(0)))
    dead = ir.Program((), (), (If(Int(1) > 2, (new,), (), 0.0),), Int(0))
    alive = ir.Program((), (), (new,), Int(0))
    assert not estimate(dead).elements
    assert estimate(alive).elements["arr", "i64"] == 10**7


@pytest.mark.slow
@pytest.mark.parametrize("language", EMITTERS)
def test_when_a_toolchain_is_there_then_programs_build_and_print_the_answer(language, tmp_path):
    missing = TOOLCHAINS[language].missing()
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (data/code_rlm_data/generator/install_toolchains.sh)")
    # A language is not drawn the problems that it cannot write.
    drawn = islice(filter(None, (sample(11, problem, 0, language, SMALL) for problem in range(0, 100, 9))), 2)
    programs = [
        Program(
            each.text,
            language,
            expected_stdout=answer(each.program, each.cost.operations),
            group=each.group,
            name=each.name,
        )
        for each in drawn
    ]
    assert len(programs) == 2
    path = measure_programs(programs, tmp_path, repeats=1, metrics=("peak_rss_bytes",), limits=dataset.POLYGLOT.limits)
    journal = (tmp_path / "journal.jsonl").read_text()
    rows = dataset.pq.read_table(path).to_pylist()
    assert [row["outcome"] for row in rows] == ["ok"] * len(programs), journal


def test_when_turns_are_taken_then_every_language_comes_in_each(tmp_path):
    programs = [Program(f"{k}", language) for language in ("c", "python") for k in range(5)]
    turns = list(dataset.in_turns(programs, 2))
    assert [len(turn) for turn in turns] == [4, 4, 2]
    assert [each.text for each in turns[0]] == ["0", "1", "0", "1"]


def test_when_programs_are_generated_measured_and_exported_then_the_data_set_loads_with_its_card(tmp_path, capsys):
    table, measured, again, out = (str(tmp_path / name) for name in ("programs.parquet", "first", "second", "packed"))
    drawn = "--seed 2 --problems 7 --variants 1 --languages python --most-ms 30 --most-mb 5".split()
    assert main([*drawn, "--out", table]) == 0
    assert main(["measure", table, "--out", measured]) == 0
    assert main(["remeasure", table, "--measured", measured, "--out", again, "--programs-each", "2"]) == 0
    assert main(["export", measured, "--noise", again, "--out", out]) == 0
    loaded = load_dataset(out, cache_dir=str(tmp_path / "cache"))
    rows = [row for part in loaded.values() for row in part]
    assert set(loaded) == {split_of(row["group"]) for row in rows} and len(rows) == 7
    assert all(rows.features == FEATURES for rows in loaded.values())
    numbers = [dict(zip(row["metrics"], row["values"])) for row in rows]
    assert all(each["peak_rss_bytes"] > each["idle_peak_rss_bytes"] * 0.9 for each in numbers)
    card = check_card(f"{out}/README.md")
    assert card.data.license == "apache-2.0"
    assert "| python | 7 | 7 |" in card.text and "| python | 2 |" in card.text
    (tmp_path / "root").mkdir()
    os.rename(out, tmp_path / "root" / "polyglot_memory")
    read = read_task("polyglot_memory", data_root=tmp_path / "root")
    assert len(read) == 7 and read[0]["metrics"] == ["peak_rss_bytes", "cpu_time_ms"]
    assert read[0]["language"] == "python" and read[0]["values"][0] > 1e6


def test_when_no_language_has_enough_rows_then_export_reports_how_many_there_are(tmp_path):
    programs = [Program("print(1)", "python", expected_stdout="1")]
    measure_programs(programs, tmp_path, repeats=1, metrics=dataset.METRICS)
    with pytest.raises(DataError, match="no language has 300 ok rows; there are python 1"):
        dataset.export(str(tmp_path), str(tmp_path / "out"), least=300)


def test_when_estimates_are_written_then_no_problem_has_the_families_of_one_held_out(tmp_path, capsys):
    out, again = str(tmp_path / "a" / "estimates.parquet"), str(tmp_path / "again.parquet")
    command = "estimate --seed 5 --problems 40 --stages 1 --each 2 --languages c go python".split()
    assert main([*command, "--out", out]) == 0 and "of 40 problems; c " in capsys.readouterr().out
    assert main([*command, "--out", again]) == 0
    rows = pq.read_table(out).to_pylist()
    assert rows == pq.read_table(again).to_pylist()
    families = {tuple(sorted(row["group"].split("-", 2)[2].split("+"))) for row in rows}
    apart = estimates.held_out_families()
    assert {len(each) for each in families} == {1} and len(apart) > 20 and not families & apart
    read = generic(out, text_column="text", target_columns=list(estimates.METRICS), language_column="language")
    assert len(read) == len(rows) >= 70 and set(read["language"]) == {"c", "go", "python"}
    assert all(row["estimated_bytes"] > 0 for row in rows if sum(row[name] for name in estimates.HELD))
    assert main([*command, "--out", out, "--seed", "0"]) == 2 and "measured problems" in capsys.readouterr().err
    with pytest.raises(DataError, match="1, 2 or 3 stages, not 4"):
        estimates.write(out, seed=5, problems=1, each=1, languages=("c",), stages=(4,))


@pytest.mark.slow
def test_when_costs_are_predicted_then_tables_get_what_such_programs_were_measured_to_need(
    tmp_path, capsys, monkeypatch
):
    idle = {"c": 1e6, "python": 9e6}
    made = [s for s in samples(0, 24, 7, ["c", "python"])]
    names = ["peak_rss_bytes", "cpu_time_ms"]
    needs = [[idle[s.language] + 2 * s.estimated_bytes, 5.0 + s.estimated_ms] for s in made]
    rows = [Example(s.text, s.language, names, need, group=s.group) for s, need in zip(made, needs, strict=True)]
    rows[0] = Example(rows[0].text, rows[0].language, names, [None, None], group=rows[0].group, outcome="timeout")
    splits = {split: to_dataset([r for r in rows if split_of(r.group) == split]) for split in ("train", "validation")}
    monkeypatch.setattr(cost_model, "read_task", lambda task, root, split: splits[split])
    monkeypatch.setattr(cost_model, "MEASURED_PROBLEMS", 24)
    table = str(tmp_path / "estimates.parquet")
    estimates.write(table, seed=5, problems=60, each=1, languages=("c", "python"))
    before = pq.read_table(table)
    for _ in range(2):  # a second time changes nothing
        assert main(["predict-costs", table]) == 0
        assert "peak_rss_bytes: rank correlation 0.9" in capsys.readouterr().out
        after = pq.read_table(table)
        assert after.drop_columns(list(cost_model.METRICS)) == before
        truth = [idle[r["language"]] + 2 * r["estimated_bytes"] for r in before.to_pylist()]
        predicted = after["peak_rss_bytes"].to_pylist()
        assert np.median(np.abs(np.log10(predicted) - np.log10(truth))) < 0.08
    assert len(list(tmp_path.iterdir())) == 1
    pq.write_table(after.set_column(1, "language", pa.array(["rust"] * len(after))), table)
    assert main(["predict-costs", table]) == 0
    assert f"{len(after)} of them (rust) left empty: not measured" in capsys.readouterr().out
    assert pq.read_table(table)["peak_rss_bytes"].null_count == len(after)
    pq.write_table(after.drop_columns(["estimated_ms"]), table)
    assert main(["predict-costs", table]) == 2 and "has no column estimated_ms" in capsys.readouterr().err
    assert main(["predict-costs", str(tmp_path / "none")]) == 2 and "is no file" in capsys.readouterr().err


def test_when_a_language_is_unknown_then_the_error_names_those_that_there_are():
    with pytest.raises(DataError, match=r"no emitter for cobol; there are .*python"):
        list(samples(0, 1, 1, ["cobol"]))


def test_when_notes_are_off_then_a_text_has_no_comments():
    made = sample(0, 2, 0, "python")
    quiet = EMITTERS["python"](made.program, Style(1, comments=False)).text()
    assert "#" not in quiet and '"""' not in quiet
