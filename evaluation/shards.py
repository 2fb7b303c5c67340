"""Work shared out over the processes of `accelerate launch`; one process does it all."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_shards(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`[work(item) for item in items]`, in every process, each item worked on by one of them.

    What a result depends on must lie in its item: batches are put together before they are shared out, so that any number of
    processes gives the same numbers.
    """
    state = PartialState()
    # Items sorted by length are dealt out like cards: every process gets short and long ones.
    mine = range(state.process_index, len(items), state.num_processes)
    results: list[Any] = [(i, work(items[i])) for i in mine]
    if state.num_processes > 1:
        results = sorted(gather_object(results), key=lambda pair: pair[0])
    return [result for _, result in results]


def is_main_process() -> bool:
    """Whether this process is the one that writes files and prints."""
    return PartialState().is_main_process


def own_device() -> torch.device:
    """The process's GPU, or the CPU."""
    device = PartialState().device
    return device if device.type == "cuda" else torch.device("cpu")


def to_own_device(model: nn.Module) -> None:
    """Moves a model to the process's GPU, or to the CPU."""
    model.to(own_device())


__all__ = ["is_main_process", "map_shards", "own_device", "to_own_device"]
