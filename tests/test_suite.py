"""The paper in small: from a hub on this machine through `configs/paper_small.yaml` to a report beside the paper's figures."""

from __future__ import annotations

import json
from pathlib import Path

import published_tables as tables
import pytest
import tiny
from huggingface_hub import HfApi, constants
from loopback_hub import LoopbackHub
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from code_rlm.cli import main
from code_rlm.data.published import CODE_SPACES, accuracy_metric
from code_rlm.evaluation.paper import FIGURES, TABLES
from code_rlm.hub.convert import METRICS

ROOT = Path(__file__).parents[1]


def language_model(folder: Path) -> Path:
    """A random language model in SmolLM2's layout: Llama, byte-level tokens, one special token, no padding token."""
    backend = Tokenizer(models.BPE())
    digits, parts = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, parts])
    backend.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=380, special_tokens=[end], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([Path(tables.__file__).read_text()], trainer)
    special = {"bos_token": end, "eos_token": end, "unk_token": end}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=380, num_key_value_heads=2, bos_token_id=0, eos_token_id=0, tie_word_embeddings=True, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


RUN = """
import json, sys
from code_rlm.cli import main
status = [main(argv) for argv in json.loads(sys.argv[1])]
print(json.dumps(status))
"""


@pytest.fixture(scope="module")
def journey(tmp_path_factory) -> Path:
    """The folder of a run from the hub to the report. Not to be changed by tests."""
    folder = tmp_path_factory.mktemp("journey")
    root = tables.write_both(folder / "data", 120)
    language_model(folder / "encoder")
    with pytest.MonkeyPatch.context() as patch, LoopbackHub(folder / "hub") as hub:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        for repo, kind, path in (
            ("akhauriyash/Code-Regression", "dataset", root / "Code-Regression"),
            ("akhauriyash/GraphArch-Regression", "dataset", root / "GraphArch-Regression"),
            ("HuggingFaceTB/SmolLM2-135M", "model", folder / "encoder"),
        ):
            api.create_repo(repo, repo_type=kind)
            api.upload_folder(repo_id=repo, folder_path=path, repo_type=kind)
        config = str(ROOT / "configs" / "paper_small.yaml")
        small = [
            "--steps",
            "4",
            "--save-every",
            "4",
            "--eval-every",
            "4",
            "--eval-rows",
            "12",
            "--batch-tokens",
            "2000",
        ]
        small += [
            "--mixed-precision",
            "no",
            "--model.config",
            json.dumps(
                {
                    "decoder_hidden_size": 32,
                    "decoder_intermediate_size": 32,
                    "decoder_num_layers": 2,
                    "decoder_num_attention_heads": 8,
                    "decoder_num_key_value_heads": 8,
                    "max_input_tokens": 2048,
                }
            ),
        ]
        asked = ["--max-rows", "12", "--resamples", "10", "--split", "all", "--few-shot", "1", "--batch-size", "4"]
        runs = [
            ["train", "--config", config, "--out", str(folder / "run"), *small],
            [
                "evaluate",
                "--suite",
                "paper",
                "--model",
                str(folder / "run" / "final"),
                "--out",
                str(folder / "suite"),
                *asked,
            ],
        ]
        env = {**hub.env(folder / "home"), "HF_HUB_OFFLINE": "0"}
        for argv in runs:
            assert tiny.run_python(RUN, json.dumps([argv]), cwd=folder, env=env) == [0]
    return folder


@pytest.mark.slow
def test_when_the_paper_is_run_in_small_from_the_hub_then_its_tables_stand_beside_the_papers(journey):
    report = json.loads((journey / "suite" / "suite.json").read_text())
    assert list(report["tables"]) == [table.title for table in TABLES]
    measured = {
        row["row"]["label"]: row for rows in report["tables"].values() for row in rows if row["value"] is not None
    }
    assert {"APPS, peak memory", "KernelBook, Triton latency", "C++", "C#", "F#", "OCaml", "Pixel3", "ENAS"} <= set(
        measured
    )
    assert all(-1 <= row["low"] <= row["high"] <= 1 and abs(row["value"]) <= 1 for row in measured.values())
    assert measured["C++"]["rows"] == 12 and measured["C++"]["row"]["value"] == 0.748
    text = (journey / "suite" / "suite.md").read_text()
    assert "| APPS, peak memory | spearman | 0.930 |" in text
    assert "no space Amoeba; there are ENAS" in text and "needs runs of its own" in text
    # Sixteen architectures of ENAS: another checkpoint measured them.
    few = [row for row in report["tables"]["NAS spaces from few architectures"] if row["row"]["label"] == "ENAS"]
    assert few[0]["value"] is not None and (journey / "suite" / "few_shot" / "ENAS_16").is_dir()


@pytest.mark.slow
def test_when_the_run_is_over_then_its_checkpoint_writes_p10_and_its_log_says_what_was_left_out(journey):
    config = json.loads((journey / "run" / "final" / "config.json").read_text())
    assert (
        config["number_format"]["layout"] == "p10"
        and config["freeze_encoder"]
        and config["encoder"]["model_type"] == "llama"
    )
    limits = {metric["name"]: metric.get("max_input_tokens") for metric in config["metrics"]}
    assert limits["judge_memory_bytes"] == 1024 and limits["validation_accuracy@enas"] is None


def test_when_names_are_compared_then_readers_suite_and_convert_use_the_same():
    metrics = {row.metric for table in TABLES for row in table.rows if not table.needs}
    published = {metric["name"] for metric in METRICS}
    assert {space.metric for space in CODE_SPACES.values()} <= published
    assert {m for m in metrics if not m.startswith("latency_ms@") or m == "latency_ms@rtx_a6000"} <= published
    for table in TABLES:
        for row in table.rows:
            if row.metric.startswith("validation_accuracy"):
                assert row.metric == accuracy_metric(row.spaces[0])


def test_when_figures_are_quoted_then_each_has_a_statistic_that_reports_know():
    assert {figure.score for figure in FIGURES} <= {"spearman", "kendall"}
    assert {row.statistic for table in TABLES for row in table.rows} == {"spearman", "kendall"}
    # The context ablation names neither its data nor its statistic.
    assert 0.838 not in {figure.value for figure in FIGURES}


def test_when_a_suite_is_asked_for_with_tables_then_the_message_says_to_leave_them_out(tmp_path, capsys):
    assert main(["evaluate", "--suite", "paper", "--task", "bhive_zen4", "--out", str(tmp_path)]) == 2
    assert "--suite names its own tables and metrics; leave out --task" in capsys.readouterr().err
