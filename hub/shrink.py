"""Rounds a checkpoint's weights to bfloat16 on disk, half the bytes to download and to keep.

    python -m code_rlm.hub.shrink runs/mine/final --out small

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

from code_rlm.errors_rlm import CheckpointError, RLMError

_LEFT_OUT = shutil.ignore_patterns("state", "progress.json", "*.py", "__pycache__", "model.safetensors", "report.json")


def shrink(checkpoint: Path, out: Path) -> int:
    """Writes a copy of a checkpoint with rounded weights, whole or not at all; returns the bytes of its weights.

    Training state, copies of the package's code and a report of the unrounded weights are left out.

    Args:
        checkpoint: Folder with one `model.safetensors`.
        out: Folder that does not exist yet.

    Raises:
        CheckpointError: No such file, or something at `out`.
    """
    weights = checkpoint / "model.safetensors"
    if not weights.is_file():
        raise CheckpointError(f"{checkpoint} has no model.safetensors (shards and adapters are not rounded).")
    if out.exists():
        raise CheckpointError(f"{out} is there already; choose another folder.")
    tensors = load_file(weights)
    for name, tensor in tensors.items():
        # A tree's thresholds lie between neighbouring counts: rounded they would fall to the other side.
        if tensor.dtype == torch.float32 and not name.startswith("lexical.tree_"):
            tensors[name] = tensor.to(torch.bfloat16)
    out.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        shutil.copytree(checkpoint, half, ignore=_LEFT_OUT, dirs_exist_ok=True)
        save_file(tensors, half / "model.safetensors", {"format": "pt"})
        shutil.copymode(weights, half / "model.safetensors")
        shutil.copymode(checkpoint, half)
        half.rename(out)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return (out / "model.safetensors").stat().st_size


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 and one line on a checkpoint that cannot be rounded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the copy")
    args = parser.parse_args(argv)
    try:
        print(f"{args.out}: {shrink(args.checkpoint, args.out) / 1e6:.1f} MB of weights")
    except RLMError as error:
        print(f"shrink: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
