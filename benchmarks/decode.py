"""How long exact answers and samples take, beside the usual ways of decoding, on the same weights in the same run.

    python benchmarks/decode.py                              # the shipped weights
    python benchmarks/decode.py --size base --batch 1        # random weights of another size

Ways:

- `encoder`: the bare encoder pass, which every way needs
- `median + interval`: exact 5%, 50% and 95% quantiles, `model.predict`
- `64 samples`: `model.sample`, draws on the query axis of one memory, equal prefixes computed once
- `generate x64`: transformers' `generate(do_sample=True, num_return_sequences=64)` with its caches and our grammar
- `plain x64`: as in the reference implementation of regression language models: the memory copied once per sample, the whole
  prefix run again and its keys and values projected anew at every place

All times contain the encoder pass. Times are medians over rounds in which the ways take turns; ratios are to `encoder`.
`--memory` gives the peak memory of a fresh process for each way instead (Linux).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from code_rlm import NumberLogitsProcessor, RLMConfig, RLMForConditionalGeneration
from code_rlm.loading import load

SIZES = {
    "small": {"hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4},
    "base": {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8},
}


def build(size: str | None, checkpoint: str | None) -> RLMForConditionalGeneration:
    """The shipped weights, those of a checkpoint, or random ones of a size."""
    if size is None:
        return load(checkpoint)[0].eval()
    torch.manual_seed(0)
    encoder = {
        "model_type": "modernbert",
        "vocab_size": 8192,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    encoder |= {"cls_token_id": None, "sep_token_id": None, "max_position_embeddings": 8192, **SIZES[size]}
    return RLMForConditionalGeneration(RLMConfig(encoder=encoder)).eval()


@torch.inference_mode()
def plain_samples(model: RLMForConditionalGeneration, inputs: dict, samples: int) -> torch.Tensor:
    """Uncached, expanded decoding: `(batch * samples, length)` number tokens."""
    memory = model.encode_memory(**inputs).repeat_interleave(samples, 0)
    mask = inputs["attention_mask"].repeat_interleave(samples, 0)
    tokens = torch.zeros((len(memory), 1), dtype=torch.long)
    grammar = NumberLogitsProcessor(model.codec, 1)
    for _ in range(model.codec.length):
        logits = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory),
            attention_mask=mask,
            decoder_input_ids=tokens,
            use_cache=False,
        ).logits[:, -1]
        drawn = torch.multinomial(grammar(tokens, logits).softmax(-1), 1)
        tokens = torch.cat([tokens, drawn], 1)
    return tokens[:, 1:]


def ways(
    model: RLMForConditionalGeneration, inputs: dict[str, torch.Tensor], samples: int
) -> dict[str, Callable[[], Any]]:
    """Returns the ways to answer: name to a call without arguments."""

    @torch.inference_mode()
    def encoder() -> Any:
        return model.encode_memory(**inputs)

    return {
        "encoder": encoder,
        "median + interval": lambda: model.predict(inputs, (0.05, 0.5, 0.95)),
        "1 sample": lambda: model.sample(inputs, 1),
        f"{samples} samples": lambda: model.sample(inputs, samples),
        f"generate x{samples}": lambda: model.generate(
            **inputs, do_sample=True, num_return_sequences=samples, num_objectives=1
        ),
        f"plain x{samples}": lambda: plain_samples(model, inputs, samples),
    }


def random_inputs(model: RLMForConditionalGeneration, batch: int, length: int) -> dict[str, torch.Tensor]:
    """Token ids of random text, nothing padded."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(4, model.encoder.config.vocab_size, (batch, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder; by default the shipped weights")
    parser.add_argument("--size", choices=SIZES, help="random weights of this size instead")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = build(args.size, args.model)
    if args.memory_of:
        before = peak_mb()
        ways(model, random_inputs(model, args.batch[0], args.lengths[0]), args.samples)[args.memory_of]()
        print(peak_mb(), before)
        return
    if args.memory:
        print("| batch | tokens | way | peak MB | before the call |\n|---|---|---|---|---|")
        for batch in args.batch:
            for length in args.lengths:
                for name in ways(model, random_inputs(model, 1, 16), args.samples):
                    peak, before = peak_memory(args, batch, length, name)
                    print(f"| {batch} | {length} | {name} | {peak:.0f} | {before:.0f} |", flush=True)
        return
    rows = []
    for batch in args.batch:
        for length in args.lengths:
            calls = ways(model, random_inputs(model, batch, length), args.samples)
            times: dict[str, list[float]] = {name: [] for name in calls}
            for round_number in range(args.rounds + 1):
                for name, call in calls.items():
                    if name.startswith("plain") and round_number > max(2, args.rounds // 3):
                        continue
                    began = time.perf_counter()
                    call()
                    if round_number:  # the first round warms up
                        times[name].append(time.perf_counter() - began)
            base = statistics.median(times["encoder"])
            for name, seconds in times.items():
                median = statistics.median(seconds)
                rows.append({"batch": batch, "length": length, "way": name, "ms": 1e3 * median, "ratio": median / base})
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, {args.threads} threads\n")
    print("| batch | tokens | way | ms | x encoder |\n|---|---|---|---|---|")
    for r in rows:
        print(f"| {r['batch']} | {r['length']} | {r['way']} | {r['ms']:.1f} | {r['ratio']:.2f} |")


def peak_mb() -> float:
    """This process's peak resident memory. Not getrusage's, which a new process inherits from its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peak_memory(args: argparse.Namespace, batch: int, length: int, name: str) -> tuple[float, float]:
    """Peak resident memory in MB of a fresh process that goes one way, and before it did."""
    command = [sys.executable, __file__, "--batch", str(batch), "--lengths", str(length), "--memory-of", name]
    command += ["--samples", str(args.samples), "--threads", str(args.threads)]
    command += ["--size", args.size] if args.size else []
    command += ["--model", args.model] if args.model else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, before = map(float, done.stdout.split()[-2:])
    return peak, before


if __name__ == "__main__":
    main()
