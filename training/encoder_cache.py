"""Outputs of a frozen encoder, computed once and read from disk after.

What the encoder reads is header, code and end; the header names the metrics asked for, in their order. So each row has a
fixed number of draws of those (`Mixture.draws`), and every input that a run can ask for is known before its first step.

The cache is a folder of parts. A part is a file of bfloat16 numbers, one block `(tokens, layers, size)` per input, and an
index of the blocks, written last: a part without its index is not there. An input is found by a digest of the encoder's
config and weights, of the layers read, and of the input's token ids; what was made by another encoder or of another text is
never read. Many runs can share a folder, and several processes write parts of their own.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from code_rlm.data.mixture import Mixture
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.processing_rlm import length_batches, pad_inputs
from code_rlm.training.options import TrainError

_FORMAT = b"1"
_KEY_BYTES = 16
# A kill loses no more than the part in work.
_PART_BYTES = 256 << 20


class FeatureCache:
    """A folder of encoder outputs, as far as they belong to one encoder.

    Attributes:
        folder: The folder.
        layers, size: Encoder layers read, and the width of each.
    """

    def __init__(self, folder: str | os.PathLike, model: RLMForConditionalGeneration):
        self.layers, self.size = len(model.config.encoder_layers or [None]), model.config.encoder_hidden_size
        self._digest = encoder_digest(model)
        self.folder = Path(folder) / self._digest.hex()
        self._places: dict[bytes, tuple[int, int, int]] = {}
        self._files: list[np.ndarray] = []
        self._seen: set[str] = set()

    def __len__(self) -> int:
        return len(self._places)

    def key(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """What an input is found by."""
        tokens = np.ascontiguousarray(ids, dtype=np.int32)
        return hashlib.blake2b(tokens.tobytes(), digest_size=_KEY_BYTES, key=self._digest).digest()

    def refresh(self) -> None:
        """Takes note of the parts that are there."""
        for index in sorted(self.folder.glob("*.npz")):
            if index.name in self._seen:
                continue
            with np.load(index) as entries:
                keys, starts, lengths = entries["keys"], entries["starts"], entries["lengths"]
            data = index.with_suffix(".bf16")
            width = self.layers * self.size
            if not data.is_file() or data.stat().st_size != 2 * width * int(lengths.sum()):
                raise TrainError(f"{data} is not what its index says; remove {index} and the features are made again.")
            self._seen.add(index.name)
            if not len(keys):
                continue
            number = len(self._files)
            self._files.append(np.memmap(data, dtype=np.int16, mode="r").reshape(-1, self.layers, self.size))
            for key, start, length in zip(keys, starts.tolist(), lengths.tolist(), strict=True):
                self._places[key.tobytes()] = (number, start, length)

    def missing(self, inputs: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Those of the inputs that are not kept yet, each once."""
        found: dict[bytes, Sequence[int]] = {}
        for ids in inputs:
            if (key := self.key(ids)) not in self._places:
                found.setdefault(key, ids)
        return list(found.values())

    def bytes_of(self, inputs: Sequence[Sequence[int]]) -> int:
        """Bytes that inputs take on disk."""
        return 2 * self.layers * self.size * sum(map(len, inputs))

    @torch.no_grad()
    def fill(
        self,
        model: RLMForConditionalGeneration,
        inputs: Sequence[Sequence[int]],
        pad_token_id: int,
        batch_tokens: int,
        device: torch.device,
    ) -> None:
        """Runs the encoder over inputs that are missing and keeps what it gives.

        Args:
            model: On the device, its encoder in evaluation mode.
            inputs: Token ids of each input.
            pad_token_id: For batches.
            batch_tokens: Tokens in a batch, padding included.
            device: Where the model is.

        Raises:
            TrainError: The disk is too small.
        """
        if not inputs:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if (needed := self.bytes_of(inputs)) > (free := shutil.disk_usage(self.folder).free):
            raise TrainError(
                f"The features of {len(inputs)} inputs take {needed / 1e9:.1f} GB, {self.folder} has {free / 1e9:.1f} GB left. "
                "Use fewer feature_draws, a smaller max_tokens, or another feature_cache."
            )
        order = sorted(inputs, key=len)
        ends = np.cumsum([self.bytes_of([ids]) for ids in order]) // _PART_BYTES
        for number in np.unique(ends):
            part = [order[i] for i in np.flatnonzero(ends == number)]
            self._write_part(model, part, pad_token_id, batch_tokens, device)

    def _write_part(
        self,
        model: RLMForConditionalGeneration,
        inputs: Sequence[Sequence[int]],
        pad_token_id: int,
        batch_tokens: int,
        device: torch.device,
    ) -> None:
        name = uuid.uuid4().hex
        data, index = self.folder / f"{name}.bf16", self.folder / f"{name}.npz"
        with open(data, "wb") as stream:
            # The inputs come by length, and the index names them in the order of their blocks.
            for rows in length_batches([len(tokens) for tokens in inputs], batch_tokens=batch_tokens):
                group = [inputs[i] for i in rows]
                batch = pad_inputs(group, pad_token_id)
                states = model.encode_layers(batch["input_ids"].to(device), batch["attention_mask"].to(device))
                states = states.to(torch.bfloat16).cpu()
                for row, tokens in enumerate(group):
                    stream.write(states[row, : len(tokens)].contiguous().view(torch.int16).numpy().tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        lengths = np.array([len(tokens) for tokens in inputs], dtype=np.int64)
        keys = np.stack([np.frombuffer(self.key(tokens), dtype=np.uint8) for tokens in inputs])
        partial = index.with_suffix(".partial")
        with open(partial, "wb") as stream:
            np.savez(stream, keys=keys, starts=np.cumsum(lengths) - lengths, lengths=lengths)
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(index)

    def attach(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with `encoder_states` bfloat16 `(batch, length, layers, size)` in place of `input_ids`.

        Raises:
            TrainError: An input that the cache does not hold.
        """
        rest = dict(batch)
        ids = rest.pop("input_ids").numpy()
        counts = batch["attention_mask"].sum(1).tolist()
        states = torch.zeros((*ids.shape, self.layers, self.size), dtype=torch.bfloat16)
        as_integers = states.view(torch.int16).numpy()
        for row, count in enumerate(counts):
            place = self._places.get(self.key(ids[row, :count]))
            if place is None:
                raise TrainError(f"{self.folder} lacks an input of this run; start the run again and it is computed.")
            file, start, length = place
            as_integers[row, :length] = self._files[file][start : start + length]
        return {**rest, "encoder_states": states}


def encoder_digest(model: RLMForConditionalGeneration) -> bytes:
    """Digest of all that decides what the encoder gives for a text."""
    digest = hashlib.blake2b(_FORMAT, digest_size=16)
    config = model.config
    # As it is embedded in a checkpoint: without what saving and loading add.
    described = {k: v for k, v in config.to_dict()["encoder"].items() if k != "transformers_version"}
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    digest.update(repr(config.encoder_layers).encode())
    weights = model.encoder.state_dict()
    if model.number_embeddings is not None:
        weights |= {
            f"number_embeddings.{name}": tensor for name, tensor in model.number_embeddings.state_dict().items()
        }
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.digest()


def possible_inputs(mixture: Mixture) -> list[list[int]]:
    """Token ids of every input that a mixture with fixed draws can ask for; none where draws are not fixed."""
    if mixture.draws is None:
        return []
    return [
        mixture.fixed_example(number, row, draw).input_ids
        for number, source in enumerate(mixture.sources)
        for row in range(len(source))
        for draw in range(mixture.draws)
    ]


__all__ = ["FeatureCache", "encoder_digest", "possible_inputs"]
