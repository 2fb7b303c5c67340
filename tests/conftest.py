"""Shared by all tests: a tiny random model, a tiny tokenizer, one thread for each process.

`pytest -n 2 --dist loadgroup` runs the suite in two processes. Tests of one group run in one process, one after the other:
those that share an expensive fixture and those that count the processes of the whole machine (`GROUPS`).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes that tests start inherit it

import pytest
import tiny
import torch
import toy as toy_table

import code_rlm
from code_rlm.configuration_rlm import RLMConfig
from code_rlm.data import graph_texts
from code_rlm.data.train_tokenizer import train_tokenizer
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import NumberFormat

torch.set_num_threads(1)

GROUPS = {
    "test_measure": "measure",
    "test_rank": "measure",
    "test_cards": "measure",
    "test_plain": "measure",
    "test_polyglot": "measure",
    "test_hub": "hub",
    "test_published": "published",
    "test_scale": "scale",
    "test_suite": "suite",
    "test_train": "train",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Assigns the tests of some files to groups; pytest-xdist reads the marker."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if group := GROUPS.get(item.path.stem):
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session", autouse=True)
def own_graph_texts(tmp_path_factory):
    """Texts of architectures are not read from what the user has, nor written there."""
    path = tmp_path_factory.mktemp("graph_texts") / "texts.sqlite3"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_texts, "cache_file", lambda: path)
        yield


TINY_ENCODER = {
    "model_type": "modernbert",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "global_attn_every_n_layers": 2,
    "local_attention": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "cls_token_id": None,
    "sep_token_id": None,
    # Far wider than in training, so that a random model has opinions of its own on each input.
    "initializer_range": 0.4,
    "initializer_cutoff_factor": 2.0,
}
TEXTS = [
    "def f(x):\n    return x + 1\n",
    "for i in range(100):\n\tprint(i, end=' ')\n",
    "# predict: latency_ms\n# language: python\nimport torch\n\n\nclass Net(torch.nn.Module):\n    pass\n",
    "mov eax, dword ptr [rsp + 8]\nvaddps ymm0, ymm1, ymm2\n",
]


@pytest.fixture(scope="session")
def make_config():
    """Builds a tiny config; fields can be replaced by keyword."""

    def make(**changes) -> RLMConfig:
        fields = {
            "encoder": dict(TINY_ENCODER),
            "decoder_hidden_size": 32,
            "decoder_intermediate_size": 32,
            "decoder_num_layers": 2,
            "decoder_num_attention_heads": 4,
            "decoder_num_key_value_heads": 2,
            "initializer_range": 0.25,
            "max_objectives": 3,
            "max_input_tokens": 64,
        }
        return RLMConfig(**{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def make_model(make_config):
    """Builds a tiny random model in evaluation mode; same arguments, same weights."""

    def make(seed: int = 0, **changes) -> RLMForConditionalGeneration:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return RLMForConditionalGeneration(make_config(**changes)).eval()

    return make


@pytest.fixture(scope="session")
def model(make_model):
    """The tiny model in the default number format. Not to be changed by tests."""
    return make_model()


@pytest.fixture(scope="session")
def small_format() -> NumberFormat:
    """A format of 56 codes, few enough to enumerate: one digit, three exponents, `failed`."""
    return NumberFormat(mantissa_digits=1, min_exponent=-1, max_exponent=1, specials=("failed",))


@pytest.fixture(scope="session")
def small_model(make_model, small_format):
    """A tiny model that writes `small_format`. Not to be changed by tests."""
    return make_model(number_format=small_format.to_dict())


@pytest.fixture(scope="session")
def batch():
    """Three inputs of different length, padded, as a tokenizer returns them."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(4, 300, (3, 12), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate((12, 7, 9)):
        ids[row, length:], mask[row, length:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="session")
def alone(batch):
    """The rows of `batch`, each alone and unpadded."""
    lengths = batch["attention_mask"].sum(1).tolist()
    return [{"input_ids": batch["input_ids"][i : i + 1, :n]} for i, n in enumerate(lengths)]


@pytest.fixture(scope="session")
def tokenizer():
    """A tiny tokenizer: special tokens, 256 bytes and a few merges. Not to be changed by tests."""
    return train_tokenizer(iter(TEXTS * 4), 300)


FRESH_PROCESS = """
import json, sys
sys.modules["code_rlm"] = None  # remote code must stand on its own
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
folder, texts, values, batch = json.loads(sys.stdin.read())
batch = {name: torch.tensor(rows) for name, rows in batch.items()}


def answers(tokenizer, model):
    return {
        "class": f"{type(model).__module__.split('.')[0]}.{type(model).__name__}",
        "ids": tokenizer(texts)["input_ids"],
        "decoded": [tokenizer.decode(ids) for ids in tokenizer(texts)["input_ids"]],
        "special": [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id],
        "format": tokenizer.codec.format.to_dict(),
        "codes": tokenizer.encode_numbers(values).tolist(),
        "quantiles": model.predict(batch).quantiles.tolist(),
        "generated": model.generate(**batch, num_objectives=2).tolist(),
    }


trust = {"trust_remote_code": True}
remote = answers(AutoTokenizer.from_pretrained(folder, **trust), AutoModelForSeq2SeqLM.from_pretrained(folder, **trust))
del sys.modules["code_rlm"]
import code_rlm
own = answers(code_rlm.RLMTokenizer.from_pretrained(folder), code_rlm.RLMForConditionalGeneration.from_pretrained(folder))
print(json.dumps({"remote": remote, "own": own}))
"""
ODD_TEXTS = [
    "def f(x):\n    return x+1\n",
    "  leading and trailing  \n\n",
    "\ttabs\t\there\n\t\tand there",
    "one\r\ntwo\r\n\r\n   three\r",
    "naïve 日本語 😀 ½ ẞ \u00a0\u2003wide\u200b",
    "1234567890 3.14e-10 0xFF ١٢٣",
    "a" * 100 + " " * 100 + "\n" * 20,
    "<eos><pad><mask><cut><.><E3>",
    "",
]


@pytest.fixture(scope="session")
def odd_texts():
    """Texts on which careless tokenizers lose something."""
    return ODD_TEXTS


@pytest.fixture(scope="session")
def saved_elsewhere():
    """Values of a number format that is not the default."""
    return NumberFormat(mantissa_digits=3, min_exponent=-5, max_exponent=9, specials=("failed",))


@pytest.fixture(scope="session")
def reloaded(make_model, saved_elsewhere, batch, tmp_path_factory):
    """What a checkpoint answers here, and in a fresh process by remote code and by the package."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = make_model(number_format=saved_elsewhere.to_dict())
    tokenizer = train_tokenizer(iter(TEXTS * 4), 300, saved_elsewhere)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    values = [1.5, -27.3, 0.0, "failed"]
    asked = [str(folder), ODD_TEXTS, values, {name: rows.tolist() for name, rows in batch.items()}]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules")), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    here = {
        "ids": tokenizer(ODD_TEXTS)["input_ids"],
        "decoded": ODD_TEXTS,
        "special": [0, 1, 2],
        "format": saved_elsewhere.to_dict(),
        "codes": tokenizer.encode_numbers(values).tolist(),
        "quantiles": model.predict(batch).quantiles.tolist(),
        "generated": model.generate(**batch, num_objectives=2).tolist(),
    }
    return {"here": here, **json.loads(process.stdout.splitlines()[-1])}


@pytest.fixture(scope="module")
def checkpoint(make_model, tokenizer, tmp_path_factory) -> Path:
    """Folder of a tiny checkpoint with metrics of four kinds of input."""
    return tiny.save(make_model, tokenizer, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def pipe(checkpoint):
    """The pipeline of that checkpoint."""
    return code_rlm.pipeline(checkpoint)


@pytest.fixture(scope="session")
def toy(tokenizer, tmp_path_factory) -> Path:
    """A folder with a table of toy programs, a tokenizer, and a YAML file that trains on them."""
    return toy_table.make(tmp_path_factory.mktemp("toy"), tokenizer)
