"""Two processes on CPUs train on the same batches as one and come to the same losses; a kill at any moment changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from toy import MODEL, STEPS, log_of, options_of, weights

import code_rlm
from code_rlm.train import train
from code_rlm.training.checkpoints import checkpoints

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}

# accelerate knows FSDP on accelerators only; told that these are some, it does on CPUs what it does there.
SHARDED = """
import sys
from accelerate.state import DistributedType, PartialState
PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
from code_rlm.train import main
sys.exit(main(sys.argv[1:]))
"""


def losses_of(out: Path) -> list[float]:
    return [entry.get("loss", entry.get("score")) for entry in log_of(out)]


@pytest.fixture(scope="module")
def alone(toy, tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of a run of one process, and its flags. Without dropout, which processes draw each for themselves."""
    out = tmp_path_factory.mktemp("alone") / "run"
    flags = ["--model", repr({**MODEL, "decoder_dropout": 0.0}), "--steps", "6", "--accumulate", "2"]
    flags += ["--batch_tokens", "300", "--save_every", "3", "--eval_every", "3"]
    train(options_of(toy, out, *flags))
    return out, flags


def several(toy: Path, out: Path, flags: list[str], script: Path, **environment: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)),
            *("--config", str(toy / "toy.yaml"), "--out", str(out), *flags),
        ],
        env={**ENVIRONMENT, **environment},
        cwd=out.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{out / 'final'}\n"
    assert "2 x cpu" in done.stderr


@pytest.mark.slow
def test_when_two_processes_train_with_all_that_can_be_added_then_losses_and_weights_are_those_of_one(toy, tmp_path):
    (source,) = yaml.safe_load((toy / "toy.yaml").read_text())["data"]
    flags = ["--model", repr({**MODEL, "decoder_dropout": 0.0}), "--steps", "6", "--accumulate", "2"]
    flags += ["--batch_tokens", "300", "--save_every", "3", "--eval_every", "3"]
    flags += ["--ensemble", "{trees: 3, buckets: 64}", "--number_embeddings", "--masked_token_loss", "0.5"]
    flags += ["--data", json.dumps([{**source, "mask_tokens": 0.3, "mask_span": 2}])]
    final = train(options_of(toy, tmp_path / "one", *flags))
    several(toy, tmp_path / "two", flags, ROOT / "train.py")
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-4)
    one, two = ([e["restored"] for e in log_of(tmp_path / n) if "restored" in e] for n in ("one", "two"))
    assert len(one) == 6 and one[0] > 1 and two == pytest.approx(one, rel=1e-3)
    # Some batches were smaller than the two processes, so that one of them had nothing to do but to step along.
    ours, theirs = (code_rlm.load(folder)[0] for folder in (tmp_path / "two" / "final", final))
    assert ours.config.ensemble["trees"] == 3
    theirs = theirs.state_dict()
    assert all((value - theirs[name]).abs().max() < 1e-3 for name, value in ours.state_dict().items())


@pytest.mark.slow
def test_when_weights_are_sharded_over_processes_then_losses_are_those_of_one(toy, alone, tmp_path):
    out, flags = alone
    (tmp_path / "sharded.py").write_text(SHARDED)
    config = yaml.safe_load((ROOT / "configs" / "accelerate" / "fsdp.yaml").read_text())["fsdp_config"]
    fsdp = {name.upper(): str(value) for name, value in config.items()}  # as `accelerate launch` hands them on
    several(toy, tmp_path / "run", flags, tmp_path / "sharded.py", ACCELERATE_USE_FSDP="true", **fsdp)
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(out), rel=1e-4)
    code_rlm.load(tmp_path / "run" / "final")


# ---------------------------------------------------------------------------------------------------- kills


@pytest.fixture(scope="module")
def undisturbed(toy, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    train(options_of(toy, out, "--save_every", 3, "--log_every", 2, "--ema", 0.9))
    return out


@pytest.mark.slow
def test_when_a_run_is_killed_again_and_again_then_every_loss_is_as_if_nobody_had(toy, undisturbed, tmp_path):
    """SIGKILL at moments that fall anywhere: between steps, inside a step, inside the writing of a checkpoint."""
    out = tmp_path / "run"
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(toy / "toy.yaml"), "--out", str(out)]
    command += ["--save_every", "3", "--log_every", "2", "--ema", "0.9"]
    killed = []
    for wait in (0.05, 0.7):
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = len(checkpoints(out)) and int(checkpoints(out)[-1].name[5:])
        while process.poll() is None and not (checkpoints(out) and int(checkpoints(out)[-1].name[5:]) > before):
            time.sleep(0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.append(process.returncode)
        assert all(json.loads((c / "progress.json").read_text())["step"] for c in checkpoints(out))
    assert -signal.SIGKILL in killed
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    assert losses_of(out) == losses_of(undisturbed) and log_of(out)[-1]["step"] == STEPS
    assert weights(out / "final") == weights(undisturbed / "final")
    assert weights(out / "best") == weights(undisturbed / "best")
