"""Copies tensors between safetensors files byte for byte, under new names, a few megabytes in memory at a time.

The library's own writer holds every tensor of a file at once. The format is a length, a JSON header and the raw data; the
library checks each file before it is read here and after it was written.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from code_rlm.errors_rlm import CheckpointError

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_CHUNK = 1 << 22


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        path: The file.
        dtype: As the format names it: `F32`, `BF16`, ...
        shape: Its sizes.
        offset: First byte of its data in the file.
        size: Bytes.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    def read(self) -> bytes:
        """Its data, whole; for small tensors."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def stored_tensors(paths: Iterable[Path]) -> dict[str, StoredTensor]:
    """All tensors of several files by name.

    Raises:
        CheckpointError: A damaged file, or a name that two files hold.
    """
    found: dict[str, StoredTensor] = {}
    for path in paths:
        try:
            with safe_open(path, framework="np"):  # the library checks header, offsets and length
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if name in found:
                raise CheckpointError(f"{name} lies in both {found[name].path.name} and {path.name}.")
            begin, end = entry["data_offsets"]
            found[name] = StoredTensor(path, entry["dtype"], tuple(entry["shape"]), 8 + length + begin, end - begin)
    return found


def write_tensors(tensors: Mapping[str, StoredTensor], path: Path) -> int:
    """Writes tensors under new names as one file; returns its size in bytes.

    Raises:
        CheckpointError: A source file ended early, or what was written does not read back.
    """
    # Wide types first, as the library does, so that every tensor is aligned to its type.
    names = sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name].dtype], name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in names:
        tensor = tensors[name]
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.size],
        }
        position += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)))
        out.write(text)
        for name in names:
            tensor = tensors[name]
            with tensor.path.open("rb") as file:
                file.seek(tensor.offset)
                left = tensor.size
                while left:
                    chunk = file.read(min(left, _CHUNK))
                    if not chunk:
                        raise CheckpointError(f"{tensor.path} ended in the middle of {name}.")
                    out.write(chunk)
                    left -= len(chunk)
    written = stored_tensors([path])
    if any(math.prod(t.shape) * ITEM_BYTES[t.dtype] != t.size for t in written.values()) or set(written) != set(names):
        raise CheckpointError(f"{path} does not read back as it was written; is the disk full?")
    return path.stat().st_size


__all__ = ["ITEM_BYTES", "StoredTensor", "stored_tensors", "write_tensors"]
