"""How fast training is, each way beside its baseline on the same weights, rows and machine.

    python benchmarks/train.py --data-root DATA                     # all three
    python benchmarks/train.py --data-root DATA --only padding

- `padding`: examples/s of a from-scratch run of the shipped architecture at 512 tokens: batches bucketed by length, against
  the same examples each padded to the maximum, as the reference implementation does. The mixture is that of the tables found
  in the data root, by the default weights.
- `features`: examples/s of training the decoder from cached encoder outputs, against training encoder and decoder on the
  same batches, and against running the frozen encoder every time. With `--encoder` and `--tokenizer` around a pretrained
  encoder (`benchmarks/ablations.py` prepares such folders of all-MiniLM-L6-v2), which is what the cache is for.
- `lora`: seconds of a LoRA fine-tune of the shipped checkpoint on 1,000 rows of 300 tokens, three epochs, evaluated and
  saved; the rows are random code-like text, as only their length counts.

The ways take turns and each has its own optimiser; what is given is the median of rounds, and ratios of medians. Batches hold
as many tokens, padding included, in every way. Time is the process's CPU time, all threads together: on a machine that
others use as well, the wall clock measures them.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from code_rlm import RLMConfig, RLMForConditionalGeneration, RLMTokenizer, load
from code_rlm.data.mixture import Mixture, Source, mixture_weights
from code_rlm.data.readers import TASKS, read_task
from code_rlm.data.schema import DataError
from code_rlm.loading import DEFAULT_CHECKPOINT
from code_rlm.train import choose_attention, train
from code_rlm.training.encoder_cache import FeatureCache, possible_inputs
from code_rlm.training.losses import Objective, count_labels
from code_rlm.training.optimizers import build_optimizers
from code_rlm.training.options import make_options

LENGTH = 512


def mixture_of(
    data_root: Path,
    rows: int,
    batch_tokens: int,
    tasks: list[str] | None,
    tokenizer: RLMTokenizer | None = None,
    **settings,
) -> Mixture:
    """The tables of the data root that are there, at most `rows` of each, drawn by the size of the whole table."""
    tokenizer = tokenizer or load()[1].tokenizer
    sources, sizes = [], []
    for name in tasks or [n for n, task in TASKS.items() if (data_root / task.file).is_file()]:
        try:
            read = read_task(name, str(data_root), "train", limit=rows)
        except DataError as error:
            print(f"{name} left out: {error}")
            continue
        sizes.append(pq.ParquetFile(data_root / TASKS[name].file).metadata.num_rows)
        sources.append(Source.from_dataset(name, read, tokenizer, max_tokens=LENGTH))
    weights = mixture_weights(sizes, [None] * len(sources), 2.0)
    return Mixture(sources, weights, tokenizer, LENGTH, batch_tokens, 4, pool=2048, **settings)


def new_model(frozen: bool = False, encoder: str | None = None) -> RLMForConditionalGeneration:
    """The shipped architecture with random weights, or a decoder of the paper's depth around a pretrained encoder."""
    torch.manual_seed(0)
    if encoder:
        return RLMForConditionalGeneration.from_encoder_pretrained(encoder, freeze_encoder=frozen, max_objectives=4)
    config = RLMConfig.from_pretrained(DEFAULT_CHECKPOINT)
    config.freeze_encoder = frozen
    return RLMForConditionalGeneration(config)


def padded_batches(mixture: Mixture) -> Iterator[dict[str, torch.Tensor]]:
    """Yields the same examples in the order drawn, every one padded to the maximum, as many to a batch as its tokens allow."""
    pool, rows = 0, mixture.batch_tokens // LENGTH
    while True:
        items, _ = mixture.pool_of(pool)
        for start in range(0, len(items) - rows + 1, rows):
            batch = mixture.collate(items[start : start + rows])
            missing = LENGTH - batch["input_ids"].shape[1]
            for name in ("input_ids", "attention_mask"):
                batch[name] = torch.nn.functional.pad(batch[name], (0, missing))
            yield batch
        pool += 1


class Way:
    """One way to train: a model of its own, batches, and what was measured."""

    def __init__(
        self,
        model: RLMForConditionalGeneration,
        batches: Iterable[dict[str, Any]],
        attach: Callable[[dict], dict] = dict,
    ):
        self.model, self.batches, self.attach = model.train(), iter(batches), attach
        options = make_options()
        self.optimizers = build_optimizers(model, options)
        self.objective = Objective(options, model.codec, torch.device("cpu"))
        self.seconds: list[float] = []  # per example, of each round

    def run(self, seconds: float) -> None:
        """Trains for about so long."""
        examples, began = 0, time.process_time()
        while time.process_time() - began < seconds:
            batch = next(self.batches)
            labels = count_labels(batch)
            examples += len(batch["labels"])
            batch = self.attach(batch)
            if "input_ids" in batch:
                choose_attention(self.model, batch["input_ids"])
            with torch.autocast("cpu", torch.bfloat16):
                loss, _ = self.objective(self.model, batch, labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
        self.seconds.append((time.process_time() - began) / examples)


def compare(ways: dict[str, Way], rounds: int, seconds: float) -> dict[str, float]:
    """Examples/s of each way, the median of rounds in which they take turns; the first round does not count."""
    for _ in range(rounds + 1):
        for way in ways.values():
            way.run(seconds)
    return {name: 1 / statistics.median(way.seconds[1:]) for name, way in ways.items()}


def padding(args: argparse.Namespace) -> dict[str, float]:
    """Bucketed batches against every input padded to the maximum."""
    mixture = mixture_of(args.data_root, args.rows, args.batch_tokens, args.tasks)
    lengths = [len(item.ids) for item in mixture.pool_of(0)[0]]
    print(
        f"mixture of {', '.join(s.name for s in mixture.sources)}: {np.mean(lengths):.0f} tokens in the mean",
        flush=True,
    )
    ways = {
        "bucketed by length": Way(new_model(), mixture.batches()),
        f"padded to {LENGTH}": Way(new_model(), padded_batches(mixture)),
    }
    return compare(ways, args.rounds, args.seconds)


def features(args: argparse.Namespace) -> dict[str, float]:
    """Cached encoder outputs against the encoder, trained and frozen."""
    tokenizer = RLMTokenizer.from_pretrained(args.tokenizer) if args.tokenizer else None
    mixture = mixture_of(args.data_root, args.feature_rows, args.batch_tokens, args.tasks, tokenizer, draws=1)
    model = new_model(True, args.encoder)
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(folder, model)
        began = time.process_time()
        inputs = cache.missing(possible_inputs(mixture))
        cache.fill(model.eval(), inputs, 0, args.batch_tokens, torch.device("cpu"))
        cache.refresh()
        size = cache.bytes_of(inputs) / 1e6
        print(f"{len(inputs)} inputs cached in {time.process_time() - began:.0f} s, {size:.0f} MB", flush=True)
        ways = {
            "decoder from cached features": Way(model, mixture.batches(), cache.attach),
            "decoder, frozen encoder run": Way(new_model(True, args.encoder), mixture.batches()),
            "encoder and decoder": Way(new_model(False, args.encoder), mixture.batches()),
        }
        return compare(ways, args.rounds, args.seconds)


def lora(args: argparse.Namespace) -> dict[str, float]:
    """A LoRA fine-tune of the shipped weights on 1,000 rows of 300 tokens, from command to merged model."""
    tokenizer = load()[1].tokenizer
    rng = random.Random(0)
    names = [
        f"{a}_{b}" for a in ("load", "store", "row", "key", "total", "next") for b in ("one", "all", "size", "index")
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for number in range(1000):
            lines, size = [], 0
            while size < 300:
                line = f"{rng.choice(names)} = {rng.choice(names)}({rng.choice(names)}, {rng.randrange(100)})\n"
                size += len(tokenizer(line)["input_ids"])
                lines.append(line)
            rows.append(
                {"text": "".join(lines), "wall_time_ms": float(sum("total" in w for w in lines) + number % 7 + 1)}
            )
        (path := Path(folder) / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        train_rows = 800
        steps = 3 * train_rows * 310 // 8192
        options = make_options(
            out=f"{folder}/run",
            init=str(DEFAULT_CHECKPOINT),
            data=[{"file": str(path), "target_columns": ["wall_time_ms"], "language": "python"}],
            lora={},
            steps=steps,
            batch_tokens=8192,
            max_tokens=LENGTH,
            eval_every=steps,
            save_every=steps,
            eval_rows=100,
            mixed_precision="bf16",
        )
        began = time.process_time()
        train(options)
        return {f"LoRA, 1000 rows of 300 tokens, {steps} steps of 8192 tokens, seconds": time.process_time() - began}


def table(found: dict[str, float]) -> str:
    """A table of examples/s and the ratio to the slowest."""
    slowest = min(found.values())
    rows = [f"| {name} | {speed:.1f} | {speed / slowest:.1f} |" for name, speed in found.items()]
    return "\n".join(["| way | examples/s | x |", "|---|---|---|", *rows])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the tasks' tables")
    parser.add_argument("--only", choices=("padding", "features", "lora"))
    parser.add_argument("--tasks", nargs="+", help="by default all whose tables are there")
    parser.add_argument("--rows", type=int, default=300, help="rows of each table [300]")
    parser.add_argument("--feature-rows", type=int, default=100, help="rows of each table to cache [100]")
    parser.add_argument(
        "--encoder", help="pretrained encoder for `features`, folder or hub id; by default a new small one"
    )
    parser.add_argument("--tokenizer", help="its tokenizer, as an RLMTokenizer")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a way in a round [10]")
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, bf16 autocast, torch {torch.__version__}")
    for name, run in (("padding", padding), ("features", features)):
        if args.only in (None, name):
            print(f"\n{table(run(args))}", flush=True)
    if args.only in (None, "lora"):
        for what, seconds in lora(args).items():
            print(f"\n{what}: {seconds:.0f}")


if __name__ == "__main__":
    main()
