"""`code-rlm metrics` and `code-rlm info`: what a checkpoint predicts, what it is, and where it runs."""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import safe_open

from code_rlm import __version__
from code_rlm.configuration_rlm import RLMConfig
from code_rlm.console import quantity, write_csv, write_facts, write_json, write_table
from code_rlm.errors_rlm import CheckpointError, MetricError
from code_rlm.loading import DEFAULT_CHECKPOINT, resolve

COLUMNS = (
    "metric", "unit", "smaller_is_better", "languages", "least", "most", "calibrated_on_rows", "calibrated_on_groups",
    "domains", "description",
)  # fmt: skip
# Packages that the versions of a run depend on, and the extra that brings each.
_PACKAGES = {
    "torch": "", "transformers": "", "tokenizers": "", "numpy": "", "onnx": "", "datasets": "data", "accelerate": "train",
    "lightgbm": "train", "peft": "train", "scikit-learn": "train", "evaluate": "evaluate", "matplotlib": "plots",
    "fastapi": "serve", "code-rlm-data": "",
}  # fmt: skip


def metrics(args: argparse.Namespace, out: TextIO) -> int:
    """Runs `code-rlm metrics`; returns 0.

    Raises:
        MetricError: No metric of the language.
    """
    config = read_config(args.model)
    rows = [describe_metric(config, name) for name in config.metric_names()]
    if args.language:
        rows = [row for row in rows if args.language in row["languages"]]
        if not rows:
            languages = sorted({language for entry in config.metrics for language in entry["languages"]})
            raise MetricError(f"There is no metric for {args.language!r}; there are some for {', '.join(languages)}.")
    style = args.format or ("table" if out.isatty() else "json")
    if style == "json":
        write_json(rows, out)
    elif style == "csv":
        lists = ("languages", "domains")
        write_csv([{**row, **{name: " ".join(row[name]) for name in lists}} for row in rows], COLUMNS, out)
    else:
        head = ("metric", "best", "trained from", "to", "calibrated on", "languages", "from")
        write_table(head, [_cells(row) for row in rows], out)
    return 0


def describe_metric(config: RLMConfig, name: str) -> dict[str, Any]:
    """Returns what a checkpoint knows of one metric, JSON-ready.

    Args:
        config: The checkpoint's.
        name: The metric's.
    """
    entry, fitted = config.metric(name), config.fitted
    scale, calibration = fitted.score_scales.get(name), fitted.calibration_of(name)
    least = most = None
    if scale is not None:
        least, most = (math.exp(v) if scale.logarithm else v for v in (scale.values[0], scale.values[-1]))
        least, most = float(f"{least:.6g}"), float(f"{most:.6g}")
    return {
        "metric": name,
        "unit": entry.unit,
        "smaller_is_better": entry.smaller_is_better,
        "languages": list(entry.languages),
        "least": least,
        "most": most,
        "calibrated_on_rows": None if calibration is None else calibration.rows,
        "calibrated_on_groups": None if calibration is None else calibration.groups,
        "domains": list(fitted.familiarity.metrics.get(name, ())),
        "description": entry.description,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    calibrated = row["calibrated_on_rows"]
    return (
        row["metric"],
        "smallest" if row["smaller_is_better"] else "largest",
        "" if row["least"] is None else quantity(row["least"], row["unit"]),
        "" if row["most"] is None else quantity(row["most"], row["unit"]),
        "" if calibrated is None else f"{calibrated} rows ({row['calibrated_on_groups']} groups)",
        " ".join(row["languages"]),
        row["description"],
    )


def read_config(model: str | os.PathLike | None) -> RLMConfig:
    """Reads a checkpoint's config without its weights.

    Raises:
        CheckpointError: No checkpoint there.
    """
    where = resolve(model)
    if not os.path.isdir(where) and (where.count("/") > 1 or where.startswith((".", "~", "/"))):
        raise CheckpointError(f"There is no checkpoint folder {where}.")
    try:
        return RLMConfig.from_pretrained(where)
    except CheckpointError:
        raise
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"No Code-RLM checkpoint could be read from {where}: {reason[0] if reason else error!r}"
        ) from None


def info(args: argparse.Namespace, out: TextIO) -> int:
    """Runs `code-rlm info`; returns 0."""
    facts = describe(args.model)
    if (args.format or ("table" if out.isatty() else "json")) == "json":
        json.dump(facts, out, indent=1)
        out.write("\n")
        return 0
    lines = []
    for name, value in facts.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        lines.append(f"{name.replace('_', ' ')}: {shown}")
    write_facts(lines, out)
    return 0


def describe(model: str | os.PathLike | None) -> dict[str, Any]:
    """Returns facts on a checkpoint, the installation and the machine, JSON-ready."""
    config, where = read_config(model), resolve(model)
    facts: dict[str, Any] = {
        "code_rlm": __version__,
        "checkpoint": "default (ships with the package)" if where == str(DEFAULT_CHECKPOINT) else where,
        "encoder": f"{config.encoder.model_type}, {config.encoder.num_hidden_layers} layers of {config.encoder.hidden_size}",
        "longest_input_tokens": config.max_input_tokens,
        "metrics": f"{len(config.metric_names())}, {len(config.fitted.calibration)} of them calibrated",
        "languages": " ".join(sorted({language for entry in config.metrics for language in entry["languages"]})),
        "feature_ensemble": "none" if config.ensemble is None else f"for {len(config.fitted.score_scales)} metrics",
    }
    if weights := sorted(Path(where).glob("*.safetensors")):
        facts["parameters"] = f"{_parameters(weights) / 1e6:.2f}M"
        facts["size_on_disk"] = quantity(sum(path.stat().st_size for path in weights), "bytes")
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    facts |= {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cuda": cuda,
        "packages": {name: _version(name, extra) for name, extra in _PACKAGES.items()},
    }
    return facts


def _parameters(weights: list[Path]) -> int:
    """Returns how many numbers are in files of weights, of which only the heads are read."""
    total = 0
    for path in weights:
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    return total


def _version(package: str, extra: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed (extra {extra})" if extra else "not installed"


__all__ = ["COLUMNS", "describe", "describe_metric", "info", "metrics", "read_config"]
