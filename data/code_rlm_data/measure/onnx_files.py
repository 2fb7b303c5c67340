"""Puts an ONNX model where it is measured, with the files that hold its weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo

from code_rlm_data.measure.programs import MeasureError


def copy_model(file: str | os.PathLike, target: Path) -> None:
    """Copies a model and its external data beside it.

    A graph that came without its weights gets zeros: they do not change what a dense operator has to do.

    Raises:
        MeasureError: A weight lies outside the model's folder, or its size is not given and its file is not there.
    """
    file = Path(file)
    shutil.copyfile(file, target)
    target.chmod(0o644)
    sizes: dict[str, int] = {}
    for tensor in onnx.load(file, load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            info = ExternalDataInfo(tensor)
            end = (int(info.offset) if info.offset else 0) + (int(info.length) if info.length else 0)
            sizes[info.location] = max(sizes.get(info.location, 0), end)
    for location, size in sizes.items():
        beside = (file.parent / location).resolve()
        if os.path.isabs(location) or not beside.is_relative_to(file.parent.resolve()):
            raise MeasureError(f"{file}: its weights lie in {location!r}, outside the model's folder")
        copy = target.parent / location
        copy.parent.mkdir(parents=True, exist_ok=True)
        if beside.is_file():
            shutil.copyfile(beside, copy)
        elif size:
            copy.touch()
            os.truncate(copy, size)
        else:
            raise MeasureError(f"{file}: there is no {location}, and the model does not give its size")
        copy.chmod(0o644)
