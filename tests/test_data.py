"""Schema, splits and readers, on tables made here."""

import gzip
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from code_rlm.data import readers
from code_rlm.data.external import generic
from code_rlm.data.published import parse_metadata
from code_rlm.data.readers import TASKS, canonical_class, input_size, iter_task, read_task, timm_family
from code_rlm.data.schema import FEATURES, DataError, Example, to_dataset, unit_of, validate
from code_rlm.data.splits import split_dataset, split_labels, split_of
from code_rlm_data.near_duplicates import near_duplicates


def example(**changes):
    cells = {"text": "nop", "language": "x86asm", "metrics": ["cycles"], "values": [1.0], "group": "90"}
    return Example(**{**cells, **changes})


# Schema


def test_when_rows_are_sound_then_the_report_counts_them():
    rows = [
        example(),
        example(metrics=["latency_ms@pixel3", "peak_memory_bytes"], values=[None, 3.0], context=["input_size: 4x4"]),
        example(metrics=[], values=[], outcome="timeout", group="", language="python"),
    ]
    report = validate(to_dataset(rows))
    assert report.ok and report.rows == 3 and report.groups == 1
    assert (report.values, report.missing) == (2, 1)
    assert (report.rows_without_value, report.rows_without_group) == (1, 1)
    assert report.metrics == {"cycles": 1, "peak_memory_bytes": 1}
    assert report.outcomes == {"ok": 2, "timeout": 1}
    assert report.languages == {"x86asm": 2, "python": 1}
    assert "3 rows" in str(report)


@pytest.mark.parametrize("form", [list, to_dataset, lambda rows: to_dataset(rows).data.table, None])
def test_when_the_form_of_a_table_changes_then_the_report_does_not(form):
    rows = [example(), example(values=[None])]
    table = pd.DataFrame([row.as_dict() for row in rows]) if form is None else form(rows)
    report = validate(table)
    assert (report.rows, report.values, report.missing) == (2, 1, 1)


def test_when_a_missing_value_is_stored_then_it_comes_back_as_none():
    dataset = to_dataset([example(metrics=["cycles", "latency_ms"], values=[None, 2.5])])
    assert dataset.features == FEATURES
    assert dataset[0]["values"] == [None, 2.5]
    assert dataset[0]["units"] == ["cycles", "ms"]


@pytest.mark.parametrize(
    ("changes", "column", "message"),
    [
        ({"text": " \n"}, "text", "empty text"),
        ({"text": None}, "text", "expected str, got NoneType"),
        ({"language": "Python"}, "language", "lower case"),
        ({"outcome": "crashed"}, "outcome", "unknown outcome 'crashed'; known are ok, timeout"),
        ({"values": [1.0, 2.0]}, "values", "2 values for 1 metrics"),
        ({"units": []}, "units", "0 units for 1 metrics"),
        ({"units": ["ms"]}, "units", "'ms' contradicts"),
        ({"values": [float("nan")]}, "values", "item 0: nan"),
        ({"values": [float("-inf")]}, "values", "item 0: -inf"),
        ({"values": ["1"]}, "values", "expected a number or null, got str '1'"),
        ({"values": [True]}, "values", "expected a number or null, got bool"),
        ({"metrics": ["cycles", "cycles"], "values": [1.0, 2.0]}, "metrics", "cycles more than once"),
        ({"metrics": [""]}, "metrics", "item 0: empty name"),
        ({"metrics": "cycles"}, "metrics", "expected a list"),
        ({"context": ["no colon"]}, "context", "key: value"),
    ],
)
def test_when_a_cell_is_wrong_then_row_and_column_are_named(changes, column, message):
    rows = [example(), example(**changes)]
    report = validate(rows, strict=False)
    assert any(each.row == 1 and each.column == column and message in each.message for each in report.problems)
    with pytest.raises(DataError, match=rf"table\.csv: (?s:.)*row 1, column '{column}'"):
        validate(rows, source="table.csv")


def test_when_columns_are_missing_or_unknown_then_they_are_named():
    table = to_dataset([example()]).data.table.drop_columns(["units"]).append_column("extra", pa.array([1]))
    with pytest.raises(DataError, match="2 problems") as caught:
        validate(table)
    assert "column 'units': missing" in str(caught.value) and "column 'extra': not in the schema" in str(caught.value)


def test_when_there_are_many_problems_then_all_are_counted():
    report = validate([example(text="")] * 50, strict=False, max_problems=3)
    assert report.problem_count == 50 and len(report.problems) == 3
    assert "and 47 more" in str(report)


def test_when_a_cell_does_not_fit_its_type_then_to_dataset_names_it():
    with pytest.raises(DataError, match="row 1, column 'values'"):
        to_dataset([example(), example(values=["fast"])])
    with pytest.raises(DataError, match=r"row 0: columns missing text"):
        to_dataset([{name: "" for name in FEATURES if name != "text"}])


@pytest.mark.parametrize("data", ["text", {"text": ["a"]}, 3])
def test_when_the_table_is_none_then_validate_says_what_it_takes(data):
    with pytest.raises(DataError, match="cannot validate"):
        validate(data)


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("cycles", "cycles"),
        ("latency_ms@1080ti_32", "ms"),
        ("inference_images_per_s@a100", "images/s"),
        ("train_time_s", "s"),
        ("loss", ""),
        ("params", ""),
    ],
)
def test_when_a_metric_names_its_unit_then_it_is_read(metric, unit):
    assert unit_of(metric) == unit


# Splits


def test_when_the_hash_is_fixed_then_groups_stay_where_they_are():
    groups = ("a", "p00001", "p00002", "Gruppe ü", "q10")
    assert [split_of(group) for group in groups] == ["train", "validation", "validation", "train", "train"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1), st.integers(0, 5))
def test_when_rows_are_added_then_no_group_moves(groups, seed):
    before = dict(zip(groups, split_labels(groups, seed=seed)))
    after = dict(zip(["new", *groups], split_labels(["new", *groups], seed=seed)))
    assert all(after[group] == label for group, label in before.items())


def test_when_there_are_many_groups_then_the_shares_hold():
    labels = split_labels((f"group {number}" for number in range(20_000)), validation=0.05, test=0.2)
    assert abs((labels == "test").mean() - 0.2) < 0.01 and abs((labels == "validation").mean() - 0.05) < 0.01
    assert not np.array_equal(labels, split_labels([f"group {n}" for n in range(20_000)], seed=1))


def test_when_a_data_set_is_split_then_no_group_is_in_two_parts():
    dataset = to_dataset([example(group=str(row % 40), text=f"mov eax, {row}") for row in range(200)])
    parts = split_dataset(dataset, validation=0.2, test=0.2)
    assert list(parts) == ["train", "validation", "test"] and sum(map(len, parts.values())) == 200
    seen = [set(part["group"]) for part in parts.values()]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    assert len(split_dataset(dataset, validation=0, test=0)["test"]) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_of(""), "group must be a string"),
        (lambda: split_of(3), "got 3"),
        (lambda: split_of("a", validation=0.6, test=0.6), "together at most 1"),
        (lambda: split_of("a", test=-0.1), "from 0 to 1"),
        (lambda: split_labels(["a", ""]), "row 1, column 'group'"),
        (lambda: split_dataset(Dataset.from_dict({"x": [1]})), "no column 'group'"),
        (lambda: near_duplicates({}, method="edit"), "unknown method 'edit'"),
        (lambda: near_duplicates({}, threshold=0), "threshold must be over 0"),
        (lambda: near_duplicates({}, shingle=0), "shingle must be at least 1"),
    ],
)
def test_when_split_arguments_are_wrong_then_the_message_says_how(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_when_texts_differ_in_spacing_alone_then_both_methods_match_them():
    splits = {
        "train": ["x = 1", "def f(a):\n    return a"],
        "test": ["y = 2", "\ndef f( a ):\r\n\r\n\treturn a\n", "def f(a): return a"],
    }
    for method in ("exact", "minhash"):
        found = near_duplicates(splits, method=method)
        assert found.counts() == {("test", "train"): 1} and found.rows_in("test") == [1]
        assert (found.matches[0].other_row, found.matches[0].similarity) == (1, 1.0)
        assert "test: 1 of 3 rows (33.33%)" in str(found)


def test_when_a_token_changes_then_minhash_matches_and_exact_does_not():
    words = [f"word{number}" for number in range(200)]
    splits = {
        "train": [" ".join(words), "something else entirely, with no word shared"],
        "validation": [" ".join(reversed(words))],
        "test": [" ".join([*words[:100], "new", *words[101:]]), " ".join(words[:50])],
    }
    found = near_duplicates(splits, threshold=0.8)
    assert [(each.split, each.row, each.other_split, each.other_row) for each in found.matches] == [
        ("test", 0, "train", 0)
    ]
    # 196 runs of five tokens on either side, of which the five around the change differ.
    assert found.matches[0].similarity == pytest.approx(191 / 201)
    assert found.recall_at_threshold >= 0.99
    assert not near_duplicates(splits, method="exact").matches


def test_when_many_texts_are_near_copies_then_minhash_finds_what_comparing_all_pairs_finds():
    random = np.random.default_rng(0)
    base = [[f"t{token}" for token in random.integers(0, 50, 40)] for _ in range(15)]
    splits = {"train": [" ".join(tokens) for tokens in base], "test": []}
    for tokens in base:
        for changes in range(6):
            changed = list(tokens)
            for position in random.integers(0, 40, changes):
                changed[position] = "new"
            splits["test"].append(" ".join(changed))

    def runs(text):
        tokens = text.split()
        return {tuple(tokens[start : start + 3]) for start in range(len(tokens) - 2)}

    expected = set()
    for row, text in enumerate(splits["test"]):
        scores = [len(runs(text) & runs(other)) / len(runs(text) | runs(other)) for other in splits["train"]]
        if max(scores) >= 0.6:
            expected.add((row, int(np.argmax(scores)), round(max(scores), 9)))
    found = near_duplicates(splits, threshold=0.6, shingle=3)
    assert {(each.row, each.other_row, round(each.similarity, 9)) for each in found.matches} == expected
    assert 15 <= len(expected) < len(splits["test"])


# Tasks


@pytest.fixture
def data_root(tmp_path, monkeypatch):
    """Tables of made-up rows with the columns of every task."""
    monkeypatch.setattr(readers, "graph_text", lambda space, arch: f"{space}: {arch}")
    monkeypatch.setattr(readers, "_timm_text", lambda model: f"Module({model})")
    count = 40

    def numbers(columns, scale=1.0):
        return {name: [scale * (row + 1) + 0.25 for row in range(count)] for name in columns}

    def write(task, columns):
        file = tmp_path / TASKS[task].file
        if not file.suffix:  # a folder of parquet files
            file = file / "train.parquet"
        file.parent.mkdir(exist_ok=True)
        pd.DataFrame(columns).to_parquet(file)

    rows = range(count)
    write("bhive_zen4", {"hex": [f"{row:02x}" for row in rows], "asm": ["nop; ret"] * count, **numbers(["cycles"])})
    write(
        "tritonbench",
        {
            "set": ["G", "T"] * (count // 2),
            "text": [f"kernel_{row % 8}()" for row in rows],
            "input_size": [f"[[{row + 1}, 2], [], [3], 0.5]" for row in rows],
            "group": [f"{'GT'[row % 2]}/{row % 8}" for row in rows],
            **numbers(["latency_ms", "gbs", "tflops"]),
        },
    )
    write(
        "codenet_python",
        {
            "text": [f"print({row})" for row in rows],
            "mem_kb": [1000 + row for row in rows],
            "time_ms": [row for row in rows],
            "group": [f"p{row % 9:05}" for row in rows],
            "language": ["Python"] * count,
        },
    )
    calls = {
        "text": [f"def solve(n):\n    return n + {row}" for row in rows],
        "context": [[f"argument n: {row}"] for row in rows],
        "group": [f"problem-{row % 9}" for row in rows],
        "outcome": ["ok", "timeout"] * (count // 2),
        "hardware": ["one core"] * count,
        "versions": ["Python 3.11"] * count,
        "peak_memory_bytes": [None if row % 2 else 8.0 * row for row in rows],
    }
    for task in ("leetcode_memory", "leetcode_solutions"):
        write(task, calls)
    for task in (name for name, task in TASKS.items() if task.packed):
        known = [*TASKS[task].metrics, *TASKS[task].extra_metrics]
        write(
            task,
            {
                "text": [f"print({row})" for row in rows],
                "language": ["python", "ruby"] * (count // 2),
                "context": [[]] * count,
                "metrics": [known] * count,
                "values": [[None if row % 2 else (k + 1) * 4096.0 * row for k in range(len(known))] for row in rows],
                "units": [[unit_of(metric) for metric in known]] * count,
                "group": [f"problem-{row % 9}" for row in rows],
                "source": [task] * count,
                "outcome": ["ok", "timeout"] * (count // 2),
                "hardware": ["one core"] * count,
                "versions": ["Python 3.11", "ruby 3.1"] * (count // 2),
            },
        )
    for task, columns in {
        "nasbench201": {
            "arch_str": [f"|nor_conv_3x3~0|+{row}" for row in rows],
            "isomorphism_class": [f"0+(0)@op_{row % 12}" for row in rows],
        },
        "nasbench101": {
            "hash": [f"{row:032x}" for row in rows],
            "adjacency": ["01|00"] * count,
            "ops": ["input|output"] * count,
            "in_flan_train": [row < 3 for row in rows],
            "in_flan_test": [row >= 30 for row in rows],
        },
        "nasbench_macro": {"arch": [f"{row:08}" for row in rows]},
        "accel_nasbench": {"id": list(rows), **{gene: [1] * count for gene in readers._ACCEL_GENES}},
        "fbnet": {"index": list(rows), "ops": ["skip|k3_e3"] * count},
        "ofa": {"index": list(rows), "ks": ["[3, 5]"] * count, "e": ["[6, 4]"] * count}
        | {"d": ["[2]"] * count, "r": [160] * count},
        "darts": {"genotype": [f"Genotype({row})" for row in rows]},
        "timm_accuracy": {"model": [f"net{row}_s.in1k" for row in rows], "img_size": [224] * count},
    }.items():
        known = {**TASKS[task].metrics, **TASKS[task].extra_metrics}
        write(task, {**columns, **numbers([column.name for column in known.values()], 0.01)})
    benches = ["benchmark-infer-amp-nchw-pt291-cu128-4090-dynamo", "benchmark-train-amp-nhwc-pt112-cu113-rtx3090"]
    write(
        "timm_speed",
        {
            "bench": benches * (count // 2),
            "model": [f"net{row}" for row in rows],
            **{
                f"{mode}_{name}": [value if row % 2 == odd and row != 2 else None for row in rows]
                for odd, mode in enumerate(("infer", "train"))
                for name, value in (("batch_size", 32.0), ("img_size", 224.0), ("samples_per_sec", 10.0))
                + (("step_time", 3.5),)
            },
        },
    )
    return tmp_path


@pytest.mark.parametrize("task", TASKS)
def test_when_a_task_is_read_then_it_follows_the_schema_and_splits_by_group(task, data_root):
    dataset = read_task(task, data_root)
    assert dataset.features == FEATURES and len(dataset) == 40
    assert set(dataset["source"]) == {task} and validate(dataset).rows_without_group == 0
    parts = [read_task(task, data_root, split) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == 40
    groups = [set(part["group"]) for part in parts]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert [each.as_dict() for each in iter_task(task, data_root)] == list(dataset)
    assert TASKS[task].summary and "Group:" in TASKS[task].description


def test_when_blocks_are_read_then_instructions_stand_on_lines(data_root):
    row = read_task("bhive_zen4", data_root)[3]
    assert row["text"] == "nop\nret" and row["group"] == "03"
    assert (row["metrics"], row["values"], row["units"]) == (["cycles"], [4.25], ["cycles"])


def test_when_kernels_are_read_then_sizes_are_context(data_root):
    rows = read_task("tritonbench", data_root, metrics=["throughput_tflop_per_s", "latency_ms"])
    assert [rows[row]["language"] for row in range(2)] == ["triton", "pytorch"]
    assert rows[4]["context"] == ["input_size: 5x2, scalar, 3, value=0.5"]
    assert rows[4]["metrics"] == ["throughput_tflop_per_s", "latency_ms"] and rows[4]["units"] == ["TFLOP/s", "ms"]


def test_when_submissions_are_read_then_kilobytes_become_bytes(data_root):
    row = read_task("codenet_python", data_root)[1]
    assert (row["metrics"], row["values"]) == (["judge_memory_bytes", "judge_cpu_time_ms"], [1001 * 1024.0, 1.0])
    # Under the names of earlier checkpoints, too.
    former = ["peak_memory_bytes@codenet", "cpu_time_ms@codenet"]
    assert read_task("codenet_python", data_root, metrics=former)[1]["values"] == row["values"]
    assert TASKS["codenet_python"].hardware_of(former[0]) == TASKS["codenet_python"].hardware_of("judge_memory_bytes")


@pytest.mark.parametrize("task", ["leetcode_memory", "leetcode_solutions"])
def test_when_calls_are_read_then_arguments_are_context_and_failures_have_no_value(data_root, task):
    rows = read_task(task, data_root)
    assert (rows[2]["context"], rows[2]["values"], rows[2]["outcome"]) == (["argument n: 2"], [16.0], "ok")
    assert (rows[3]["values"], rows[3]["outcome"], rows[3]["versions"]) == ([None], "timeout", "Python 3.11")


def test_when_a_task_lies_in_several_files_then_they_are_read_in_the_order_of_their_names(data_root):
    folder = data_root / TASKS["polyglot_memory"].file
    before = read_task("polyglot_memory", data_root)
    (folder / "more.parquet").write_bytes((folder / "train.parquet").read_bytes())
    (folder / "README.md").write_text("# card")
    assert read_task("polyglot_memory", data_root)["text"][:] == before["text"][:] * 2
    assert before[2]["values"] == [8192.0, 16384.0] and before[3]["values"] == [None, None]
    extra = read_task("polyglot_memory", data_root, metrics=["idle_peak_rss_bytes", "peak_rss_bytes"])
    assert extra[2]["values"] == [24576.0, 8192.0]


def test_when_a_table_ships_with_the_data_package_then_no_data_root_is_needed(data_root, monkeypatch):
    monkeypatch.delenv(readers.DATA_ROOT_VARIABLE, raising=False)
    monkeypatch.syspath_prepend(data_root)
    package = data_root / "table_package"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.move(data_root / "polyglot_memory", package)
    monkeypatch.setattr(readers, "_SHIPPED_WITH", "table_package")
    assert len(read_task("polyglot_memory")) == 40
    monkeypatch.setattr(readers, "_SHIPPED_WITH", "no_such_package")
    with pytest.raises(DataError, match=r"pip install code-rlm-data .*or no data folder: give data_root="):
        read_task("polyglot_memory")
    with pytest.raises(DataError, match="no data folder"):
        read_task("bhive_zen4")


def test_when_nasbench201_is_read_then_the_text_is_a_graph_and_counts_are_whole(data_root):
    row = read_task("nasbench201", data_root)[0]
    assert row["text"] == "nasbench201: |nor_conv_3x3~0|+0" and row["language"] == "onnx"
    assert len(row["metrics"]) == 4 + 27 and row["metrics"][4:] == [m for m in row["metrics"] if "latency_ms@" in m]
    assert read_task("nasbench201", data_root, metrics=["params_count"])[0]["values"] == [260_000.0]
    assert len(TASKS["fbnet"].metrics) == 27 and len(TASKS["ofa"].metrics) == 12


def test_when_the_space_is_real_then_the_text_is_the_printed_network(tmp_path):
    task = TASKS["nasbench201"]
    columns = {column.name: [1.0, 2.0] for column in task.metrics.values()}
    columns["arch_str"] = [
        "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
        "|none~0|+|none~0|none~1|+|avg_pool_3x3~0|none~1|none~2|",
    ]
    columns["isomorphism_class"] = ["0", "(0)@avg_pool_3x3"]
    (tmp_path / "nas").mkdir()
    pd.DataFrame(columns).to_parquet(tmp_path / task.file)
    plain, pooled = read_task("nasbench201", tmp_path)["text"]
    assert plain != pooled and "avgpool3x3" in pooled and "avgpool3x3" not in plain


@pytest.mark.parametrize(
    ("expression", "canonical"),
    [
        ("0+(0)@nor_conv_3x3", "(0)@nor_conv_3x3+0"),
        ("(0)@nor_conv_3x3+0", "(0)@nor_conv_3x3+0"),
        ("#+#+(0+#+(0)@a)@b", "((0)@a+0)@b"),
        ("#+((0)@a+0)+0", "(0)@a+0+0"),
        ("#+(#+#)@nor_conv_1x1+#", "#"),
        ("(#)@avg_pool_3x3+0", "0"),
    ],
)
def test_when_sums_are_in_another_order_then_the_class_is_the_same(expression, canonical):
    assert canonical_class(expression) == canonical == canonical_class(canonical)


@pytest.mark.parametrize("expression", ["", "0+", "(0@a", "0)", "0 0", "0+a", "(0)@"])
def test_when_a_class_is_no_sum_then_it_is_refused(expression):
    with pytest.raises(ValueError, match="column 'isomorphism_class'"):
        canonical_class(expression)


def test_when_the_source_fixes_splits_then_they_can_be_read(data_root):
    assert len(read_task("nasbench101", data_root, "flan_train")) == 3
    assert len(read_task("nasbench101", data_root, "flan_test")) == 10
    assert read_task("nasbench101", data_root)[0]["values"] == [pytest.approx(26.0)]


def test_when_benchmarks_are_read_then_the_device_follows_the_at(data_root):
    rows = read_task("timm_speed", data_root)
    assert rows[0]["metrics"] == ["inference_images_per_s@rtx4090", "inference_step_ms@rtx4090"]
    assert rows[0]["context"][:3] == ["batch_size: 32", "image_size: 224", "precision: amp"]
    assert rows[0]["context"][-1] == "compiled: yes" and rows[1]["context"][-1] == "compiled: no"
    assert rows[1]["metrics"][0] == "train_images_per_s@rtx3090" and rows[1]["versions"] == "pt112 cu113"
    assert (rows[2]["outcome"], rows[2]["values"]) == ("runtime_error", [None, None])


def test_when_a_limit_is_given_then_only_its_rows_are_built(data_root, monkeypatch):
    built = []
    monkeypatch.setattr(readers, "graph_text", lambda space, arch: built.append(arch) or str(arch))
    first = read_task("nasbench201", data_root, limit=5)
    assert len(first) == len(built) == 5
    assert list(first) == list(read_task("nasbench201", data_root, limit=5))
    assert list(first) != list(read_task("nasbench201", data_root, limit=5, seed=1))


def test_when_workers_are_given_then_the_rows_are_the_same(data_root):
    assert list(read_task("bhive_zen4", data_root, workers=2)) == list(read_task("bhive_zen4", data_root))


def test_when_the_environment_names_the_folder_then_it_is_read(data_root, monkeypatch):
    monkeypatch.setenv("CODE_RLM_DATA", str(data_root))
    assert len(read_task("bhive_zen4")) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "bhive"}, "unknown task 'bhive'; known are bhive_zen4"),
        ({"split": "dev"}, "no split 'dev'; give train, validation, test or None"),
        ({"metrics": ["latency_ms"]}, "bhive_zen4 has no metric latency_ms; it has cycles"),
        ({"metrics": []}, "none given"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"data_root": "/no/such/folder"}, "no folder /no/such/folder"),
        ({"data_root": None}, "set the environment variable CODE_RLM_DATA"),
        ({"test": 2.0, "split": "test"}, "together at most 1"),
    ],
)
def test_when_read_task_is_asked_wrongly_then_the_message_says_how(arguments, message, data_root, monkeypatch):
    monkeypatch.delenv("CODE_RLM_DATA", raising=False)
    with pytest.raises(DataError, match=message):
        read_task(**{"name": "bhive_zen4", "data_root": data_root, **arguments})


def test_when_a_table_is_broken_then_file_row_and_column_are_named(data_root):
    path = data_root / TASKS["bhive_zen4"].file
    table = pd.read_parquet(path)
    table.drop(columns="asm").to_parquet(path)
    with pytest.raises(DataError, match=r"bhive_zen4\.parquet: no column asm; there is hex, cycles"):
        read_task("bhive_zen4", data_root)
    table.assign(asm=[None, *table["asm"][1:]]).to_parquet(path)
    with pytest.raises(DataError, match=r"bhive_zen4\.parquet: row 0: .*asm='None'"):
        read_task("bhive_zen4", data_root)
    table.assign(hex=["", *table["hex"][1:]]).to_parquet(path)
    with pytest.raises(DataError, match=r"bhive_zen4\.parquet: row 0: group must be a string that is not empty"):
        read_task("bhive_zen4", data_root, "train")
    table.assign(cycles="fast").to_parquet(path)
    with pytest.raises(DataError, match=r"row 0, column 'cycles': 'fast' is not a number"):
        read_task("bhive_zen4", data_root)
    table.assign(cycles=[*table["cycles"][1:], np.inf]).to_parquet(path)
    with pytest.raises(DataError, match="row 39, column 'values': item 0: inf"):
        read_task("bhive_zen4", data_root)
    path.write_text("no parquet")
    with pytest.raises(DataError, match="not a parquet file"):
        read_task("bhive_zen4", data_root)
    path.unlink()
    with pytest.raises(DataError, match=r"no file .*asm/bhive_zen4\.parquet"):
        read_task("bhive_zen4", data_root)


def test_when_a_table_is_streamed_then_rows_come_before_later_ones_are_read(data_root):
    path = data_root / TASKS["bhive_zen4"].file
    count = 3000
    columns = {
        "hex": [f"{row:04x}" for row in range(count)],
        "asm": ["nop"] * (count - 1) + [None],
        "cycles": [1.0] * count,
    }
    pd.DataFrame(columns).to_parquet(path)
    rows = iter_task("bhive_zen4", data_root)
    assert [next(rows).group for _ in range(2)] == ["0000", "0001"]
    with pytest.raises(DataError, match="row 2999"):
        list(rows)
    # The rows of a limit are found by a first pass, whose order is that of the file.
    columns["asm"][-1] = "ret"
    pd.DataFrame(columns).to_parquet(path)
    drawn = [example.group for example in iter_task("bhive_zen4", data_root, "train", limit=50)]
    assert len(drawn) == 50 and drawn == sorted(drawn) and {split_of(group) for group in drawn} == {"train"}


def test_when_a_graph_cannot_be_built_then_the_row_is_named(data_root, monkeypatch):
    def fail(space, arch):
        raise ValueError(f"unknown operation in {arch}")

    monkeypatch.setattr(readers, "graph_text", fail)
    with pytest.raises(DataError, match=r"nasbench_macro\.parquet: row 0, columns arch: .*unknown operation"):
        read_task("nasbench_macro", data_root)
    with pytest.raises(DataError, match="on_error must be 'raise' or 'skip'"):
        read_task("nasbench_macro", data_root, on_error="warn")


def test_when_rows_are_skipped_then_they_are_logged_and_counted(data_root, monkeypatch, caplog):
    monkeypatch.setattr(readers, "_timm_text", {f"net{row}_s.in1k": "Net()" for row in range(38)}.__getitem__)
    assert len(read_task("timm_accuracy", data_root, on_error="skip")) == 38
    assert "row 39, columns model, img_size" in caplog.text and "2 of 40 rows skipped" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("[]", ""),
        ("[[4096]]", "4096"),
        ("[[1, 2, 3], [], 7, false]", "1x2x3, scalar, value=7, value=false"),
        ("[[[2, 3], [4]], [5]]", "[2x3, 4], 5"),
    ],
)
def test_when_shapes_are_written_then_they_are_short(arguments, text):
    assert input_size(arguments) == text


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("resnet200d.ra2_in1k", "resnet"),
        ("tf_efficientnet_b0.ns_jft_in1k", "efficientnet"),
        ("vit_base_patch16_224", "vit"),
        ("resnetv2_50", "resnetv2"),
        ("deit3_huge", "deit3"),
        ("ens_adv_inception_resnet_v2", "inception"),
    ],
)
def test_when_a_timm_model_is_named_then_its_family_is_found(model, family):
    assert timm_family(model) == family


# Other tables

ROWS = [
    {"code": "print(1)\nprint(2)", "ms": "1.5", "kb": "", "id": "a", "lang": "Python", "n": "8"},
    {"code": 'say "hi", x', "ms": "2e3", "kb": "7", "id": "b", "lang": "Perl", "n": ""},
    {"code": "print(1)\nprint(2)", "ms": "-3", "kb": "9", "id": "c", "lang": "Python", "n": "9"},
]


def write_table(path, rows=ROWS):
    typed = [{k: (None if v == "" else float(v)) if k in ("ms", "kb") else v for k, v in row.items()} for row in rows]
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pd.DataFrame(rows if any(row["ms"] == "fast" for row in rows) else typed).to_parquet(path)
        return path
    text = {
        "csv": lambda: pd.DataFrame(rows).to_csv(index=False),
        "tsv": lambda: pd.DataFrame(rows).to_csv(index=False, sep="\t"),
        "jsonl": lambda: "\n".join(json.dumps(row) for row in typed) + "\n\n",
        "json": lambda: json.dumps(typed),
    }[kind]()
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


TABLE = {"text_column": "code", "target_columns": {"ms": "time_ms", "kb": "memory_kb"}}


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet", "t.csv.gz", "t.jsonl.gz"])
def test_when_a_table_is_read_then_every_format_gives_the_same(name, tmp_path):
    dataset = generic(
        write_table(tmp_path / name),
        **TABLE,
        language_column="lang",
        group_column="id",
        context_columns=["n"],
        source="t",
    )
    assert [row["values"] for row in dataset] == [[1.5, None], [2000.0, 7.0], [-3.0, 9.0]]
    assert dataset[0] == {
        **{"text": "print(1)\nprint(2)", "language": "python", "context": ["n: 8"]},
        **{"metrics": ["time_ms", "memory_kb"], "values": [1.5, None], "units": ["ms", "kB"]},
        **{"group": "a", "source": "t", "outcome": "ok", "hardware": "", "versions": ""},
    }
    assert dataset[1]["context"] == []


def test_when_no_group_is_named_then_equal_texts_make_one(tmp_path):
    path = write_table(tmp_path / "t.csv")
    rows = generic(path, text_column="code", target_columns=["ms"], language="python")
    assert rows[0]["group"] == rows[2]["group"] != rows[1]["group"]
    assert rows[0]["metrics"] == ["ms"] and rows[0]["source"] == "t.csv"
    splits = ("train", "validation", "test")
    arguments = {**TABLE, "language": "python", "validation": 0.3, "test": 0.3}
    assert sum(len(generic(path, split=split, **arguments)) for split in splits) == 3


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json", "t.parquet"])
def test_when_cells_are_bad_then_generic_names_file_row_and_column(name, tmp_path):
    path = tmp_path / name
    write_table(path, [ROWS[0], {**ROWS[1], "code": " "}])
    with pytest.raises(DataError, match=rf"{name}: 1 bad cells:\n  row 1.*, column 'code': expected a text"):
        generic(path, **TABLE, language="python")
    with pytest.raises(DataError, match=rf"{name}: .*no column time; there is code, ms"):
        generic(path, text_column="code", target_columns=["time"], language="python")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("fast", "expected a number, got 'fast'"),
        ("1_000", "expected a number"),
        ("nan", "nan is not a number to learn"),
        ("1e999", "1e999 is not a number to learn"),
    ],
)
def test_when_a_number_is_bad_then_its_line_is_named(cell, message, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"text,ms\nx,1\ny,{cell}\n")
    with pytest.raises(DataError, match=rf"row 1 \(line 3\), column 'ms': {message}"):
        generic(path, target_columns=["ms"], language="python")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "text,ms\nx,1,2\n", "line 2: 3 cells, the header has 2"),
        ("t.csv", 'text,ms\n"x,1\n', "line 2 .unexpected end of data"),
        ("t.csv", "text,ms,ms\nx,1,2\n", "column ms more than once"),
        ("t.csv", "", "no column text, ms; there is none"),
        ("t.jsonl", '{"text": "x", "ms": 1}\n{"text": \n', "line 2: Expecting value"),
        ("t.jsonl", "[1]\n", "line 1: expected an object"),
        ("t.jsonl", '{"text": "x"}\n', "line 1: no column ms"),
        ("t.json", '{"text": "x"}', "expected a list of objects"),
        ("t.parquet", "text", "not a parquet file"),
        ("t.xlsx", "text", "unknown format; give .csv, .tsv"),
    ],
)
def test_when_a_file_is_broken_then_generic_says_where(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        generic(tmp_path / name, target_columns=["ms"], language="python")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_columns": "ms", "language": "python"}, "must be a list of columns"),
        ({"target_columns": [], "language": "python"}, "must be a list of columns"),
        ({"target_columns": ["ms"]}, "give one of language_column"),
        ({"target_columns": ["ms"], "language": "python", "split": "dev"}, "no split 'dev'"),
        ({"target_columns": ["ms"], "language": "python", "context_columns": "n"}, "context_columns must be a list"),
    ],
)
def test_when_generic_is_asked_wrongly_then_the_message_says_how(arguments, message, tmp_path):
    with pytest.raises(DataError, match=message):
        generic(write_table(tmp_path / "t.csv"), text_column="code", **arguments)
    with pytest.raises(DataError, match=r"no file .*missing\.csv"):
        generic(tmp_path / "missing.csv", **TABLE, language="python")


def test_when_a_hub_data_set_is_named_then_it_is_streamed(monkeypatch):
    rows = [{"text": "x", "ms": 1.0}, {"text": "y", "ms": None}]

    def load(path, split, streaming):
        assert (path, split, streaming) == ("someone/something", "dev", True)
        return iter(rows)

    monkeypatch.setattr("code_rlm.data.external.load_dataset", load)
    arguments = {"target_columns": ["ms"], "language": "python", "hub_split": "dev"}
    assert [row["values"] for row in generic("someone/something", **arguments)] == [[1.0], [None]]
    rows[0].pop("ms")
    with pytest.raises(DataError, match="someone/something: no column ms"):
        generic("someone/something", **arguments)


# Metadata of the published sets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (3, "expected str"),
        ("[1]", "expected a dictionary"),
        ("{'a': open('x')}", "no Python literal"),
        ("{'a': __import__('os')}", "no Python literal"),
        ("{'a': " + "(" * 5000, "no Python literal"),
        ("{'a': '" + "x" * 300_000 + "'}", "characters are over the limit of 262144"),
    ],
)
def test_when_metadata_is_no_plain_dictionary_then_it_is_refused(text, message):
    with pytest.raises(DataError, match=message):
        parse_metadata(text)


def test_when_metadata_holds_nan_then_it_is_missing():
    assert parse_metadata("{'lat_a': nan, 'b': [1, -2.5], 'c': None}") == {"lat_a": None, "b": [1, -2.5], "c": None}


@pytest.mark.parametrize(
    ("text", "plain"),
    [("a\n\nb\n\n\n\nc", "a\nb\n\nc"), ("a\nb\n\nc", "a\nb\n\nc"), ("a", "a"), ("a\n\nb\n\n", "a\nb\n")],
)
def test_when_every_line_break_is_doubled_then_the_reader_takes_it_back(text, plain):
    assert readers.undouble(text) == plain
