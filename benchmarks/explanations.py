"""Deletion test of explanations: how fast a prediction moves when parts are left out in the order of their effect.

    python benchmarks/explanations.py --files examples/ --metrics cycles peak_rss_bytes

For each input the parts are left out one after the other, the strongest effect first, and in random orders. The score is the
mean over these steps of |log(median / median of the whole)|: the area under the curve. An explanation that finds what carries
the number has a larger area than random orders (Samek et al. 2017, IEEE TNNLS 28, region perturbation).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

import code_rlm
from code_rlm.errors_rlm import RLMError
from code_rlm.explanation_rlm import without
from code_rlm.pipeline_rlm import CallOptions, CodeRegressionPipeline
from code_rlm.predict import find_inputs
from code_rlm.processing_rlm import CodeInput, expand_input, read_input


def areas(
    pipe: CodeRegressionPipeline, item: Any, metric: str, orders: int = 5, seed: int = 0, **options: Any
) -> np.ndarray:
    """Returns the area under the deletion curve of the explanation, then of random orders, float64 `(1 + orders,)`.

    Args:
        pipe: The pipeline.
        item: One input.
        metric: Name.
        orders: Random orders.
        seed: Of these.
        **options: Those of `explain`.
    """
    found = pipe.explain(item, metric, **options)
    parts = found["parts"]
    strongest = np.argsort([-abs(part["weight"]) for part in parts], kind="stable")
    random = np.random.default_rng(seed)
    chosen = [strongest, *(random.permutation(len(parts)) for _ in range(orders))]
    read = read_input(item, language=options.get("language"), context=options.get("context") or ())
    variants = [
        CodeInput(
            without(found["text"], _lines(parts, order[:count])), read.language, read.context, printed=read.printed
        )
        for order in chosen
        for count in range(1, len(parts))
    ]
    medians = np.array(pipe._medians(variants, CallOptions(metrics=[metric]))).reshape(len(chosen), -1)
    moved = np.abs(np.log(np.maximum(medians, 1e-12) / max(found["value"], 1e-12)))
    return np.nanmean(moved, axis=1)


def _lines(parts: Sequence[dict[str, Any]], chosen: Sequence[int]) -> list[int]:
    return [line - 1 for number in chosen for line in parts[number]["lines"]]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", required=True, help="files or folders")
    parser.add_argument("--metrics", nargs="+", required=True, help="each is asked of the files in its languages")
    parser.add_argument("--model", help="checkpoint; by default the weights that ship")
    parser.add_argument("--orders", type=int, default=5, help="random orders of each input [5]")
    parser.add_argument("--most", type=int, default=64, help="parts of each input [64]")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipe = code_rlm.pipeline(args.model)
    inputs = [item for path, _ in find_inputs(args.files) for item in expand_input(Path(path))]
    for metric in args.metrics:
        scores = []
        for item in inputs:
            if item.language not in pipe.model.config.metric(metric).languages:
                continue
            try:
                scores.append(areas(pipe, item, metric, args.orders, most=args.most))
            except RLMError as error:
                print(f"{item.source}: left out, {error}")
        if scores:
            own, others = np.array(scores)[:, 0], np.array(scores)[:, 1:].mean(1)
            print(
                f"{metric}: {len(scores)} inputs, area {own.mean():.3f} in the order of effects, {others.mean():.3f} in random "
                f"order; larger for {np.mean(own > others):.0%} of the inputs"
            )


if __name__ == "__main__":
    main()
