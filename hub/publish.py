"""Publishes a checkpoint, an adapter or a table: `code-rlm publish FOLDER --name you/my-rlm`.

    code-rlm publish runs/mine/final --name you/my-rlm --license mit
    code-rlm publish runs/mine/adapter --name you/my-adapter --license mit
    code-rlm publish data/my_table --dataset --name you/my-table

A checkpoint's folder gets a card (`hub/card.py`), and `handler.py` and `requirements.txt` for inference endpoints; a table's
folder has its card already. The repository is made where there is none, and everything goes up in one commit.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from huggingface_hub import HfApi, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from code_rlm.errors_rlm import CheckpointError
from code_rlm.hub.card import CARD, known_of, model_card

# What a run leaves beside a checkpoint and nobody needs.
_NOT_PUBLISHED = ["state/**", "progress.json", "**/.*", "**/__pycache__/**"]
REQUIREMENTS = "onnx>=1.16\n"


def prepare(folder: Path, name: str, license: str | None = None) -> None:
    """Writes a checkpoint's card and what inference endpoints need into its folder.

    Raises:
        CheckpointError: Not a checkpoint's folder.
    """
    model_card(known_of(folder, name=name, license=license)).save(folder / CARD)
    shutil.copyfile(Path(__file__).with_name("handler.py"), folder / "handler.py")
    (folder / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")


def publish(args: argparse.Namespace) -> int:
    """Runs `code-rlm publish`.

    Raises:
        CheckpointError: Not a folder that can be published, or the hub refuses it.
    """
    folder = Path(args.folder)
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}.")
    if args.name.count("/") != 1:
        raise CheckpointError(f"--name must be a hub id such as you/my-rlm, got {args.name!r}.")
    if args.dataset:
        card = folder / CARD
        if not card.is_file() or not metadata_load(card):
            raise CheckpointError(f"{folder} has no {CARD} with metadata; a table is published with its card.")
    else:
        prepare(folder, args.name, args.license)
    kind = "dataset" if args.dataset else "model"
    try:
        api = HfApi()
        api.create_repo(args.name, repo_type=kind, private=args.private, exist_ok=True)
        done = api.upload_folder(
            repo_id=args.name,
            repo_type=kind,
            folder_path=folder,
            ignore_patterns=_NOT_PUBLISHED,
            commit_message=f"code-rlm publish {folder.name}",
        )
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{args.name} could not be published: {reason}") from error
    print(done.commit_url)
    return 0


__all__ = ["prepare", "publish"]
