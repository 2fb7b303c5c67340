"""Data sets as folders of the hub: rows, card, the committed cards, and the way through a hub on this machine."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest
from datasets import load_dataset
from loopback_hub import LoopbackHub

from code_rlm.data.readers import TASKS, read_task
from code_rlm.data.schema import FEATURES, DataError, Example
from code_rlm.data.splits import split_of
from code_rlm_data.cards import FACTS, check_card, export_rows
from code_rlm_data.cards.__main__ import CARDS, END, START, index, main, write_index
from code_rlm_data.generator import dataset as polyglot
from code_rlm_data.measure import Program, measure_programs

ROOT = Path(__file__).parents[1]
ROWS = 30


def examples():
    """Rows of two languages and one metric that is missing now and then."""
    for row in range(ROWS):
        yield Example(
            f"print({row})\n" * (row + 1),
            ("python", "ruby")[row % 2],
            ["peak_rss_bytes", "latency_ms@one"],
            [1000.0 * row, None if row % 3 else 0.5],
            group=f"g{row % 15}",
            context=[f"size: {row}"],
            source="toy",
            outcome="timeout" if row == 4 else "ok",
            hardware="one core",
            versions="Python 3.11",
        )


def load(folder, tmp_path):
    return load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))


def test_when_rows_are_exported_then_they_load_as_they_were_with_the_schemas_features(tmp_path):
    export_rows(examples(), tmp_path / "set", FACTS["bhive_zen4"], name="toy", description="A toy.", offered=ROWS + 2)
    loaded = load(tmp_path / "set", tmp_path)
    assert all(part.features == FEATURES for part in loaded.values())
    rows = {row["text"]: (split, row) for split, part in loaded.items() for row in part}
    assert len(rows) == ROWS
    for example in examples():
        assert rows[example.text] == (split_of(example.group), example.as_dict())


def test_when_rows_are_exported_then_the_card_counts_them(tmp_path):
    export_rows(
        examples(), tmp_path, FACTS["polyglot_memory"], name="toy", offered=ROWS + 2, left_because="they are bad"
    )
    card = check_card(tmp_path / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0" and data["language"] == ["code"] and data["size_categories"] == ["n<1K"]
    assert {"python", "ruby", "memory"} <= set(data["tags"])
    assert data["code_rlm"] == {
        "task": "toy",
        "rows": ROWS,
        "groups": 15,
        "languages": ["python", "ruby"],
        "metrics": ["latency_ms@one", "peak_rss_bytes"],
    }
    sizes = sum(file.stat().st_size for file in tmp_path.glob("*.parquet"))
    assert data["dataset_info"]["download_size"] == sizes
    assert "30 rows in 15 groups. 2 rows of the source are left out: they are bad." in card.text
    assert "| `peak_rss_bytes` | ruby | bytes | 15 | 1000 | 3800 | 15,000 | 26,200 | 29,000 |" in card.text
    assert "| `latency_ms@one` | python | ms | 5 |" in card.text
    assert "| python | 15 | 14 |" in card.text and "ok 29, timeout 1" in card.text
    assert "Hardware: one core. Versions: Python 3.11." in card.text
    for trap in FACTS["polyglot_memory"].traps:
        assert trap in card.text


def test_when_a_split_has_no_rows_then_an_old_file_of_it_is_gone_and_the_folder_loads(tmp_path):
    folder = tmp_path / "set"
    export_rows(examples(), folder, FACTS["bhive_zen4"], name="toy")
    assert len(list(folder.glob("*.parquet"))) == 3
    export_rows(
        (each for each in examples() if split_of(each.group) == "train"), folder, FACTS["bhive_zen4"], name="toy"
    )
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "train.parquet"]
    assert list(load(folder, tmp_path)) == ["train"]


def test_when_a_row_is_wrong_then_nothing_is_written(tmp_path):
    bad = [*examples(), Example("x", "Python", ["cycles"], [1.0], group="g")]
    with pytest.raises(DataError, match=r"toy: rows from 0 on.*(?s:.*)'Python' must be lower case"):
        export_rows(bad, tmp_path, FACTS["bhive_zen4"], name="toy")
    with pytest.raises(DataError, match="toy: no rows to write"):
        export_rows([], tmp_path, FACTS["bhive_zen4"], name="toy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "# no YAML\n", "no card of a data set in the schema: KeyError"),
        (lambda text: text.replace("num_examples: ", "num_examples: 1"), "rows, but 30 in all"),
        (lambda text: text.replace("name: outcome", "name: ending"), "are not the schema's"),
        (lambda text: text.replace("license: mit\n", ""), "no license"),
        (lambda text: text.replace("n<1K", "1K<n<10K"), "for 30 rows"),
        (lambda text: text.replace("- split: test\n", "- split: dev\n"), "files for .*dev"),
    ],
)
def test_when_a_card_contradicts_itself_then_it_is_refused(change, message, tmp_path):
    export_rows(examples(), tmp_path, FACTS["bhive_zen4"], name="toy", card_only=True)
    path = tmp_path / "README.md"
    assert list(tmp_path.iterdir()) == [path]
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        check_card(path)


def test_when_a_task_is_exported_by_the_command_then_its_rows_are_the_readers(tmp_path, capsys):
    table = tmp_path / TASKS["bhive_zen4"].file
    table.parent.mkdir()
    columns = {"asm": [f"add eax, {row}; ret" for row in range(40)], "hex": [f"{row:02x}" for row in range(40)]}
    pd.DataFrame({**columns, "cycles": [row + 0.25 for row in range(40)]}).to_parquet(table)
    assert main(["--task", "bhive_zen4", "--data-root", str(tmp_path), "--out", str(tmp_path / "set")]) == 0
    assert "40 rows, 40 groups, 1 metrics" in capsys.readouterr().out
    loaded = load(tmp_path / "set", tmp_path)
    for split, part in loaded.items():
        assert list(part) == list(read_task("bhive_zen4", tmp_path, split))
    assert main(["--task", "bhive_zen4", "--data-root", str(tmp_path / "no"), "--out", str(tmp_path / "set")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_when_facts_are_written_then_every_task_has_them():
    assert set(FACTS) == set(TASKS)
    for name, facts in FACTS.items():
        assert facts.source and facts.measured and facts.traps, name


@pytest.mark.parametrize("path", sorted(CARDS.glob("*/README.md")), ids=lambda path: path.parent.name)
def test_when_a_card_is_committed_then_it_is_sound_and_of_its_task(path):
    card = check_card(path)
    task = TASKS[path.parent.name]
    own = card.data.to_dict()["code_rlm"]
    assert own["task"] == task.name and card.data.license == FACTS[task.name].licence
    assert {metric.split("@")[0] for metric in own["metrics"]} == {metric.split("@")[0] for metric in task.metrics}
    assert FACTS[task.name].measured in card.text and all(trap in card.text for trap in FACTS[task.name].traps)


def test_when_the_table_of_cards_is_written_then_it_is_what_stands_in_the_readme(tmp_path):
    readme = ROOT / "data" / "README.md"  # of the repository: the installed package has none
    copy = tmp_path / "README.md"
    copy.write_text(readme.read_text())
    write_index(copy)
    assert copy.read_text() == readme.read_text(), "python -m code_rlm_data.cards --index data/README.md"
    assert index().count("\n") > 2
    copy.write_text("no marks")
    with pytest.raises(DataError, match=f"no lines {START} and {END}"):
        write_index(copy)


def test_when_a_exported_polyglot_set_is_pushed_then_it_comes_back_the_same(tmp_path):
    """Measured here, exported, loaded from the folder, pushed to a hub on this machine, and loaded by its id there."""
    texts = [f"total = 0\nfor i in range({10**k}):\n    total += i\nprint(total)\n" for k in range(1, 4)]
    programs = [
        Program(text, "python", expected_stdout=str(sum(range(10 ** (k + 1)))), group=f"problem-{k}", name=f"p{k}")
        for k, text in enumerate(texts)
    ]
    measure_programs(programs, tmp_path / "measured", repeats=1, metrics=polyglot.METRICS, source="polyglot_memory")
    polyglot.export(str(tmp_path / "measured"), str(tmp_path / "set"))
    folder = load(tmp_path / "set", tmp_path)
    code = """
        import json, sys
        from datasets import get_dataset_config_names, load_dataset
        from huggingface_hub import DatasetCard, HfApi
        local = load_dataset(sys.argv[1])
        local.push_to_hub("tester/pushed")
        HfApi().create_repo("tester/folder", repo_type="dataset")
        HfApi().upload_folder(repo_id="tester/folder", repo_type="dataset", folder_path=sys.argv[1])
        answers = {}
        for name in ("tester/pushed", "tester/folder"):
            back = load_dataset(name)
            streamed = load_dataset(name, streaming=True)
            answers[name] = {
                "rows": {split: part.to_list() for split, part in back.items()},
                "streamed": {split: list(part) for split, part in streamed.items()},
                "features": str(next(iter(back.values())).features),
            }
        answers["licence"] = DatasetCard.load("tester/folder").data.license
        print(json.dumps(answers))
    """
    with LoopbackHub(tmp_path / "hub") as hub:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "set")],
            env={**os.environ, **hub.env(tmp_path / "home")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        assert hub.unknown_requests == []
    answers = json.loads(done.stdout.splitlines()[-1])
    expected = {split: part.to_list() for split, part in folder.items()}
    assert sum(map(len, expected.values())) == 3
    for name in ("tester/pushed", "tester/folder"):
        assert answers[name]["rows"] == answers[name]["streamed"] == expected
        assert answers[name]["features"] == str(FEATURES)
    assert answers["licence"] == "apache-2.0"
