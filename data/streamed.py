"""A published table as a source of a training run: rows are read, tokenised and forgotten as the run goes on.

A `Source` holds every row of a table; a `StreamSource` has the same names and gives the next rows of a stream, as a `Source` of
their own. Each reader (`lane`) has its own stream, and where it stands is kept in the run's checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from code_rlm.configuration_rlm import LANGUAGE_NAMES
from code_rlm.data.mixture import Source
from code_rlm.data.published import (
    CODE_SPACES,
    Options,
    PublishedTable,
    RowStream,
    accuracy_metric,
)
from code_rlm.data.schema import DataError, to_dataset
from code_rlm.tokenization_rlm import RLMTokenizer

logger = logging.getLogger(__name__)

# Rows of a space that are looked at for the metrics that it has.
_PROBED = 8


def probed_metrics(table: PublishedTable, options: Options) -> list[str]:
    """Returns the metrics of the chosen spaces: those that are named, and those that the first rows of each have.

    Raises:
        DataError: A metric that no space has.
    """
    found: dict[str, None] = {}
    for space in options.spaces:
        own = CODE_SPACES[space].metric if space in CODE_SPACES else accuracy_metric(space)
        found[own] = None
        if space not in CODE_SPACES:
            alone = replace(options, spaces=(space,), split=None)
            for example in RowStream(table, alone, repeat=False, block=1).take(_PROBED):
                found |= dict.fromkeys(example.metrics)
    if options.metrics is None:
        return list(found)
    if unknown := [name for name in options.metrics if name not in found]:
        raise DataError(f"{table.task.name} has no metric {', '.join(unknown)}; its spaces have {', '.join(found)}")
    return list(options.metrics)


@dataclass
class StreamSource:
    """A published table that is read as it is used.

    Attributes:
        name: Name, for the log.
        table: Where the rows come from.
        options: Which rows; its metrics are the ones learned.
        tokenizer: For code and numbers.
        max_tokens: Longest input that will be asked for; None for that of the mixture.
        longest: That of the mixture.
        states: Where each lane goes on, by lane; empty for the beginning.
        mask_tokens, mask_span, swap_text, failed, dropped: See `Source`.
    """

    name: str
    table: PublishedTable
    options: Options
    tokenizer: RLMTokenizer
    longest: int
    max_tokens: int | None = None
    states: dict[int, Mapping[str, int]] = field(default_factory=dict)
    mask_tokens: float = 0.0
    mask_span: float = 1.0
    swap_text: float = 0.0
    failed: int = 0
    dropped: int = 0
    _streams: dict[int, RowStream] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Rows of the chosen spaces times the share of the split; other languages are counted, too."""
        share = {None: 1.0, "validation": self.options.validation, "test": self.options.test}
        whole = self.table.rows(self.options.spaces)
        return max(1, int(whole * share.get(self.options.split, 1 - self.options.validation - self.options.test)))

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: all but the open streams."""
        return {**vars(self), "_streams": {}}

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics learned."""
        return list(self.options.metrics or ())

    @property
    def languages(self) -> list[str]:
        """Languages that the rows may have."""
        known: dict[str, None] = {}
        for space in self.options.spaces:
            own = CODE_SPACES[space].language if space in CODE_SPACES else "onnx"
            known |= dict.fromkeys([own] if own else self.options.languages or LANGUAGE_NAMES)
        return list(known)

    def hardware_of(self, metric: str) -> str:
        """Returns what a metric was measured on; empty where the source does not name it."""
        return next((space.hardware for space in CODE_SPACES.values() if space.metric == metric), "")

    def state_of(self, lane: int) -> dict[str, int]:
        """Returns where a lane stands."""
        return self._streams[lane].state if lane in self._streams else dict(self.states.get(lane, {}))

    def counts_of(self, lane: int) -> dict[str, int]:
        """Returns what a lane has read and left out, by reason."""
        return dict(self._streams[lane].counts) if lane in self._streams else {}

    def take(self, count: int, lane: int = 0, lanes: int = 1) -> Source:
        """Returns the next rows of a lane, tokenised.

        Raises:
            DataError: A lane without rows, or a row that cannot be read or written.
        """
        if lane not in self._streams:
            self._streams[lane] = RowStream(self.table, self.options, lane, lanes, state=self.states.get(lane))
        return self.tokenised(self._streams[lane].take(count))

    def tokenised(self, rows: Sequence[Any]) -> Source:
        """Returns examples as a source."""
        made = Source.from_dataset(self.name, to_dataset(rows), self.tokenizer, self.metrics, max_tokens=self.longest)
        for name in ("mask_tokens", "mask_span", "swap_text", "max_tokens"):
            setattr(made, name, getattr(self, name))
        return made


__all__ = ["StreamSource", "probed_metrics"]
