"""`code-rlm serve`: answers that are the pipeline's, batches of several requests, limits, the key, and a graceful stop."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import tiny

from code_rlm.cli import main
from code_rlm.errors_rlm import InputError

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from code_rlm.data.nas_graphs import build_graph
from code_rlm.processing_rlm import CodeInput
from code_rlm.serving.app import Limits, make_app
from code_rlm.serving.batching import Batcher, QueueFullError

CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"
METRIC = "cpu_time_ms"


@pytest.fixture
def client(pipe):
    with TestClient(make_app(pipe)) as client:
        yield client


# ---------------------------------------------------------------------------------------------------- answers


def test_when_numbers_are_asked_for_then_they_are_those_of_the_pipeline(client, pipe):
    inputs = [{"text": tiny.PYTHON, "context": {"n": "3"}}, {"text": tiny.ASSEMBLY, "language": "x86asm"}]
    answer = client.post("/predict", json={"inputs": inputs, "quantiles": [0.25], "interval": 0.8})
    assert answer.status_code == 200, answer.text
    assert answer.json()["answers"] == pipe(inputs, quantiles=[0.25], interval=0.8)
    limited = client.post("/predict", json={"inputs": inputs[:1], "metrics": [METRIC], "above": {METRIC: 3.0}})
    assert limited.json()["answers"] == pipe(inputs[:1], metrics=[METRIC], above={METRIC: 3.0})


def test_when_a_graph_is_sent_then_it_is_read(client, pipe):
    model = build_graph("nasbench201", CELL)
    sent = {"onnx_base64": base64.b64encode(model.SerializeToString()).decode()}
    answers = client.post("/predict", json={"inputs": [sent], "metrics": ["accuracy_percent"]}).json()["answers"]
    assert answers == [pipe(model, metrics=["accuracy_percent"])]
    broken = client.post("/predict", json={"inputs": [{"onnx_base64": "AAAA"}], "metrics": ["accuracy_percent"]})
    assert broken.status_code == 400


def test_when_candidates_are_sent_then_the_ranking_is_that_of_the_pipeline(client, pipe):
    texts = [tiny.PYTHON, "x = 1\n", "print(3)\n"]
    inputs = [{"text": text, "language": "python"} for text in texts]
    ranking = client.post("/rank", json={"inputs": inputs, "metric": METRIC}).json()["ranking"]
    expected = pipe.rank(inputs, METRIC)
    assert [row["index"] for row in ranking] == [row["index"] for row in expected]
    assert ranking[0]["probability_best"] == pytest.approx(expected[0]["probability_best"])


def test_when_an_explanation_is_asked_for_then_it_is_that_of_the_pipeline(client, pipe):
    found = client.post("/explain", json={"input": {"text": tiny.PYTHON}, "metric": METRIC, "unit": "line"}).json()
    expected = pipe.explain(CodeInput(tiny.PYTHON), METRIC, "line")
    assert [part["effect"] for part in found["parts"]] == pytest.approx([part["effect"] for part in expected["parts"]])


def test_when_health_and_counters_are_read_then_they_show_what_was_asked(client, pipe):
    client.post("/predict", json={"inputs": [{"text": tiny.PYTHON}]})
    client.post("/predict", json={"inputs": []})
    assert client.get("/health").json()["metrics"] == pipe.model.config.metric_names()
    text = client.get("/metrics").text
    assert 'code_rlm_requests_total{path="/predict",status="200"} 1.0' in text
    assert 'code_rlm_requests_total{path="/predict",status="422"} 1.0' in text
    assert "code_rlm_batch_inputs_count 1.0" in text and "code_rlm_waiting_inputs 0.0" in text


def test_when_the_schema_is_read_then_its_own_examples_are_accepted(client):
    schema = client.get("/openapi.json").json()
    asked = 0
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody")
            if body is None:
                continue
            name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            for example in schema["components"]["schemas"][name]["examples"]:
                answer = client.request(method, path, json=example)
                assert answer.status_code == 200, (path, answer.text)
                asked += 1
            assert {"400", "413", "503", "504", "422"} <= set(operation["responses"])
    assert asked == 3


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/predict", {"inputs": [{"text": " "}]}, 400, "Input 0: .*empty or only whitespace"),
        ("/predict", {"inputs": [{"text": "x = 1"}], "metrics": ["speed"]}, 400, "does not predict 'speed'"),
        ("/predict", {"inputs": [{"text": "x = 1", "onnx_base64": "AA"}]}, 422, "one of them"),
        ("/predict", {"inputs": [{"text": "x = 1"}], "interval": 1}, 422, "less than 1"),
        ("/predict", {"inputs": [{"text": "x = 1"}], "colour": 1}, 422, "Extra inputs are not permitted"),
        ("/predict", {"inputs": [{"text": "x = 1"}] * 5}, 413, "5 inputs; at most 4"),
        ("/predict", {"inputs": [{"text": "x = 1\n" * 9999}]}, 413, "more than 20000 bytes"),
        ("/rank", {"inputs": [{"text": "x = 1"}], "metric": "speed"}, 400, "does not predict 'speed'"),
        ("/explain", {"input": {"text": "x = 1"}, "metric": METRIC}, 400, "one part only"),
    ],
)
def test_when_a_request_is_unusable_then_the_answer_says_why(pipe, path, body, status, message):
    with TestClient(make_app(pipe, limits=Limits(body_bytes=20_000, inputs=4))) as client:
        answer = client.post(path, json=body)
        assert answer.status_code == status and re.search(message, answer.text), answer.text


def test_when_a_text_is_a_path_of_the_server_then_no_file_is_read(client, tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_text("password = 'x'\nother = 3\n")
    answer = client.post("/explain", json={"input": {"text": str(secret), "language": "python"}, "metric": METRIC})
    assert answer.status_code == 400 and "password" not in answer.text
    found = client.post("/predict", json={"inputs": [{"text": str(secret), "language": "python"}]})
    assert found.status_code == 200  # the path itself is the code


def test_when_a_key_is_set_then_only_requests_with_it_are_answered(pipe):
    body = {"inputs": [{"text": tiny.PYTHON}], "metrics": [METRIC]}
    with TestClient(make_app(pipe, api_key="right")) as client:
        assert client.post("/predict", json=body).status_code == 401
        assert client.post("/predict", json=body, headers={"X-API-Key": "wrong"}).status_code == 401
        assert client.get("/metrics").status_code == 401
        assert client.get("/health").status_code == 200
        for headers in ({"X-API-Key": "right"}, {"Authorization": "Bearer right"}):
            assert client.post("/predict", json=body, headers=headers).status_code == 200


def test_when_an_answer_takes_too_long_then_the_status_is_504(pipe, monkeypatch):
    monkeypatch.setattr(pipe, "rank", lambda *_, **__: time.sleep(0.5))
    with TestClient(make_app(pipe, limits=Limits(seconds=0.05))) as client:
        answer = client.post("/rank", json={"inputs": [{"text": "x = 1"}], "metric": METRIC})
        assert answer.status_code == 504 and "within 0.05 s" in answer.text


# ---------------------------------------------------------------------------------------------------- batches


def inputs_of(*texts: str) -> list[CodeInput]:
    return [CodeInput(text) for text in texts]


def test_when_requests_arrive_together_then_those_that_ask_alike_are_computed_together():
    calls = []

    def predict(inputs, **options):
        calls.append(([item.text for item in inputs], options))
        return [[{"text": item.text}] for item in inputs]

    async def ask():
        batcher = Batcher(predict, most=4, wait_s=0.05)
        batcher.start()
        jobs = [("a", {}), ("b", {}), ("c", {"metrics": ["m"]}), ("d", {})]
        answers = await asyncio.gather(*(batcher.submit(inputs_of(text), options) for text, options in jobs))
        await batcher.stop()
        return answers, batcher.waiting

    answers, waiting = asyncio.run(ask())
    assert [answer[0][0]["text"] for answer in answers] == ["a", "b", "c", "d"] and waiting == 0
    assert [texts for texts, _ in calls] == [["a", "b"], ["c"], ["d"]]


def test_when_one_input_is_bad_then_the_others_of_its_batch_are_answered():
    def predict(inputs, **_):
        if any(item.text == "bad" for item in inputs):
            raise InputError("bad input")
        return [[{"text": item.text}] for item in inputs]

    async def ask():
        batcher = Batcher(predict, wait_s=0.05)
        batcher.start()
        found = await asyncio.gather(
            *(batcher.submit(inputs_of(text), {}) for text in ("a", "bad", "b")), return_exceptions=True
        )
        await batcher.stop()
        return found

    first, bad, last = asyncio.run(ask())
    assert first == [[{"text": "a"}]] and last == [[{"text": "b"}]] and isinstance(bad, InputError)


def test_when_too_many_wait_then_more_are_refused():
    async def ask():
        batcher = Batcher(lambda inputs: time.sleep(0.2) or [[] for _ in inputs], most=1, most_waiting=2)
        batcher.start()
        waiting = [asyncio.create_task(batcher.submit(inputs_of("a"), {})) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFullError):
            await batcher.submit(inputs_of("b"), {})
        assert await asyncio.gather(*waiting) == [[[]], [[]]]
        await batcher.stop()

    asyncio.run(ask())


# ---------------------------------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_when_the_service_is_stopped_then_it_ends_well(checkpoint, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "key").write_text("secret\n")
    argv = ["serve", "--model", str(checkpoint), "--port", str(port), "--api-key-file", str(tmp_path / "key")]
    process = subprocess.Popen(
        [sys.executable, "-m", "code_rlm", *argv], env={**os.environ, "HF_HUB_OFFLINE": "1"}, stderr=subprocess.PIPE
    )
    try:
        body = json.dumps({"inputs": [{"text": tiny.PYTHON}], "metrics": [METRIC]}).encode()
        headers = {"Content-Type": "application/json", "X-API-Key": "secret"}
        for _ in range(2000):
            try:
                answer = json.load(urlopen(Request(f"http://127.0.0.1:{port}/predict", body, headers), timeout=60))
                break
            except OSError:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.2)
        assert answer["answers"][0][0]["metric"] == METRIC
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()


def test_when_the_key_cannot_be_read_then_one_line_says_so(checkpoint, tmp_path, capsys):
    assert main(["serve", "--model", str(checkpoint), "--api-key-file", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("code-rlm serve: --api-key-file")
    Path(tmp_path / "empty").write_text("\n")
    assert main(["serve", "--model", str(checkpoint), "--api-key-file", str(tmp_path / "empty")]) == 2
