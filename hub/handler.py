"""Answers requests of a Hugging Face inference endpoint: a file of every published checkpoint, beside its weights.

    {"inputs": "def f(n): return [0] * n", "parameters": {"metrics": ["peak_memory_bytes"], "interval": 0.9}}

`inputs` is code, a record with `text`, `language` and `context`, or a list of these; an ONNX graph is a record whose `onnx` is
the file in base64, and needs the package onnx (`requirements.txt`). `parameters` are the options of the pipeline.
"""

import base64
import os
import tempfile
from pathlib import Path
from typing import Any

from transformers import pipeline


class EndpointHandler:
    """Loads a checkpoint once and answers requests.

    Args:
        path: The checkpoint's folder.
    """

    def __init__(self, path: str = ""):
        task: Any = "code-regression"  # one that the checkpoint brings
        self.pipe: Any = pipeline(task, model=path or str(Path(__file__).parent), trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> Any:
        """Answers one request.

        Args:
            data: `inputs`, and optionally `parameters`.

        Returns:
            What the pipeline answers, JSON-ready; `{"error": ...}` where the request cannot be answered.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        many = isinstance(inputs, list)
        given: list[Any] = inputs if isinstance(inputs, list) else [inputs]
        with tempfile.TemporaryDirectory() as folder:
            try:
                items = [self._item(each, folder) for each in given]
                answers = self.pipe(items, **parameters)
            except (TypeError, ValueError) as error:  # the checkpoint's own errors are ValueErrors
                return {"error": str(error)}
        return answers if many else answers[0]

    @staticmethod
    def _item(item: Any, folder: str) -> Any:
        """Returns an input of the pipeline: text and records as they are, a graph as a file.

        Raises:
            ValueError: A text that names a file of this machine, which the pipeline would read.
        """
        if isinstance(item, dict) and "onnx" in item:
            handle, name = tempfile.mkstemp(".onnx", dir=folder)
            with os.fdopen(handle, "wb") as stream:
                stream.write(base64.b64decode(item["onnx"]))
            return Path(name)
        text = item.get("text") if isinstance(item, dict) else item
        if not isinstance(text, str):
            raise ValueError(
                f"inputs must be code, records with text or onnx, or a list of these; got {type(item).__name__}"
            )
        if len(text) < 4096 and os.path.lexists(os.path.expanduser(text.strip())):
            raise ValueError("inputs must be code, not the name of a file")
        return item
