"""Averages the weights of checkpoints that share a beginning ("model soups", Wortsman et al. 2022, arXiv 2203.05482).

    python -m code_rlm.averaging runs/a/final runs/b/final --out runs/averaged

Two runs that go on from one checkpoint with different batches end near each other; their mean is often better than either,
and two cores train them side by side without waiting for each other.
"""

import argparse
import sys
from pathlib import Path

import torch

from code_rlm.errors_rlm import CheckpointError, RLMError
from code_rlm.loading import load
from code_rlm.train import save_whole


def average(folders: list[str], out: str) -> None:
    """Writes the mean of several checkpoints, in float32, with the first one's config and tokenizer.

    Raises:
        CheckpointError: Fewer than two checkpoints, or checkpoints of different shape.
    """
    if len(folders) < 2:
        raise CheckpointError("Averaging needs at least two checkpoints.")
    model, tokenizer = load(folders[0], dtype=torch.float32)
    mean = {name: weight.double() for name, weight in model.state_dict().items()}
    for folder in folders[1:]:
        other, _ = load(folder, dtype=torch.float32)
        weights = other.state_dict()
        if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in mean.items()}:
            raise CheckpointError(f"{folder} has other weights than {folders[0]}; only like models can be averaged.")
        for name, weight in weights.items():
            mean[name] += weight.double()
    model.load_state_dict({name: (weight / len(folders)).float() for name, weight in mean.items()})

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    save_whole(Path(out), write)


def main(argv: list[str] | None = None) -> int:
    """Command line; 2 and one line on checkpoints that cannot be averaged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="folders or hub ids")
    parser.add_argument("--out", required=True, help="folder to write")
    args = parser.parse_args(argv)
    try:
        average(args.checkpoints, args.out)
    except RLMError as error:
        print(f"averaging: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
