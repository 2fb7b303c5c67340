"""What people pass: data sets, loaders, frames, records, paths that are not there; and checkpoints that name foreign code."""

import json

import pandas as pd
import pytest
import torch
from datasets import Dataset
from tiny import PYTHON
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

import code_rlm
from code_rlm.cli import main
from code_rlm.distributions_rlm import PoolingComponent
from code_rlm.errors_rlm import InputError, MetricError

CODES = [PYTHON, "x = [1, 2, 3]\nprint(sum(x))\n"]
OPTIONS = {"language": "python", "metrics": ["cpu_time_ms"]}


class Codes(torch.utils.data.Dataset):
    """A data set of torch: no iteration, items by number."""

    def __len__(self):
        return len(CODES)

    def __getitem__(self, number):
        return CODES[number]


def values(answers):
    return [answer[0]["value"] for answer in answers]


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        (KeyDataset(Dataset.from_dict({"code": CODES}), "code"), {}),
        (Codes(), {}),
        (Codes(), {"num_workers": 1}),
        (torch.utils.data.DataLoader(CODES, batch_size=2), {}),
        (torch.utils.data.DataLoader([{"text": code} for code in CODES], batch_size=2), {}),
    ],
    ids=["KeyDataset", "torch", "workers", "loader", "loader of records"],
)
def test_when_a_data_set_or_loader_is_passed_then_its_items_are_answered(pipe, inputs, options):
    assert values(pipe(inputs, **OPTIONS, **options)) == values(pipe(CODES, **OPTIONS))


def test_when_a_frame_is_passed_then_a_frame_comes_back_with_its_columns(pipe):
    frame = pd.DataFrame({"code": CODES, "id": [7, 8]}, index=["a", "b"])
    answered = pipe(frame, **OPTIONS)
    assert list(answered["id"]) == [7, 8] and list(answered.index) == ["a", "b"]
    assert list(answered["cpu_time_ms"]) == values(pipe(CODES, **OPTIONS))
    assert "cpu_time_ms" not in frame.columns
    with pytest.raises(InputError, match="text or code"):
        pipe(frame[["id"]], **OPTIONS)
    with pytest.raises(InputError, match="already"):
        pipe(answered, **OPTIONS)


def test_when_a_record_has_further_keys_then_its_answers_carry_them(pipe):
    [entry] = pipe({"text": PYTHON, "id": 3}, **OPTIONS)
    assert entry["record"] == {"id": 3}


@pytest.mark.parametrize(
    "path", ["nosuch/kernel.py", "kernel.s", "models/cell.onnx", "rows.jsonl", "../a/b", "C:\\x\\y.py"]
)
def test_when_a_path_is_not_there_then_the_error_says_that_it_is_a_path(pipe, path):
    with pytest.raises(InputError, match="looks like a path"):
        pipe(path)


@pytest.mark.parametrize("code", ["x = a/b\n", "print(1.5)", "x.append(1)"])
def test_when_one_line_of_code_has_slashes_or_dots_then_it_is_code(pipe, code):
    assert pipe(code, **OPTIONS)


def test_when_a_file_is_prose_or_a_table_then_the_error_says_so(pipe, tmp_path):
    for name, message in (("README.md", "text for people"), ("rows.csv", "is a table")):
        (tmp_path / name).write_text("A title\n\nSome words, and more of them.\n")
        with pytest.raises(InputError, match=message):
            pipe(tmp_path / name, metrics=["cpu_time_ms"])


def test_when_a_table_is_named_to_predict_then_every_row_is_answered(checkpoint, tmp_path, capsys):
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps({"source": code}) + "\n" for code in CODES))
    options = ["--model", str(checkpoint), "--language", "python", "--metrics", "cpu_time_ms", "--format", "json"]
    assert main(["predict", str(table), *options]) == 2
    assert "--text-column" in capsys.readouterr().err
    assert main(["predict", str(table), *options, "--text-column", "source"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [f"{table}:0", f"{table}:1"]


def test_when_one_of_many_files_is_bad_then_it_is_named_and_the_others_are_answered(checkpoint, tmp_path, capsys):
    (tmp_path / "good.py").write_text(PYTHON)
    (tmp_path / "bad.py").write_bytes(b"\xff\xfe\x00")
    files = [str(tmp_path / "good.py"), str(tmp_path / "bad.py")]
    assert main(["predict", *files, "--model", str(checkpoint), "--format", "json"]) == 1
    printed = capsys.readouterr()
    assert {row["file"] for row in json.loads(printed.out)} == {files[0]}
    assert "skipped" in printed.err and "bad.py" in printed.err


def test_when_the_package_is_installed_then_the_library_loads_a_folder_without_trust(checkpoint, pipe):
    loaded = pipeline("code-regression", model=str(checkpoint))
    assert type(loaded) is code_rlm.CodeRegressionPipeline
    assert values([loaded(PYTHON, **OPTIONS)]) == values([pipe(PYTHON, **OPTIONS)])


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_experts_implementation"])
def test_when_a_checkpoint_names_a_kernel_then_it_is_not_used(make_model, tokenizer, tmp_path, key):
    make_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: "evil/kernel"}))
    model, _ = code_rlm.load(tmp_path)
    assert "evil" not in json.dumps([model.config._attn_implementation, model.encoder.config._attn_implementation])


def test_when_tokens_are_added_then_the_resized_model_is_saved_and_loaded(make_model, tokenizer, tmp_path):
    model = make_model(number_embeddings=True)
    count = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(count + 3)
    model.save_pretrained(tmp_path)
    again = code_rlm.RLMForConditionalGeneration.from_pretrained(tmp_path)
    assert again.get_input_embeddings().num_embeddings == again.config.encoder.vocab_size == count + 3


def test_when_a_given_value_can_have_no_effect_then_it_is_refused(pipe, monkeypatch):
    component = PoolingComponent(scale=1.0, decoder_weight=0.0, weight=1.0)
    monkeypatch.setattr(type(pipe.model.config.fitted), "pooling_of", lambda state, metric: component)
    with pytest.raises(MetricError, match="given has no effect on cpu_time_ms"):
        pipe(PYTHON, metrics=["cpu_time_ms"], given={"peak_memory_bytes": 1e6})


@pytest.mark.parametrize("required", [True, False])
def test_when_the_training_kernels_have_sizes_then_those_of_the_file_are_read(pipe, monkeypatch, required):
    monkeypatch.setattr(type(pipe.model.config.fitted.familiarity), "requires", lambda *args: required)
    read = []
    encode = pipe.processor.encode

    def spy(inputs, metrics):
        read.extend(inputs)
        return encode(inputs, metrics)

    monkeypatch.setattr(pipe.processor, "encode", spy)
    kernel = "import triton\n\ndef test():\n    x = torch.randn(64, 128)\n    run(x)\n"
    pipe(kernel, language="triton", metrics=["cpu_time_ms"])
    pipe(kernel, language="triton", metrics=["cpu_time_ms"], context={"shape": "(32, 4)"})
    assert [each.context for each in read] == (
        [("input_size: 64x128",), ("input_size: 32x4",)] if required else [(), ("shape: (32, 4)",)]
    )
