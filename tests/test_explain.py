"""Explanations: parts of a text, effects that are the pipeline's own medians, a deletion test, the command's outputs."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

import code_rlm
from code_rlm.cli import main
from code_rlm.errors_rlm import InputError, MetricError
from code_rlm.explanation_rlm import effects, parts_of, without

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
METRIC = "peak_rss_bytes"
CODE = "import os\n\ndef f(n):\n    x = [0] * n\n\n    return x\n\nprint(f(3))\n"
BRACES = "int f() {\n  return 1;\n}\nint main() {\n  if (f()) {\n    f();\n  } else {\n    f();\n  }\n}\n"
GRAPH = "total x3 total m90\nconv x2 conv m80\ndef f\nv1 = relu-conv3x3 v0\nv0 + relu-conv3x3 v1\nin 1 3 8 8\nf x5\ng a\ngap\n"


@pytest.fixture(scope="module")
def pipe():
    """The weights that ship: a random model's medians hardly differ between texts."""
    return code_rlm.pipeline()


# ---------------------------------------------------------------------------------------------------- parts


def lines_of(text: str, unit: str, **options) -> list[tuple[int, ...]]:
    return [part.lines for part in parts_of(text, unit, **options)]


def test_when_a_text_is_divided_then_every_filled_line_is_in_one_part():
    assert lines_of(CODE, "line") == [(0,), (2,), (3,), (5,), (7,)]
    assert lines_of(CODE, "block") == [(0,), (2, 3, 5), (7,)]
    assert lines_of(BRACES, "block") == [(0, 1, 2), (3, 4, 5, 6, 7, 8, 9)]
    indented = "".join(f"    {line}\n" if line else "\n" for line in CODE.splitlines())
    assert lines_of(indented, "block") == lines_of(CODE, "block")


def test_when_a_graph_is_divided_then_parts_are_named_after_operators():
    found = {part.name: part.lines for part in parts_of(GRAPH, "operator")}
    assert found == {
        "cost of total": (0,), "cost of conv": (1,), "def f": (2,), "relu-conv3x3": (3, 4), "in": (5,), "f": (6,), "g": (7,),
        "gap": (8,),
    }  # fmt: skip


def test_when_there_are_too_many_lines_then_neighbours_are_joined_evenly():
    found = lines_of("x = 1\n" * 100, "line", most=7)
    assert len(found) == 7 and [line for part in found for line in part] == list(range(100))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_when_lines_are_left_out_then_the_others_stay_as_they_are():
    assert without("a\n\tb\r\nc", [0, 2]) == "\tb\r\n"
    assert without("a\nb\n", []) == "a\nb\n"


@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        ("x = 1\n", "line", "one part only"),
        ("\n\nx = 1\n", "block", "one part only"),
        (CODE, "word", "unit must be one of"),
    ],
)
def test_when_there_is_nothing_to_leave_out_then_the_error_says_so(text, unit, message):
    with pytest.raises(InputError, match=message):
        parts_of(text, unit)


def test_when_medians_are_compared_then_weights_are_logarithms_where_they_can_be():
    found = effects(4.0, [2.0, 8.0, 4.0, float("nan"), -1.0])
    assert [each["effect"] for each in found] == [2.0, -4.0, 0.0, None, 5.0]
    assert [each["weight"] for each in found] == pytest.approx([np.log(2), -np.log(2), 0.0, 0.0, 5.0])


# ---------------------------------------------------------------------------------------------------- the pipeline


def test_when_an_input_is_explained_then_effects_are_those_of_texts_without_the_part(pipe):
    found = pipe.explain(CODE, METRIC, language="python")
    whole = pipe.model.predict(pipe.processor(CODE, [METRIC]), 0.5, metrics=[METRIC]).quantiles[0, 0, 0]
    assert found["value"] == pytest.approx(whole, rel=1e-4) and found["answer"] == pipe(CODE, metrics=[METRIC])[0]
    assert [part["lines"] for part in found["parts"]] == [[1], [3], [4], [6], [8]]
    for part in found["parts"][:3]:
        text = without(CODE, [line - 1 for line in part["lines"]])
        inputs = pipe.processor({"text": text, "language": "python"}, [METRIC])
        alone = pipe.model.predict(inputs, 0.5, metrics=[METRIC]).quantiles[0, 0, 0]
        assert part["value_without"] == pytest.approx(alone, rel=2e-3)
        assert part["effect"] == pytest.approx(found["value"] - part["value_without"])
    assert len({part["value_without"] for part in found["parts"]}) > 1
    in_parts = pipe.explain(CODE, METRIC, language="python", batch_size=1)
    assert [part["effect"] for part in in_parts["parts"]] == pytest.approx(
        [part["effect"] for part in found["parts"]], abs=0.01 * found["value"]
    )


def test_when_context_is_given_then_it_is_read(pipe):
    values = [pipe.explain(CODE, METRIC, context=context)["value"] for context in (None, {"n": "5"})]
    assert values[0] != values[1]


def test_when_it_cannot_be_explained_then_the_error_says_why(pipe):
    with pytest.raises(TypeError, match="takes no interval"):
        pipe.explain(CODE, METRIC, interval=0.5)
    with pytest.raises(MetricError, match="does not predict 'speed'"):
        pipe.explain(CODE, "speed")
    with pytest.raises(MetricError, match="computed from the graph"):
        pipe.explain(ROOT / "examples" / "nasbench201_cell.onnx", "flops_count")


@pytest.mark.slow
def test_when_parts_are_deleted_by_their_effect_then_predictions_move_faster_than_in_random_order(pipe):
    from benchmarks.explanations import areas

    blocks = [
        "mov rax, qword ptr [rdi]\nimul rax, rsi\ndiv rcx\nadd rdx, rax\nxor ebx, ebx\nmov qword ptr [rdi], rdx",
        "vmovups ymm0, ymmword ptr [rdi]\nvsqrtps ymm1, ymm0\nvaddps ymm2, ymm1, ymm0\nadd rdi, 32\ncmp rdi, rsi",
    ]
    scores = np.array([areas(pipe, block, "cycles") for block in blocks])
    assert (scores[:, 0] > scores[:, 1:].mean(1)).all(), scores


# ---------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def run(tmp_path, capsys):
    (tmp_path / "a.py").write_text(CODE)

    def call(*argv) -> str:
        capsys.readouterr()
        status = main(["explain", str(tmp_path / "a.py"), "--metric", METRIC, *map(str, argv)])
        assert status == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return call


def test_when_output_is_for_programs_then_it_is_what_the_pipeline_gives(run, pipe, tmp_path):
    (found,) = json.loads(run("--format", "json", "--unit", "block"))
    expected = pipe.explain(tmp_path / "a.py", METRIC, "block")
    assert found == json.loads(json.dumps(expected))
    rows = list(csv.DictReader(io.StringIO(run("--format", "csv"))))
    assert [row["first_line"] for row in rows] == ["1", "3", "4", "6", "8"] and rows[0]["name"] == "import os"


def test_when_output_is_for_people_then_the_strongest_part_stands_first(run, pipe, tmp_path):
    written = run("--format", "table").splitlines()
    # A line more where the text is unlike the training rows.
    head, _, *lines = [line for line in written if not line.startswith("unlike the training rows")]
    parts = pipe.explain(tmp_path / "a.py", METRIC)["parts"]
    strongest = max(parts, key=lambda part: abs(part["weight"]))
    assert head.startswith(f"{tmp_path / 'a.py'}: {METRIC} ") and len(lines) == len(parts)
    assert lines[0].endswith(strongest["name"].strip())


def test_when_a_page_is_written_then_it_stands_alone_and_escapes_the_text(run, tmp_path):
    (tmp_path / "a.py").write_text('x = "<script>alert(1)</script>"\ny = x * 100\nz = 1\n')
    run("--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page and "http" not in page
    shades = re.findall(r"rgba\(\d+,\d+,\d+,(0\.\d+)\)", page)
    assert len(shades) == 3 and max(map(float, shades)) == 0.75


def test_when_output_is_a_terminal_then_lines_have_the_colour_of_their_effect(pipe):
    from code_rlm.explain import write_explanation

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    write_explanation(pipe.explain(CODE, METRIC), out)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert "   4     x = [0] * n" in plain and "effect" in plain


def test_when_one_part_is_all_there_is_then_one_line_says_so(tmp_path, capsys):
    (tmp_path / "b.py").write_text("x = 1\n")
    assert main(["explain", str(tmp_path / "b.py"), "--metric", METRIC]) == 2
    assert "one part only" in capsys.readouterr().err


def test_when_assembly_has_several_loops_then_each_is_explained(tmp_path, capsys):
    loops = "".join(f".L{n}:\nadd eax, 1\nimul ecx, eax\ncmp eax, edx\njne .L{n}\n" for n in range(2))
    (tmp_path / "a.s").write_text(loops + "ret\n")
    assert main(["explain", str(tmp_path / "a.s"), "--metric", "cycles", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 2 and all(tiny.ASSEMBLY != each["text"] and ":" in each["source"] for each in found)
