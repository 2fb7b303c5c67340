"""Networks of torchvision, timm and transformers: exported, counted and measured, to compare with what is predicted for them.

    python benchmarks/real_networks.py export --graphs FOLDER          # needs torchvision, timm, transformers, onnxscript
    python benchmarks/real_networks.py measure --graphs FOLDER --core 1 --out benchmarks/results/real_networks.csv

`export` builds each network with random weights, writes it with torch's tracing exporter and with its `dynamo` exporter,
weights inside, and keeps what PyTorch itself counts: multiply-adds (`FlopCounterMode`, attention by its matrix products) and
parameters.
`measure` runs each file with onnxruntime on one core and one thread, and counts what the package counts. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

TORCHVISION = (
    "alexnet", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "densenet121", "googlenet", "inception_v3",
    "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "shufflenet_v2_x1_0", "squeezenet1_1", "efficientnet_b0",
    "mnasnet1_0", "regnet_y_400mf", "convnext_tiny", "vit_b_32", "swin_t", "deeplabv3_mobilenet_v3_large",
)  # fmt: skip
TIMM = (
    "ghostnet_100", "tf_efficientnet_lite0", "mixer_s32_224", "deit_tiny_patch16_224", "mobilevit_s", "poolformer_s12",
    "dla34", "hrnet_w18_small", "res2net50_26w_4s", "levit_128", "edgenext_small", "repvgg_a0", "regnetx_004", "cspdarknet53",
    "resmlp_12_224", "coat_lite_tiny", "fastvit_t8", "xception41", "selecsls42b", "mnasnet_small",
)  # fmt: skip
TRANSFORMERS = ("bert", "distilbert", "gpt2", "t5_encoder", "whisper_encoder", "wav2vec2", "llama")
EXPORTERS = ("torchscript", "dynamo")


def torchvision_network(name: str) -> tuple[Any, Any]:
    """Returns a model of torchvision and an image."""
    import torch
    import torchvision

    how = {"weights": None}
    if name.startswith("deeplab"):
        how["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        how |= {"init_weights": False}
    side = 299 if name == "inception_v3" else 224
    return torchvision.models.get_model(name, **how), torch.randn(1, 3, side, side)


def timm_network(name: str) -> tuple[Any, Any]:
    """Returns a model of timm and an image of its size."""
    import timm
    import torch

    model = timm.create_model(name, pretrained=False, exportable=True)
    size = model.default_cfg.get("input_size", (3, 224, 224))
    return model, torch.randn(1, *size)


def transformers_network(name: str) -> tuple[Any, Any]:
    """Returns a model of transformers with its usual sizes and few words, and an input of 128 tokens or their like."""
    import torch
    import transformers as library

    ids = torch.randint(0, 999, (1, 128))
    words = {"vocab_size": 1000}
    small = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    models: dict[str, Callable[[], tuple[Any, Any]]] = {
        "bert": lambda: (library.BertModel(library.BertConfig(**words)), ids),
        "distilbert": lambda: (library.DistilBertModel(library.DistilBertConfig(**words)), ids),
        "gpt2": lambda: (library.GPT2Model(library.GPT2Config(use_cache=False, **words)), ids),
        "t5_encoder": lambda: (library.T5EncoderModel(library.T5Config(**words)), ids),
        "whisper_encoder": lambda: (
            library.WhisperModel(library.WhisperConfig(max_source_positions=500)).encoder,
            torch.randn(1, 80, 1000),
        ),
        "wav2vec2": lambda: (library.Wav2Vec2Model(library.Wav2Vec2Config(**small)), torch.randn(1, 16000)),
        "llama": lambda: (library.LlamaModel(library.LlamaConfig(use_cache=False, **small, **words)), ids),
    }
    model, sample = models[name]()
    model.config.return_dict = False
    return model, sample


SOURCES: dict[str, tuple[tuple[str, ...], Callable[[str], tuple[Any, Any]]]] = {
    "torchvision": (TORCHVISION, torchvision_network),
    "timm": (TIMM, timm_network),
    "transformers": (TRANSFORMERS, transformers_network),
}


def counted(model: Any, sample: Any) -> dict[str, int]:
    """Returns what PyTorch counts of a model: multiply-adds of one run, parameters."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(sample)
    return {
        "torch_macs": counter.get_total_flops() // 2,
        "torch_parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def export(graphs: Path, sources: list[str], only: list[str], exporters: list[str]) -> None:
    """Writes the networks that the folder lacks, and `networks.json`."""
    import torch

    graphs.mkdir(parents=True, exist_ok=True)
    index = graphs / "networks.json"
    known: dict[str, Any] = json.loads(index.read_text()) if index.exists() else {}
    for source in sources:
        names, build = SOURCES[source]
        for name in names:
            if only and name not in only:
                continue
            key = f"{source}/{name}"
            missing = [each for each in exporters if not _file(graphs, key, each).exists()]
            if not missing:
                continue
            try:
                torch.manual_seed(0)
                model, sample = build(name)
                _randomise(model)
                known[key] = {"failures": {}, **known.get(key, {}), **counted(model, sample)}
            except Exception as error:  # the library lacks the model, or has changed
                print(f"{key}: not built: {_line(error)}", file=sys.stderr)
                continue
            for exporter in missing:
                try:
                    _export(model, sample, _file(graphs, key, exporter), exporter)
                except Exception as error:  # of the exporter, of any kind
                    known[key]["failures"][exporter] = _line(error)
                    print(f"{key}: {exporter}: {_line(error)}", file=sys.stderr, flush=True)
            index.write_text(json.dumps(known, indent=1))
            print(f"{key}: {known[key]['torch_macs'] / 1e6:.0f} million multiply-adds", flush=True)


def _randomise(model: Any) -> None:
    """Puts a model into evaluation; no two tensors stay equal, as exporters store equal ones once."""
    import torch

    model.eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.01)


def _export(model: Any, sample: Any, path: Path, exporter: str) -> None:
    import torch

    partial = path.with_suffix(".partial")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            torch.onnx.export(model, (sample,), str(partial), dynamo=True, external_data=False, verbose=False)
        else:
            torch.onnx.export(model, (sample,), str(partial), dynamo=False, opset_version=17)
    partial.rename(path)


def _file(graphs: Path, key: str, exporter: str) -> Path:
    return graphs / f"{key.replace('/', '-')}.{exporter}.onnx"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def measure(graphs: Path, out: Path, core: int | None, niceness: int) -> None:
    """Measures every file and writes a row for each: counts of PyTorch and of the package, latency, memory."""
    from code_rlm.onnx_text_rlm import graph_cost
    from code_rlm_data.networks.bench import Bench, hardware, versions

    known = json.loads((graphs / "networks.json").read_text())
    files = [
        (key, each, _file(graphs, key, each))
        for key in known
        for each in EXPORTERS
        if _file(graphs, key, each).exists()
    ]
    bench = Bench(core, niceness)
    measured = []  # all before any is counted: memory that this process has freed would hide what its children need
    for key, exporter, path in files:
        measured.append(bench(path))
        print(f"{key} {exporter}: {measured[-1].outcome} {measured[-1].latency_ms or 0:.2f} ms", flush=True)
    rows = []
    for (key, exporter, path), result in zip(files, measured, strict=True):
        cost = graph_cost(path)
        row = {
            "network": key,
            "exporter": exporter,
            "torch_macs": known[key]["torch_macs"],
            "macs": cost.macs,
            "torch_parameters": known[key]["torch_parameters"],
            "parameters": cost.parameters,
            "unknown_nodes": cost.unknown,
            **asdict(result),
            "hardware": hardware(),
            "versions": versions(),
        }
        rows.append(row)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("export", "measure"))
    parser.add_argument("--graphs", type=Path, required=True, help="folder of the .onnx files")
    parser.add_argument(
        "--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES), help="libraries to export from"
    )
    parser.add_argument("--only", nargs="+", default=[], help="names of networks to export; all by default")
    parser.add_argument("--exporters", nargs="+", choices=EXPORTERS, default=list(EXPORTERS), help="exporters to use")
    parser.add_argument("--out", type=Path, default=Path("real_networks.csv"), help="table that `measure` writes")
    parser.add_argument("--core", type=int, help="core that models run on")
    parser.add_argument("--nice", type=int, default=0, help="added to the niceness of what is measured")
    args = parser.parse_args(argv)
    if args.step == "export":
        export(args.graphs, args.sources, args.only, args.exporters)
    else:
        measure(args.graphs, args.out, args.core, args.nice)


if __name__ == "__main__":
    main()
