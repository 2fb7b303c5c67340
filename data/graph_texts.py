"""ONNX texts of architectures, built once and kept on disk: 30,000 networks take minutes to build and seconds to read.

The cache is a file below HF_HOME, of its own for every version of the code that writes texts. It may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import constants

logger = logging.getLogger(__name__)

_WRITERS = ("data/nas_graphs.py", "onnx_canonical_rlm.py", "onnx_graph_rlm.py", "onnx_text_rlm.py")
_WAIT_S = 30.0  # for another process that writes


def graph_text(space: str, arch: Any) -> str:
    """Returns the ONNX text of an architecture, from the cache where it is there.

    Args:
        space: Name of the space, as `nas_graphs.build_graph` knows it.
        arch: The architecture, as that space writes it; it must go into JSON.
    """
    key = json.dumps([space, arch])
    text = _query("SELECT text FROM texts WHERE key = ?", key)
    if text is None:
        from code_rlm.data.nas_graphs import build_graph
        from code_rlm.onnx_text_rlm import onnx_to_text

        text = onnx_to_text(build_graph(space, arch))
        _query("INSERT OR IGNORE INTO texts VALUES (?, ?)", key, text)
    return text


def cache_file() -> Path:
    """Returns the file in which the texts of this version are kept."""
    digest = hashlib.sha256(version("onnx").encode())
    for name in _WRITERS:
        digest.update((Path(__file__).parents[1] / name).read_bytes())
    return Path(constants.HF_HOME, "code_rlm", f"graph_texts_{digest.hexdigest()[:16]}.sqlite3")


@lru_cache(1)
def _opened() -> sqlite3.Connection | None:
    """Returns the cache of this process; None where there cannot be one, which is logged once."""
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")  # at worst some are built again
        connection.execute("CREATE TABLE IF NOT EXISTS texts (key TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID")
        return connection
    except (OSError, sqlite3.Error) as error:
        logger.warning("texts of architectures are built anew each time, as %s cannot be used: %s", path, error)
        return None


@lru_cache
def _warn_once(message: str, *values: Any) -> None:
    """Warns of something once, not for every row."""
    logger.warning(message, *values)


def _query(statement: str, *values: str) -> str | None:
    """Runs a statement and returns the first cell of its result, if there is any."""
    connection = _opened()
    if connection is None:
        return None
    try:
        with contextlib.closing(connection.execute(statement, values)) as cursor:
            row = cursor.fetchone()
        return None if row is None else row[0]
    except sqlite3.Error as error:
        _warn_once(
            "the cache of architectures' texts, %s, failed: %s; delete it if it is broken", cache_file(), str(error)
        )
        return None


__all__ = ["cache_file", "graph_text"]
