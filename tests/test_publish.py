"""Publishing on a hub on this machine: model, adapter and table; a colleague without the package gets the same answers."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pandas as pd
import pytest
import tiny
from huggingface_hub import HfApi, constants, metadata_load
from loopback_hub import LoopbackHub

import code_rlm
from code_rlm.cli import main
from code_rlm.data.nas_graphs import build_graph
from code_rlm.hub.publish import prepare

CELL = "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
PUBLISH = """
import json, sys
from code_rlm.cli import main
print(json.dumps([main(argv) for argv in json.loads(sys.argv[1])]))
"""
COLLEAGUE = """
import json, logging, sys
messages = []
class Kept(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())
logging.getLogger("transformers").addHandler(Kept())
from pathlib import Path
from transformers import pipeline
pipe = pipeline("code-regression", model="tester/rlm", revision="main", trust_remote_code=True)
asked = {"metrics": ["accuracy_percent", "latency_ms@pixel3"]}
answers = [pipe(sys.argv[1], metrics=["peak_memory_bytes"]), pipe(Path(sys.argv[2]), **asked)]
from huggingface_hub import snapshot_download
folder = snapshot_download("tester/rlm")
sys.path.insert(0, folder)
from handler import EndpointHandler
import base64
endpoint = EndpointHandler(folder)
graph = base64.b64encode(Path(sys.argv[2]).read_bytes()).decode()
served = [
    endpoint({"inputs": sys.argv[1], "parameters": {"metrics": ["peak_memory_bytes"]}}),
    endpoint({"inputs": [{"onnx": graph}], "parameters": asked})[0],
    endpoint({"inputs": ""}),
    endpoint({"inputs": "/etc/hostname", "parameters": {"language": "python", "metrics": ["peak_memory_bytes"]}}),
]
print(json.dumps([answers, served, [m for m in messages if "new version" in m]]))
"""


@pytest.fixture(scope="module")
def checkpoint(make_model, tokenizer, tmp_path_factory) -> Path:
    return tiny.save(make_model, tokenizer, tmp_path_factory.mktemp("model") / "final")


@pytest.mark.slow
def test_when_a_checkpoint_is_published_then_a_colleague_and_an_endpoint_answer_the_same_and_quietly(
    checkpoint, tmp_path
):
    table = tmp_path / "table"
    table.mkdir()
    pd.DataFrame({"text": ["x"], "ms": [1.0]}).to_parquet(table / "rows.parquet")
    (table / "README.md").write_text("---\nlicense: mit\n---\n# A table\n")
    graph = tmp_path / "cell.onnx"
    onnx.save(build_graph("nasbench201", CELL), graph)
    (checkpoint / "state").mkdir()
    (checkpoint / "state" / "optimizer.bin").write_bytes(b"large")
    with LoopbackHub(tmp_path / "hub") as hub:
        env = {**hub.env(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        runs = [
            ["publish", str(checkpoint), "--name", "tester/rlm", "--license", "mit"],
            ["publish", str(table), "--dataset", "--name", "tester/table"],
            ["publish", str(table), "--name", "tester/no-model"],
        ]
        status = tiny.run_python(PUBLISH, json.dumps(runs), cwd=tmp_path, env=env)
        answers, served, warned = tiny.run_python(
            COLLEAGUE,
            tiny.PYTHON,
            graph,
            cwd=tmp_path,
            hidden=True,
            env={**hub.env(tmp_path / "other"), "HF_HUB_OFFLINE": "0"},
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "HF_HUB_OFFLINE", False)
            api = HfApi(endpoint=hub.endpoint, token=hub.token)
            files = set(api.list_repo_files("tester/rlm"))
            tables = set(api.list_repo_files("tester/table", repo_type="dataset"))
    assert status == [0, 0, 2]
    assert {"README.md", "handler.py", "requirements.txt", "model.safetensors", "pipeline_rlm.py"} <= files
    assert not any(name.startswith("state") for name in files) and {"README.md", "rows.parquet"} <= tables
    pipe = code_rlm.pipeline(checkpoint)
    expected = [
        pipe(tiny.PYTHON, metrics=["peak_memory_bytes"]),
        pipe(graph, metrics=["accuracy_percent", "latency_ms@pixel3"]),
    ]
    for found in (answers, served[:2]):
        values = [[entry["value"] for entry in answer] for answer in found]
        assert values == [[pytest.approx(entry["value"], rel=1e-4) for entry in answer] for answer in expected]
    assert "empty" in served[2]["error"]
    assert served[3] == {"error": "inputs must be code, not the name of a file"}
    assert warned == []


def test_when_a_checkpoint_is_prepared_then_its_card_has_what_the_hub_reads(checkpoint, tmp_path):
    options = {
        "data": {"sources": [{"task": "code_regression"}, {"task": "bhive_zen4"}]},
        "model": {"init": "you/base"},
    }
    (checkpoint / "training_options.yaml").write_text(json.dumps(options))
    prepare(checkpoint, "you/rlm", "mit")
    data = metadata_load(checkpoint / "README.md")
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "code-regression"
    assert data["datasets"] == ["akhauriyash/Code-Regression"] and data["base_model"] == "you/base"
    assert {example["example_title"] for example in data["widget"]} == {"python", "x86asm", "triton"}
    assert 'model="you/rlm", revision="main", trust_remote_code=True' in (checkpoint / "README.md").read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere", "--name", "you/rlm"], "There is no folder nowhere"),
        ([".", "--name", "rlm"], "--name must be a hub id such as you/my-rlm, got 'rlm'"),
        ([".", "--name", "you/rlm"], "config.json"),
        ([".", "--name", "you/table", "--dataset"], "has no README.md with metadata"),
    ],
)
def test_when_a_folder_cannot_be_published_then_the_message_says_why(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["publish", *argv]) == 2
    assert message in capsys.readouterr().err
