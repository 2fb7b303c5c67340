"""Model cards: what is known of a checkpoint, in the form that the hub reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from loopback_hub import LoopbackHub
from test_results import entry, report

from code_rlm.cli import main
from code_rlm.errors_rlm import CheckpointError
from code_rlm.hub.card import CARD, known_of, model_card
from code_rlm.loading import DEFAULT_CHECKPOINT

ROOT = Path(__file__).parents[1]
OPTIONS = {
    "data": [{"file": "mine.parquet", "target_columns": ["peak_memory_bytes"], "group_column": "problem"}],
    "init": "you/base",
    "lora": {"rank": 8},
    **{"steps": 300, "max_tokens": 96, "batch_tokens": 4096, "learning_rate": 3e-4, "seed": 7},
}


@pytest.fixture
def tuned(checkpoint, tmp_path) -> Path:
    """A user's fine-tuned checkpoint, with the options of its run and a report beside it."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "final"))
    (folder / "training_options.yaml").write_text(yaml.safe_dump(OPTIONS))
    scores = entry(0.8, 0.7, 0.9, 0.95, truncated_share=0.25)
    (folder / "report.json").write_text(json.dumps(report(peak_memory_bytes=scores)))
    return folder


def test_when_the_card_of_the_shipped_weights_is_made_anew_then_it_is_already_there(monkeypatch):
    monkeypatch.chdir(ROOT)
    known = known_of(DEFAULT_CHECKPOINT)
    assert (DEFAULT_CHECKPOINT / CARD).read_text(encoding="utf-8") == str(model_card(known)), "run: code-rlm card"
    assert main(["card", "--check"]) == 0
    metrics = {metric["name"] for metric in known.config.metrics}
    scored = {result.dataset_config for result in ModelCard.load(DEFAULT_CHECKPOINT / CARD).data.eval_results}
    assert scored and scored <= metrics and known.training and known.license == "apache-2.0"
    trained = model_card(known).text.split("## How it was trained")[1]
    assert "No configuration reproduces these weights" in trained and all(name in trained for name in known.training)


def test_when_a_card_is_read_back_then_every_score_of_the_report_is_in_its_metadata(tuned):
    card = ModelCard(str(model_card(known_of(tuned, name="you/mine", license="mit"))))
    data = card.data
    assert isinstance(data, ModelCardData) and all(isinstance(result, EvalResult) for result in data.eval_results)
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "code-regression", "mit")
    assert data.base_model == "you/base" and {"python", "onnx", "code-regression"} <= set(data.tags)
    found = {result.metric_type: result for result in data.eval_results}
    assert {kind: result.metric_value for kind, result in found.items()} == {
        **{"spearmanr": 0.8, "kendalltau": 0.8, "mape": 0.5},
        "coverage_90": 0.8,
    }
    assert found["spearmanr"].metric_args == {"rows": 40, "groups": 9, "interval_95": [0.7, 0.9]}
    assert found["mape"].dataset_type == "mine" and found["mape"].dataset_config == "peak_memory_bytes"


def test_when_a_baseline_wins_or_intervals_miss_then_the_limits_name_it(tuned):
    text = model_card(known_of(tuned)).text
    limits = text.split("## Limits")[1].split("\n## ")[0]
    assert "boosted trees 0.950, the model 0.800 (0.700 to 0.900)." in limits
    assert "leaves 90% out for: mine peak_memory_bytes (80.0%)" in limits
    assert "Few groups" in limits and "peak_memory_bytes (9)" in limits
    assert "mine 25%" in limits and "`cycles`" in limits.split("Metrics without a stored score")[1]
    assert "Training read at most 96 tokens of an input; up to 160" in limits
    trained = text.split("## How it was trained")[1]
    assert "mine.parquet (peak_memory_bytes, grouped by problem)" in trained
    assert all(words in trained for words in ("from the weights of you/base", "LoRA of rank 8", "300 steps", "seed 7"))
    assert "No judgement of people" in text and 'model="final", trust_remote_code=True' in text


def test_when_there_is_no_report_then_the_card_states_that_nothing_was_measured(tuned):
    (tuned / "report.json").unlink()
    (tuned / "training_options.yaml").unlink()
    card = model_card(known_of(tuned))
    assert "Nothing was measured" in card.text and "not recorded" in card.text
    assert card.data.eval_results is None and "## Results" not in card.text and card.data.license is None


def test_when_runs_are_named_then_the_card_remembers_them_and_a_later_report_changes_it(tuned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("first.yaml")
    run.write_text(
        "# Went well. Stopped early.\n#   code-rlm train --config first.yaml\ndata: [{task: bhive_zen4}]\nsteps: 5\n"
    )
    given = ["card", "--model", str(tuned)]
    assert main([*given, "--training", str(run), "--license", "mit", "--name", "you/mine"]) == 0
    text = (tuned / CARD).read_text(encoding="utf-8")
    assert "Went well. Stopped early." in text and "code-rlm train --config" not in text
    assert "| bhive_zen4 |" in text and "MIT (blocks)" in text
    (tuned / "training_options.yaml").unlink()
    assert main([*given, "--check"]) == 0  # runs, name and licence are those of the card
    (tuned / "report.json").write_text(json.dumps(report(peak_memory_bytes=entry(0.7, 0.6, 0.8, 0.5))))
    assert main([*given, "--check"]) == 1
    assert main(given) == 0 and main([*given, "--check"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "has no config.json"),
        (["--report", "nowhere.json"], "There is no report nowhere.json"),
        (["--training", "nowhere.yaml"], "There is no nowhere.yaml"),
        (["--push"], "--push needs the hub id"),
    ],
)
def test_when_something_is_missing_then_one_line_names_it(tuned, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tuned.parent)
    assert main(["card", "--model", str(tuned), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_when_a_file_is_not_what_it_should_be_then_the_message_names_it(tuned):
    (tuned / "report.json").write_text('{"tasks": {"t": {"m": {}}}}')
    with pytest.raises(CheckpointError, match=r"report.json is not a report of code-rlm evaluate"):
        known_of(tuned)
    (tuned / "report.json").unlink()
    (tuned / "training_options.yaml").write_text("- 1\n")
    with pytest.raises(CheckpointError, match="holds no options"):
        model_card(known_of(tuned))


PUSH = """
import json, sys
from huggingface_hub import HfApi, ModelCard
from code_rlm.cli import main
folder, repo = sys.argv[1:3]
HfApi().create_repo(repo)
HfApi().upload_file(repo_id=repo, path_or_fileobj=folder + "/config.json", path_in_repo="config.json")
statuses = [main(["card", "--model", folder, "--name", name, "--push"]) for name in (repo, "tester/nowhere")]
card = ModelCard.load(repo)
card.validate()
print(json.dumps({"statuses": statuses, "text": str(card), "results": len(card.data.eval_results)}))
"""


@pytest.mark.slow
def test_when_a_card_is_pushed_then_the_hub_accepts_it_and_gives_it_back(tuned, tmp_path):
    with LoopbackHub(tmp_path / "hub") as hub:
        found = tiny.run_python(PUSH, tuned, "tester/mine", cwd=tmp_path, env=hub.env(tmp_path / "home"))
    assert found["statuses"] == [0, 2] and found["results"] == 4
    assert found["text"].strip() == str(model_card(known_of(tuned, name="tester/mine"))).strip()
