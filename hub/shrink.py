"""Rounds a checkpoint's weights to bfloat16 on disk, half the bytes to download and to keep.

    python -m code_rlm.hub.shrink runs/mine/final --out small
    python -m code_rlm.hub.shrink runs/mine/final --out small --without estimated_bytes     # was for pretraining alone

Only the file is rounded: the config still asks for float32, so the weights come back in that type and the arithmetic stays as
precise as before. Evaluate what you publish: scores and calibration are those of the rounded weights only if they were fitted
after rounding.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers.utils import CONFIG_NAME

from code_rlm.configuration_rlm import RLMConfig
from code_rlm.errors_rlm import CheckpointError, RLMError

_LEFT_OUT = shutil.ignore_patterns("state", "progress.json", "*.py", "__pycache__", "model.safetensors", "report.json")


def shrink(checkpoint: Path, out: Path, without: Sequence[str] = ()) -> int:
    """Writes a copy of a checkpoint with rounded weights, whole or not at all; returns the bytes of its weights.

    Training state, copies of the package's code and a report of the unrounded weights are left out.

    Args:
        checkpoint: Folder with one `model.safetensors`.
        out: Folder that does not exist yet.
        without: Metrics that the copy's registry leaves out.

    Raises:
        CheckpointError: No such file, something at `out`, or a metric that the registry does not have.
    """
    weights = checkpoint / "model.safetensors"
    if not weights.is_file():
        raise CheckpointError(f"{checkpoint} has no model.safetensors (shards and adapters are not rounded).")
    if out.exists():
        raise CheckpointError(f"{out} is there already; choose another folder.")
    tensors = load_file(weights)
    for name, tensor in tensors.items():
        # A tree's thresholds lie between neighbouring counts: rounded they would fall to the other side.
        if tensor.dtype == torch.float32 and not name.startswith(("ensemble.tree_", "ensemble.fallback_")):
            tensors[name] = tensor.to(torch.bfloat16)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        shutil.copytree(checkpoint, partial, ignore=_LEFT_OUT, dirs_exist_ok=True)
        if without:
            _leave_out(partial, without)
        save_file(tensors, partial / "model.safetensors", {"format": "pt"})
        shutil.copymode(weights, partial / "model.safetensors")
        shutil.copymode(checkpoint, partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return (out / "model.safetensors").stat().st_size


def _leave_out(folder: Path, without: Sequence[str]) -> None:
    """Takes metrics out of a checkpoint's config and state: registered, predicted by default, pooled and calibrated."""
    config = RLMConfig.from_pretrained(folder)
    known = config.metric_names()
    if unknown := sorted(set(without) - set(known)):
        raise CheckpointError(f"The checkpoint has no metric {', '.join(unknown)}; it has {', '.join(known)}.")
    config.metrics = [entry for entry in config.metrics if entry["name"] not in without]
    defaults = {}
    for language, names in config.default_metrics.items():
        left = [name for name in names if name not in without]
        if left:
            defaults[language] = left
    config.default_metrics = defaults
    config.set_fitted(config.fitted.without(without))
    config.to_json_file(folder / CONFIG_NAME)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 and one line on a checkpoint that cannot be rounded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the copy")
    parser.add_argument(
        "--without", nargs="+", default=(), metavar="METRIC", help="metrics to leave out of the registry"
    )
    args = parser.parse_args(argv)
    try:
        print(f"{args.out}: {shrink(args.checkpoint, args.out, args.without) / 1e6:.1f} MB of weights")
    except RLMError as error:
        print(f"shrink: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
