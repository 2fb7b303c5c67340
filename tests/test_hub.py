"""The way through the Hub: pushed, loaded by remote code where the package is not installed, saved and pushed again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from huggingface_hub import HfApi, constants
from loopback_hub import LoopbackHub

import code_rlm

ROOT = Path(__file__).parents[1]
REMOTE_FILES = {
    "assembly_rlm.py",
    "configuration_rlm.py",
    "decoders_rlm.py",
    "digit_tree_rlm.py",
    "distributions_rlm.py",
    "ensemble_rlm.py",
    "errors_rlm.py",
    "explanation_rlm.py",
    "familiarity_rlm.py",
    "features_rlm.py",
    "generation_rlm.py",
    "language_model_rlm.py",
    "local_attention_rlm.py",
    "modeling_rlm.py",
    "numbers_rlm.py",
    "onnx_canonical_rlm.py",
    "onnx_costs_rlm.py",
    "onnx_graph_rlm.py",
    "onnx_text_rlm.py",
    "pipeline_rlm.py",
    "processing_rlm.py",
    "program_allocations_rlm.py",
    "program_costs_rlm.py",
    "program_facts_rlm.py",
    "program_growth_rlm.py",
    "program_loops_rlm.py",
    "program_text_rlm.py",
    "program_values_rlm.py",
    "source_rlm.py",
    "tokenization_rlm.py",
    "x86_rlm.py",
}
WEIGHTS = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
CODE = [tiny.PYTHON, tiny.ASSEMBLY, tiny.TRITON, tiny.PYTHON * 30]

# Pushed with the package at hand, from a folder with a local name, then loaded by the package itself.
PUSH = """
import json, sys
import code_rlm
folder, repo, code, texts = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:])
model, processor = code_rlm.load(folder)
tokenizer = processor.tokenizer
model.push_to_hub(repo)
tokenizer.push_to_hub(repo)
pipe = code_rlm.pipeline(repo)
remote = [name for name in sys.modules if name.startswith("transformers_modules")]
print(json.dumps({"answers": pipe(code), "ids": tokenizer(texts)["input_ids"], "remote": remote}))
"""

# Loaded without the package in every documented way, then saved and pushed as the next generation.
LOAD = """
import json
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer, pipeline
repo, save_to, push_to, code, texts = *sys.argv[1:4], *map(json.loads, sys.argv[4:])
try:
    AutoModel.from_pretrained(repo, trust_remote_code=False)
except ValueError as error:
    refusal = str(error)
trust = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(repo, **trust)
tokenizer = AutoTokenizer.from_pretrained(repo, **trust)
processor = AutoProcessor.from_pretrained(repo, **trust)
models = [auto.from_pretrained(repo, **trust) for auto in (AutoModel, AutoModelForSeq2SeqLM)]
pipes = [pipeline("code-regression", model=repo, **trust)]
pipes += [type(pipes[0])(model=model, tokenizer=tokenizer) for model in models]
pipes[1].save_pretrained(save_to)
for part in (models[1], tokenizer):
    part.push_to_hub(push_to)
classes = {type(x).__name__: type(x).__module__ for x in (config, tokenizer, processor, *models, *pipes)}
print(json.dumps({
    "refusal": refusal,
    "classes": classes,
    "answers": [pipe(code) for pipe in pipes],
    "ids": tokenizer(texts)["input_ids"],
    "decoded": [tokenizer.decode(ids) for ids in tokenizer(texts)["input_ids"]],
}))
"""

AGAIN = """
import json
from transformers import AutoTokenizer, pipeline
code, texts = map(json.loads, sys.argv[1:3])
found = []
for where in sys.argv[3:]:
    pipe = pipeline("code-regression", model=where, trust_remote_code=True)
    found.append({"answers": pipe(code), "ids": pipe.tokenizer(texts)["input_ids"]})
print(json.dumps(found))
"""


# A LoRA adapter whose base is on the hub, published beside it.
ADAPT = """
import json, sys
from pathlib import Path
import torch
import code_rlm
from huggingface_hub import HfApi
from code_rlm.training.adapters import add_lora, save_adapter
from code_rlm.training.options import LoraOptions
folder, base, repo, place, code = *sys.argv[1:5], json.loads(sys.argv[5])
model, processor = code_rlm.load(folder)
tokenizer = processor.tokenizer
model.push_to_hub(base)
tokenizer.push_to_hub(base)
wrapped = add_lora(code_rlm.load(base)[0], LoraOptions(rank=2), base)
torch.manual_seed(0)
for name, p in wrapped.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(p)
Path(place).mkdir()
save_adapter(wrapped, tokenizer, Path(place))
HfApi().create_repo(repo)
HfApi().upload_folder(repo_id=repo, folder_path=place)
answers = [code_rlm.pipeline(where)(code) for where in (base, place, repo)]
print(json.dumps([[entry["value"] for answer in found for entry in answer] for found in answers]))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub
        assert hub.unknown_requests == []


@pytest.fixture(scope="module")
def journey(hub, make_model, tokenizer, odd_texts, tmp_path_factory) -> dict[str, Any]:
    """What three machines in a row answered: the author's, a user's, another user's with what the first one saved."""
    machines = [tmp_path_factory.mktemp(name) for name in ("author", "user", "another")]
    folder = tiny.save(make_model, tokenizer, machines[0] / "checkpoint")
    asked = [json.dumps(CODE), json.dumps(odd_texts)]
    first, second, saved = "tester/tiny", "tester/second-generation", machines[1] / "saved"

    def run(machine: Path, code: str, *argv: Any, hidden: bool = True) -> Any:
        return tiny.run_python(code, *argv, cwd=machine, env=hub.env(machine / "home"), hidden=hidden)

    return {
        "author": run(machines[0], PUSH, folder, first, *asked, hidden=False),
        "user": run(machines[1], LOAD, first, saved, second, *asked),
        "another": run(machines[2], AGAIN, *asked, second, saved),
        "here": {"answers": code_rlm.pipeline(folder)(CODE), "ids": tokenizer(odd_texts)["input_ids"]},
        "saved": saved,
    }


def files_on(hub: LoopbackHub, repo: str, folder: Path, monkeypatch) -> dict[str, bytes]:
    """The files of a repository, as a client downloads them."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    names = [name for name in api.list_repo_files(repo) if name != ".gitattributes"]
    return {name: Path(api.hf_hub_download(repo, name, cache_dir=folder)).read_bytes() for name in names}


def values(answers: list[list[dict[str, Any]]]) -> list[float]:
    return [entry[key] for answer in answers for entry in answer for key in ("low", "value", "high")]


@pytest.mark.slow
def test_when_a_checkpoint_is_pushed_then_every_machine_answers_the_same(journey):
    expected = journey["here"]["answers"]
    assert journey["author"]["answers"] == journey["user"]["answers"][0]
    assert journey["user"]["answers"][1:] == [journey["user"]["answers"][0]] * 2
    assert values(journey["author"]["answers"]) == pytest.approx(values(expected), rel=2e-3)
    assert len({json.dumps(answer) for answer in expected}) == len(CODE)


@pytest.mark.slow
def test_when_what_was_loaded_is_saved_and_pushed_again_then_it_still_answers_the_same(journey):
    for found in journey["another"]:
        assert found["answers"] == journey["user"]["answers"][0]
        assert found["ids"] == journey["user"]["ids"]


@pytest.mark.slow
def test_when_the_package_loads_from_the_hub_then_no_remote_code_runs(journey):
    assert journey["author"]["remote"] == []


@pytest.mark.slow
def test_when_the_package_is_not_there_then_every_class_comes_from_the_hub_and_only_on_trust(journey):
    classes = journey["user"]["classes"]
    assert set(classes) == {
        "RLMConfig",
        "RLMTokenizer",
        "RLMProcessor",
        "RLMForConditionalGeneration",
        "CodeRegressionPipeline",
    }
    assert {module.split(".")[0] for module in classes.values()} == {"transformers_modules"}
    assert "trust_remote_code=True" in journey["user"]["refusal"]


@pytest.mark.slow
def test_when_the_tokenizer_is_reloaded_then_spaces_tabs_and_line_breaks_are_as_before(journey, odd_texts):
    assert journey["user"]["ids"] == journey["author"]["ids"] == journey["here"]["ids"]
    assert journey["user"]["decoded"] == odd_texts


@pytest.mark.slow
@pytest.mark.parametrize("repo", ["tester/tiny", "tester/second-generation"])
def test_when_a_repository_is_looked_at_then_it_is_whole_and_names_no_folder_of_ours(
    journey, hub, repo, tmp_path, monkeypatch
):
    files = files_on(hub, repo, tmp_path, monkeypatch)
    assert set(files) - {"README.md"} == WEIGHTS | REMOTE_FILES
    for name, content in files.items():
        for place in (tempfile.gettempdir(), str(ROOT), str(Path.home())):
            assert f"{place}/".encode() not in content, f"{name} names {place}"
    config = json.loads(files["config.json"])
    assert config["custom_pipelines"]["code-regression"]["impl"] == "pipeline_rlm.CodeRegressionPipeline"
    assert config["custom_pipelines"]["code-regression"]["pt"] == ["AutoModelForSeq2SeqLM"]
    assert set(config["custom_pipelines"]["code-regression"]) == {"impl", "pt"}
    assert config["auto_map"] == {
        "AutoConfig": "configuration_rlm.RLMConfig",
        "AutoModel": "modeling_rlm.RLMForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "modeling_rlm.RLMForConditionalGeneration",
        "AutoProcessor": "processing_rlm.RLMProcessor",
    }
    tokenizer_map = json.loads(files["tokenizer_config.json"])["auto_map"]
    assert [name for name in tokenizer_map["AutoTokenizer"] if name] == ["tokenization_rlm.RLMTokenizer"]
    # The code is ours to the letter: nothing was rewritten on the way.
    for name in REMOTE_FILES:
        assert files[name] == (Path(code_rlm.__file__).parent / name).read_bytes()


@pytest.mark.slow
def test_when_a_pipeline_was_saved_on_the_way_then_its_folder_is_whole(journey):
    assert {path.name for path in journey["saved"].iterdir()} - {"README.md"} == WEIGHTS | REMOTE_FILES


def test_when_the_encoder_config_brings_code_or_kernels_then_they_are_left_behind(make_config, tmp_path):
    plain = make_config()
    dangerous = {
        "trust_remote_code": True,
        "auto_map": {"AutoModel": "evil.Model"},
        "custom_pipelines": {"task": {"impl": "evil.Pipeline"}},
        "_attn_implementation": "evil/kernels",
        "_attn_implementation_internal": "evil/kernels",
        "attn_implementation": "evil/kernels",
        "_name_or_path": "/home/somebody/encoder",
        "quantization_config": {"quant_method": "evil"},
    }
    encoder = {**plain.encoder.to_dict(), **dangerous, "nested": {**dangerous, "kept": 3}}
    config = make_config(encoder=encoder)
    config.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert "evil" not in text and "somebody" not in text and "trust_remote_code" not in text
    assert json.loads(text)["encoder"]["nested"] == {"kept": 3}
    # Nor do they come in through a file that somebody wrote by hand.
    saved = json.loads(text)
    (tmp_path / "config.json").write_text(json.dumps({**saved, "encoder": {**saved["encoder"], **dangerous}}))
    loaded = code_rlm.RLMConfig.from_pretrained(tmp_path)
    assert not getattr(loaded.encoder, "auto_map", None) and not getattr(loaded.encoder, "trust_remote_code", None)
    assert loaded.encoder._attn_implementation in (None, "eager", "sdpa")
    assert not hasattr(loaded.encoder, "quantization_config")


def test_when_auto_map_points_elsewhere_then_the_package_does_not_follow(make_model, tokenizer, tmp_path):
    folder = tiny.save(make_model, tokenizer, tmp_path)
    path = folder / "config.json"
    evil = {
        "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"},
        "custom_pipelines": {"x": {"impl": "e.P"}},
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), **evil}))
    (folder / "evil.py").write_text("raise SystemExit('ran code from a checkpoint')\n")
    model, _ = code_rlm.load(folder)
    assert model.config.auto_map["AutoModel"] == "modeling_rlm.RLMForConditionalGeneration"
    assert list(model.config.to_dict()["custom_pipelines"]) == ["code-regression"]


@pytest.mark.slow
def test_when_an_adapter_is_on_the_hub_then_its_base_is_found_there(hub, make_model, tokenizer, tmp_path):
    pytest.importorskip("peft")
    folder = tiny.save(make_model, tokenizer, tmp_path / "checkpoint")
    argv = (folder, "tester/base", "tester/adapter", tmp_path / "adapter", json.dumps(CODE))
    base, local, published = tiny.run_python(ADAPT, *argv, cwd=tmp_path, env=hub.env(tmp_path / "home"))
    assert published == local != base
