"""How fast tables become batches, what memory that takes, and how much of a test split is in training already.

    python benchmarks/data.py                                # speed and memory, on a table that is made here
    python benchmarks/data.py --data-root DATA               # speed on basic blocks, near copies of every table
    python benchmarks/data.py --data-root DATA --only copies --rows 20000

- `speed`: examples/s of one core, from a parquet table of short programs to padded batches: `read` (schema, split, checks),
  `tokenise` (code and numbers, once), `batch` (metrics drawn, headers, bucketed by length, padded). The baseline tokenises one
  example at a time, as a data set's `__getitem__` usually does, and pads each batch as it comes.
- `memory`: peak resident memory of a fresh process that goes once over tables of 1, 4 and 16 times as many rows: streamed
  (`iter_task`), and whole (`read_task`).
- `copies`: for each table the share of rows of the validation and the test split that have a near copy (Jaccard similarity of
  token runs of at least .8) in an earlier split, with the splits by group that everything here uses, and by row.

Times are CPU seconds of the process, all its threads together, so other work on the machine does not count; medians of rounds
in which the ways take turns.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one core; before the tokenizers are loaded

import torch
from transformers import PreTrainedTokenizerBase

from code_rlm import load
from code_rlm.data.mixture import Mixture, Source
from code_rlm.data.readers import TASKS, iter_task, read_task
from code_rlm.data.schema import DataError
from code_rlm.data.splits import SPLITS, split_of
from code_rlm.processing_rlm import frame
from code_rlm_data.near_duplicates import near_duplicates

TASK = "bhive_zen4"
BATCH_TOKENS = 16384
REGISTERS = "rax rbx rcx rdx rsi rdi r8 r9 r10 r11".split()


def write_blocks(path: Path, rows: int) -> None:
    """A table of random basic blocks, 1 to 12 instructions each, in row groups of 10,000."""
    rng = random.Random(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("hex", pa.string()), ("asm", pa.string()), ("cycles", pa.float64())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 10_000):
            count = min(10_000, rows - start)
            lines = [
                "; ".join(
                    f"{rng.choice(('add', 'sub', 'imul', 'mov', 'xor'))} {rng.choice(REGISTERS)}, {rng.choice(REGISTERS)}"
                    for _ in range(rng.randint(1, 12))
                )
                for _ in range(count)
            ]
            columns = {"hex": [f"{start + k:08x}" for k in range(count)], "asm": lines}
            columns["cycles"] = [rng.uniform(0.3, 9.0) for _ in range(count)]
            writer.write_table(pa.table(columns, schema=schema))


def stages(data_root: str, rows: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """CPU seconds per example of each stage."""
    seconds = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = call()
        seconds[name] = time.process_time() - began
        return result

    table = timed("read", lambda: read_task(TASK, data_root, "train", limit=rows))
    source = timed("tokenise", lambda: Source.from_dataset(TASK, table, tokenizer, max_tokens=512))
    mixture = Mixture([source], [1.0], tokenizer, 512, BATCH_TOKENS, pool=len(source))

    def batches() -> int:
        items, groups = mixture.pool_of(0)
        return sum(len(mixture.collate([items[i] for i in group])["labels"]) for group in groups)

    made = timed("batch", batches)
    return {
        "read": seconds["read"] / len(table),
        "tokenise": seconds["tokenise"] / len(table),
        "batch": seconds["batch"] / made,
    }


def one_by_one(data_root: str, rows: int, tokenizer: PreTrainedTokenizerBase) -> float:
    """CPU seconds per example of the baseline: read, then each example tokenised alone, batches padded as they come."""
    began = time.process_time()
    table = read_task(TASK, data_root, "train", limit=rows)
    waiting: list[tuple[list[int], torch.Tensor]] = []
    for row in table:
        head, tail = frame(row["metrics"], row["language"], row["context"])
        ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (head, row["text"], tail)]
        labels = torch.tensor(tokenizer.encode_numbers(row["values"][0]).reshape(-1).tolist())
        waiting.append(([token for part in ids for token in part][:512], labels))
        if len(waiting) == 32:
            torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids, _ in waiting], batch_first=True)
            torch.stack([labels for _, labels in waiting])
            waiting.clear()
    return (time.process_time() - began) / len(table)


def speed(args: argparse.Namespace) -> None:
    """Print examples/s of each stage, of all together, and of the baseline."""
    tokenizer = load(args.model)[1].tokenizer
    with tempfile.TemporaryDirectory() as folder:
        root = args.data_root
        if root is None:
            root = folder
            write_blocks(Path(folder, TASKS[TASK].file), 2 * args.rows)
        ours, baseline = [], []
        for round_number in range(args.rounds + 1):
            found = stages(root, args.rows, tokenizer), one_by_one(root, args.rows, tokenizer)
            if round_number:  # the first round warms up
                ours.append(found[0])
                baseline.append(found[1])
    what = "basic blocks of " + TASK if args.data_root else "random basic blocks"
    print(f"\n{args.rows} {what}, one core; medians of {args.rounds} rounds\n")
    print("| way | examples/s | x baseline |\n|---|---|---|")
    base = statistics.median(baseline)
    median = {name: statistics.median(each[name] for each in ours) for name in ours[0]}
    for name, each in [*median.items(), ("all three", sum(median.values())), ("one by one", base)]:
        ratio = f"{base / each:.1f}" if name in ("all three", "one by one") else ""
        print(f"| {name} | {1 / each:,.0f} | {ratio} |", flush=True)


def memory(args: argparse.Namespace) -> None:
    """Print the peak memory of fresh processes that read tables of growing size."""
    print("\n| rows | file, MB | streamed: peak MB | whole: peak MB | before reading |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, 4, 16):
            path = Path(folder, TASKS[TASK].file)
            write_blocks(path, times * args.memory_rows)
            peaks = {}
            for way in ("streamed", "whole"):
                command = [sys.executable, __file__, "--memory-of", way, "--data-root", folder]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                peaks[way], before = map(float, done.stdout.split()[-2:])
            size = path.stat().st_size / 1e6
            figures = " | ".join(f"{each:.0f}" for each in (size, peaks["streamed"], peaks["whole"], before))
            print(f"| {times * args.memory_rows:,} | {figures} |", flush=True)


def memory_of(way: str, data_root: str) -> None:
    """Go over a table once and print this process's peak memory in MB, and what it was before."""
    before = peak_mb()
    if way == "streamed":
        characters = sum(len(example.text) for example in iter_task(TASK, data_root, "train"))
    else:
        characters = sum(map(len, read_task(TASK, data_root, "train")["text"]))
    if not characters:
        raise DataError("the table has no text")
    print(peak_mb(), before)


def peak_mb() -> float:
    """This process's peak resident memory. Not getrusage's, which a new process inherits from its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def copies(args: argparse.Namespace) -> None:
    """Print the share of rows with a near copy in an earlier split, table by table."""
    print(
        "\n| task | rows looked at | of | validation, by group | test, by group | test, by row |\n|---|---|---|---|---|---|"
    )
    for name in args.tasks or TASKS:
        try:
            examples = list(texts(name, args))
        except DataError as error:
            print(f"{name} left out: {error}", file=sys.stderr, flush=True)
            continue
        shares = {}
        for by, label in (("group", lambda k, group: group), ("row", lambda k, group: f"row {k}")):
            parts: dict[str, list[str]] = {split: [] for split in SPLITS}
            for number, (text, group) in enumerate(examples):
                parts[split_of(label(number, group))].append(text)
            found = near_duplicates(parts)
            for split in SPLITS[1:]:
                count = len(found.rows_in(split))
                shares[split, by] = f"{100 * count / len(parts[split]):.1f}%" if parts[split] else "no rows"
        groups = Counter(group for _, group in examples)
        print(
            f"| {name} | {len(examples):,} | {len(groups):,} groups | {shares['validation', 'group']} | "
            f"{shares['test', 'group']} | {shares['test', 'row']} |",
            flush=True,
        )


def texts(name: str, args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Returns what distinguishes inputs of a task, context and text, with the group; rows drawn by a hash."""
    for example in iter_task(name, args.data_root, limit=args.copy_rows, on_error="skip"):
        yield "\n".join([*example.context, example.text]), example.group


PARTS = {"speed": speed, "memory": memory, "copies": copies}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder of the tables; without it speed is measured on a table made here")
    parser.add_argument("--model", help="checkpoint whose tokenizer is used; by default the one that ships")
    parser.add_argument("--only", choices=PARTS, nargs="+", help="which parts; by default all that the arguments allow")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the speed table [20000]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the speed table [3]")
    parser.add_argument("--memory-rows", type=int, default=25_000, help="rows of the smallest memory table [25000]")
    parser.add_argument("--copy-rows", type=int, default=20_000, help="rows of a task in the search for copies [20000]")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="tasks of the search for copies; by default all")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory_of:
        memory_of(args.memory_of, args.data_root)
        return
    for name in args.only or (PARTS if args.data_root else ("speed", "memory")):
        PARTS[name](args)


if __name__ == "__main__":
    main()
