"""Random modules for Inductor: drawn the same again, of bounded size; with Triton, source that compiles without a GPU."""

import importlib.util
import math

import pytest
import tiny
import torch
from datasets import load_dataset

from code_rlm_data.cards import check_card
from code_rlm_data.inductor import source
from code_rlm_data.inductor.__main__ import main
from code_rlm_data.inductor.modules import KINDS, MOST_ELEMENTS, Chain, InductorError, draw, size

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")

# A process of its own: Inductor is told of a device that is not there.
CHECK = """
import json, sys
from code_rlm_data.inductor.modules import draw, size
from code_rlm_data.inductor.source import compile_kernels, source_of, target
with target() as device:
    spec = draw(0, 8)
    first, again = (source_of(size(spec, 0, 0), spec.dtype, device) for _ in range(2))
    broken = first.replace("tl.load(in_ptr0", "tl.load(no_such_name")
    print(json.dumps({"same": first == again, "text": first, "ok": compile_kernels(first), "broken": compile_kernels(broken)}))
"""


def test_when_a_module_is_drawn_again_then_it_is_the_same_and_others_differ():
    specs = [draw(3, number) for number in range(40)]
    assert specs == [draw(3, number) for number in range(40)]
    assert len({spec.group for spec in specs}) > 35
    assert {name for spec in (draw(0, k) for k in range(300)) for name, _ in spec.steps} == {
        *KINDS["rows"],
        *KINDS["images"],
    }


def test_when_sizes_are_drawn_then_they_are_bounded_and_the_module_runs_at_them():
    shapes = set()
    for number in range(30):
        spec = draw(1, number)
        for variant in range(2):
            sized = size(spec, 1, variant)
            assert all(math.prod(shape) <= MOST_ELEMENTS for shape in sized.shapes)
            inputs = [torch.empty(shape, device="meta", dtype=getattr(torch, spec.dtype)) for shape in sized.shapes]
            assert sized.module(*inputs).numel() > 0
            shapes.add((number, *sized.shapes))
    assert len(shapes) > 45


def test_when_a_layer_is_residual_then_its_input_is_added():
    layer = torch.nn.ReLU()
    x = torch.tensor([[-1.0, 2.0]])
    assert Chain([(layer, True)], "")(x).tolist() == [[-1.0, 4.0]]
    assert Chain([(layer, False)], "add")(x, x).tolist() == [[0.0, 4.0]]
    assert Chain([(layer, False)], "loss")(x, layer(x)).item() == 0.0


def test_when_triton_is_missing_then_the_error_names_the_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InductorError, match=r"pip install 'code-rlm-data\[triton\]'"), source.target():
        pass
    assert main(["--modules", "1", "--out", str(tmp_path / "set")]) == 2
    assert "triton is installed" in capsys.readouterr().err
    assert main(["--modules", "0", "--out", str(tmp_path / "set")]) == 2
    assert "must be at least 1" in capsys.readouterr().err


@needs_triton
@pytest.mark.slow
def test_when_there_is_no_gpu_then_source_is_written_and_its_kernels_compile(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = tiny.run_python(CHECK, cwd=tmp_path, env={"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)})
    assert found["same"] and "@triton.jit" in found["text"] and "def call(self, args)" in found["text"]
    assert str(tmp_path) not in found["text"]
    assert found["ok"] == ["ok", ""]
    outcome, said = found["broken"]
    assert outcome == "compile_error" and "no_such_name" in said


@needs_triton
@pytest.mark.slow
def test_when_a_set_is_generated_then_it_loads_with_its_card(tmp_path):
    code = """
import json, sys
from code_rlm_data.inductor.__main__ import main
print(json.dumps(main(["--modules", "3", "--variants", "2", "--out", sys.argv[1]])))
"""
    env = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    assert tiny.run_python(code, tmp_path / "set", cwd=tmp_path, env=env) == 0
    rows = [
        row for part in load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache")).values() for row in part
    ]
    assert len(rows) == 6 and len({row["group"] for row in rows}) == 3
    assert {row["outcome"] for row in rows} == {"ok"}
    assert all((row["values"][0] or 0) > 0 for row in rows) == torch.cuda.is_available()
    assert check_card(tmp_path / "set" / "README.md").data.license == "apache-2.0"
