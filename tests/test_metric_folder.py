"""The folder that Hugging Face evaluate loads, offline, gives the numbers of a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from code_rlm.evaluation import METRIC_FOLDER
from code_rlm.evaluation.report import Predictions, score_predictions

CODE = """
import json, sys
import evaluate
rows = json.loads(sys.stdin.read())
metric = evaluate.load(sys.argv[1])
found = metric.compute(
    predictions=rows["median"], references=rows["target"], groups=rows["groups"], resamples=50,
    quantiles={float(q): v for q, v in rows["quantiles"].items()}, baselines={"flat": [1.0] * len(rows["target"])},
)
print(json.dumps({"found": found, "inputs": metric.inputs_description}))
"""


@pytest.mark.slow
def test_when_the_folder_is_loaded_offline_then_its_numbers_are_those_of_a_report(tmp_path):
    pytest.importorskip("evaluate")
    rng = np.random.default_rng(0)
    target = rng.lognormal(size=60)
    median = target * rng.lognormal(sigma=0.4, size=60)
    rows = {
        "target": target.tolist(),
        "median": median.tolist(),
        "groups": [f"g{i % 5}" for i in range(60)],
        "quantiles": {0.05: (median / 2).tolist(), 0.95: (median * 2).tolist()},
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", CODE, str(METRIC_FOLDER)],
        input=json.dumps(rows),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    mine = Predictions(target, median, rows["quantiles"], groups=rows["groups"], baselines={"flat": np.ones(60)})
    assert answer["found"] == json.loads(json.dumps(score_predictions(mine, resamples=50)))
    assert answer["found"]["coverage"]["0.9"] > 0.5 and "quantiles" in answer["inputs"]
