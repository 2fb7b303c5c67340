"""The command line: what it prints, in which units, and one line and status 2 for what it cannot use."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import tiny
import transformers
from huggingface_hub import constants
from transformers.utils import logging

import code_rlm
from code_rlm import console
from code_rlm.cli import COMMANDS, main
from code_rlm.console import human
from code_rlm.data.nas_graphs import build_graph
from code_rlm.predict import COLUMNS

CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"
ROOT = Path(__file__).parents[1]


@pytest.fixture
def damaged(checkpoint, tmp_path) -> Path:
    """A copy of the checkpoint, to be spoiled."""
    return shutil.copytree(checkpoint, tmp_path / "damaged")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A project with code of all four kinds and files of other kinds."""
    folder = tmp_path / "project"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "deep" / "__pycache__").mkdir()
    (folder / "a.py").write_text(tiny.PYTHON)
    (folder / "deep" / "b.s").write_text(tiny.ASSEMBLY)
    (folder / "deep" / "kernel.py").write_text(tiny.TRITON)
    (folder / "net.onnx").write_bytes(build_graph("nasbench201", CELL).SerializeToString())
    (folder / "notes.txt").write_text("x = 1\n")
    (folder / "c.py").write_text("")
    (folder / "d.rb").write_text("puts 1\n")
    (folder / ".hidden" / "e.py").write_text("x = 1\n")
    (folder / "deep" / "__pycache__" / "f.py").write_text("x = 1\n")
    return folder


@pytest.fixture
def cli(checkpoint, capfd, monkeypatch):
    """Runs `code-rlm predict` with the tiny checkpoint; returns status, standard output, standard error."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    verbosity = logging.get_verbosity()

    def run(*argv, stdin: bytes = b"", model=checkpoint):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        status = main(["predict", *map(str, argv), *(["--model", str(model)] if model else [])])
        return status, *capfd.readouterr()

    yield run
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


def refused(found: tuple[int, str, str], message: str) -> None:
    """Status 2, nothing on standard output, exactly one line on standard error that holds the message."""
    status, out, err = found
    assert (status, out) == (2, "")
    assert err.startswith("code-rlm predict: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert re.search(message, err), err


# ---------------------------------------------------------------------------------------------------- output


def test_when_output_is_no_terminal_then_it_is_json_with_what_the_pipeline_says(cli, folder, pipe):
    status, out, err = cli(folder / "a.py", folder / "net.onnx")
    assert (status, err) == (0, "")
    expected = [{"file": str(path), **entry} for path in (folder / "a.py", folder / "net.onnx") for entry in pipe(path)]
    assert json.loads(out) == expected


def test_when_csv_is_asked_for_then_each_file_and_metric_is_a_line(cli, folder, pipe):
    status, out, _ = cli(folder / "a.py", folder / "deep" / "b.s", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0 and tuple(rows[0]) == COLUMNS
    assert [row["metric"] for row in rows] == ["peak_memory_bytes", "cpu_time_ms", "cycles"]
    expected = [*pipe(folder / "a.py"), *pipe(folder / "deep" / "b.s")]
    assert [float(row["value"]) for row in rows] == [entry["value"] for entry in expected]


def test_when_a_table_is_asked_for_then_columns_line_up_and_cuts_are_told(cli, folder, pipe):
    (folder / "long.py").write_text("x = 1\n" * 200)
    status, out, _ = cli(folder / "a.py", folder / "long.py", "--format", "table", "--interval", "0.8")
    head, *lines = out.splitlines()
    assert status == 0 and re.fullmatch(r"file +metric +value +80% interval", head)
    assert len(lines) == 4
    for line, entry in zip(lines, [*pipe(folder / "a.py", interval=0.8)], strict=False):
        value = " ".join(human(entry["value"], entry["unit"]))
        assert line[head.index("metric") :].startswith(entry["metric"])
        assert line[head.index("value") :].startswith(value)
        assert " to " in line[head.index("80%") :]
    lost = pipe(folder / "long.py")[0]["truncated_tokens"]
    assert lines[2].endswith(f"{lost} tokens of the middle left out") and "left out" not in lines[1]


def test_when_output_is_a_terminal_then_it_is_a_table(cli, folder, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", cli(folder / "a.py")[1])
    head, rule, *lines = shown.splitlines()
    assert re.match(r"file +metric +value +90% interval", head.strip()) and set(rule.strip()) == {"─"}
    assert len(lines) >= 2
    assert "peak_memory_bytes" in shown and " to " in shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_when_output_is_a_terminal_then_tables_facts_and_markdown_are_drawn_and_elsewhere_they_are_plain():
    for write, argument, plain in (
        (console.write_facts, ["run: 3 steps", "[bold] rows: [1]"], "run: 3 steps\n[bold] rows: [1]\n"),
        (console.write_markdown, "# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", None),
    ):
        file, terminal = io.StringIO(), Terminal()
        write(argument, file)
        write(argument, terminal)
        assert file.getvalue() == (plain if plain is not None else argument + "\n")
        drawn = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
        words = ("3 steps", "[bold] rows: [1]") if plain is not None else ("Title", "─")
        assert terminal.getvalue() != file.getvalue() and all(word in drawn for word in words)
    file, terminal = io.StringIO(), Terminal()
    for out in (file, terminal):
        console.write_table(("file", "note", ""), [("a [b].py", "x", ""), ("b", "yy", "")], out)
    assert file.getvalue() == "file      note\na [b].py  x\nb         yy\n"
    assert "a [b].py" in terminal.getvalue() and "─" in terminal.getvalue()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "bytes", "0 bytes"),
        (1023, "bytes", "1023 bytes"),
        (1536, "bytes", "1.5 KiB"),
        (1000 * 1024, "bytes", "1,000 KiB"),
        (1024**2, "bytes", "1 MiB"),
        (1024**3, "bytes", "1 GiB"),
        (1024**5 * 3, "bytes", "3 PiB"),
        (-2048, "bytes", "-2 KiB"),
        (0, "ms", "0 ms"),
        (2e-6, "ms", "2 ns"),
        (0.002, "ms", "2 us"),
        (0.9999, "ms", "1,000 us"),
        (1, "ms", "1 ms"),
        (999.7, "ms", "999.7 ms"),
        (1500, "ms", "1.5 s"),
        (2_500_000, "ms", "2,500 s"),
        (12.3456, "%", "12.35 %"),
        (1234567, "cycles", "1,234,567 cycles"),
        (1e20, "cycles", "1e+20 cycles"),
        (None, "ms", "None ms"),
        ("+inf", "bytes", "+inf bytes"),
    ],
)
def test_when_a_number_is_for_people_then_its_unit_fits_its_size(value, unit, text):
    assert " ".join(human(value, unit)) == text


# ---------------------------------------------------------------------------------------------------- inputs and options


def test_when_the_file_is_a_dash_then_standard_input_is_read(cli, pipe):
    status, out, _ = cli("-", stdin=tiny.PYTHON.encode())
    assert status == 0
    assert json.loads(out) == [{"file": "<stdin>", **entry} for entry in pipe(tiny.PYTHON)]
    status, out, _ = cli("-", "--language", "x86asm", stdin=tiny.ASSEMBLY.encode())
    assert status == 0 and [row["metric"] for row in json.loads(out)] == ["cycles"]


def test_when_a_directory_is_named_then_it_is_walked_and_what_is_skipped_is_counted(cli, folder):
    status, out, err = cli(folder)
    assert status == 1
    files = list(dict.fromkeys(os.path.relpath(row["file"], folder) for row in json.loads(out)))
    assert files == ["a.py", "net.onnx", os.path.join("deep", "b.s"), os.path.join("deep", "kernel.py")]
    assert err.startswith("code-rlm predict: 2 of 6 files skipped\n") and err.count("\n") == 3
    assert re.search(r"code-rlm predict: skipped .*c\.py: .*empty or only whitespace", err)


def test_when_options_are_given_then_they_reach_the_pipeline(cli, folder, pipe):
    path = folder / "a.py"
    options = {"given": {"peak_memory_bytes": 5000.0}, "context": {"input_size": "64", "mode": "a b"}, "interval": 0.5}
    found = cli(
        *(path, "--given", "peak_memory_bytes=5e3", "--context", "input_size=64", "mode=a b", "--interval", "0.5")
    )
    assert [{k: v for k, v in row.items() if k != "file"} for row in json.loads(found[1])] == pipe(path, **options)
    turned = cli(path, "--metrics", "cpu_time_ms", "peak_memory_bytes", "--batch-size", "1")
    assert [row["metric"] for row in json.loads(turned[1])] == ["cpu_time_ms", "peak_memory_bytes"]


def test_when_quantiles_and_limits_are_asked_for_then_they_are_columns(cli, folder, pipe):
    given = (
        folder / "a.py",
        "--quantiles",
        "0.25",
        "0.75",
        "--above",
        "cpu_time_ms=2s",
        "--dtype",
        "float32",
        "--device",
        "cpu",
    )
    expected = pipe(folder / "a.py", quantiles=[0.25, 0.75], above={"cpu_time_ms": 2000.0})
    assert [{k: v for k, v in row.items() if k != "file"} for row in json.loads(cli(*given)[1])] == expected
    rows = list(csv.DictReader(io.StringIO(cli(*given, "--format", "csv")[1])))
    assert [float(row["quantile_0.75"]) for row in rows] == [entry["quantiles"]["0.75"] for entry in expected]
    assert rows[0]["limit"] == "" and float(rows[1]["probability_above"]) == expected[1]["probability_above"]
    head = cli(*given, "--format", "table")[1].splitlines()[0]
    assert re.search(r"quantile 0\.25 +quantile 0\.75 +limit +P\(above\)$", head)


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["missing.py"], r"missing\.py does not exist"),
        (["a.py", "--metrics", "speed"], "does not predict 'speed'. It knows: peak_memory_bytes, cpu_time_ms, cycles"),
        (["c.py"], r"c\.py: the text is empty or only whitespace"),
        (["d.rb"], "no metric for 'ruby' input"),
        (["prose"], "prose: cannot tell what kind of code this is. Pass language="),
        (["junk.py"], r"junk\.py is not UTF-8 text \(byte 0\); is it a binary file"),
        (["junk.onnx"], r"junk\.onnx"),
        (["nul.py"], r"nul\.py: the text holds NUL bytes"),
        (["nothing"], r"nothing holds no file with a known suffix \(\.asm"),
        (["a.py", "--interval", "1.5"], "strictly between 0 and 1, such as 0.9; got 1.5"),
        (["a.py", "--given", "cpu_time_ms"], "--given takes NAME=VALUE, got 'cpu_time_ms'"),
        (["a.py", "--given", "cpu_time_ms=fast"], "--given cpu_time_ms=fast: the value must be a number"),
        (["a.py", "--given", "speed=3"], "does not predict 'speed'"),
        (["a.py", "--context", "=3"], "--context takes NAME=VALUE, got '=3'"),
        (["a.py", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["a.py", "--above", "cpu_time_ms=2GB"], "'2GB' is no quantity in ms"),
        (["a.py", "--quantiles", "1.5"], "levels strictly between 0 and 1"),
        (["a.py", "--device", "tpu9"], "--device tpu9 cannot be used"),
        (["-"], "<stdin>: the text is empty"),
    ],
)
def test_when_something_is_unusable_then_one_line_says_what(cli, folder, monkeypatch, argv, message):
    monkeypatch.chdir(folder)
    (folder / "junk.py").write_bytes(bytes(range(255, 0, -1)))
    (folder / "junk.onnx").write_bytes(b"\x08\xff\xff" * 40)
    (folder / "nul.py").write_bytes(b"x = 1\0")
    (folder / "prose").write_text("Hier steht nichts als Prosa.\n")
    (folder / "nothing").mkdir()
    refused(cli(*argv), message)


def test_when_standard_input_is_binary_then_one_line_says_so(cli):
    refused(cli("-", stdin=b"\xff\xfe"), r"<stdin>.*not UTF-8 text \(byte 0\)")


def test_when_a_directory_holds_nothing_usable_then_that_is_an_error(cli, tmp_path):
    for name in ("a.rb", "b.rb"):
        (tmp_path / name).write_text("puts 1\n")
    status, out, err = cli(tmp_path)
    assert (status, out) == (2, "")
    assert "2 of 2 files skipped" in err.splitlines()[0] and "no metric for 'ruby'" in err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/folder", "There is no checkpoint folder no/such/folder"),
        ("./here", r"There is no checkpoint folder \./here"),
        ("nobody/nothing", "No Code-RLM checkpoint could be loaded from nobody/nothing"),
        ("two words", "No Code-RLM checkpoint could be loaded from two words"),
        ("project/a.py", "is a file; a checkpoint is a folder or a hub id"),
        ("project/deep", "is not a whole checkpoint; missing: config.json, tokenizer.json"),
    ],
)
def test_when_there_is_no_checkpoint_then_one_line_says_so(cli, folder, monkeypatch, name, message):
    monkeypatch.chdir(folder.parent)
    refused(cli("project/a.py", model=name), message)


def test_when_the_checkpoint_is_another_models_then_one_line_says_so(cli, folder, tmp_path, tokenizer):
    bert = transformers.BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8)
    transformers.BertModel(bert).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    refused(cli(folder / "a.py", model=tmp_path / "bert"), "holds a 'bert' model, not a 'code-rlm' one")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "foreign"])
def test_when_a_file_of_the_checkpoint_is_spoiled_then_one_line_says_so(cli, folder, damaged, name, how):
    path = damaged / name
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "foreign": b'["something else"]'}[how])
    refused(cli(folder / "a.py", model=damaged), f"missing: {name}" if how == "missing" else str(damaged))


def test_when_a_file_is_missing_that_only_remote_code_needs_then_nothing_is_lost(cli, folder, damaged):
    expected = cli(folder / "a.py")
    needed = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    for path in damaged.iterdir():
        if path.name not in needed:
            path.unlink()
    assert cli(folder / "a.py", model=damaged) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_num_layers": 3}, r"weights are missing or of another shape, the first \['decoder.layers.2"),
        ({"decoder_intermediate_size": 64}, r"6 weights .* another shape, the first \['decoder.layers.0.down_proj"),
        ({"decoder_hidden_size": "wide"}, "wide"),
        ({"number_format": {"colour": 1}}, "colour"),
        ({"metrics": [{"name": "a b"}]}, "'a b' is not a metric name"),
        ({"metrics": [3]}, "No Code-RLM checkpoint could be loaded"),
        ({"encoder": {"model_type": "unheard-of"}}, "model_type 'unheard-of' is not one that this transformers knows"),
    ],
)
def test_when_the_config_does_not_fit_then_one_line_says_so(cli, folder, damaged, changes, message):
    path = damaged / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    refused(cli(folder / "a.py", model=damaged), message)


def test_when_tokenizer_and_model_write_numbers_differently_then_one_line_says_so(cli, folder, damaged):
    path = damaged / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["number_format"] = {**settings["number_format"], "min_exponent": -19, "max_exponent": 21}
    path.write_text(json.dumps(settings))
    refused(cli(folder / "a.py", model=damaged), "write numbers in different formats")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["predict"], "code-rlm predict: .*required: files"),
        (["fly"], r"code-rlm: There is no command fly\. See code-rlm --help"),
        (["predcit", "a.py"], r"There is no command predcit\. Did you mean predict\?"),
        (["--versoin"], r"There is no option --versoin\. Did you mean --version\?"),
        (
            ["predict", "a", "--metrcs", "x"],
            r"code-rlm predict: There is no option --metrcs\. Did you mean --metrics\?",
        ),
        (["predict", "a", "--interval", "wide"], "code-rlm predict: --interval: must be float, got wide"),
        (["predict", "a", "--format", "xml"], "code-rlm predict: .*format.*table"),
        (["evaluate", "--task", "a", "--out", "b", "--max-rows", "0"], r"code-rlm evaluate: --max-rows: 0 must be >0"),
        (["calibrate", "--model", "m"], "code-rlm calibrate: .*--out --in-place is required"),
        (["pareto", "a", "--metrics", "x"], "code-rlm pareto: .*metrics"),
        (["--completion", "fish"], "There is no completion for fish; choose one of bash, zsh, tcsh"),
    ],
)
def test_when_arguments_are_wrong_then_one_line_says_what_is_known(capsys, argv, message):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and re.search(message, err), err


# ---------------------------------------------------------------------------------------------------- the tree


def test_when_help_is_asked_for_then_every_command_and_every_option_has_a_line(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +{command.summary}$", shown, re.M) for name, command in COMMANDS.items())
    assert main([]) == 2 and capsys.readouterr().out == shown
    for name, command in COMMANDS.items():
        if command.parser is not None:
            assert main([name, "--help"]) == 0
            shown = capsys.readouterr().out
            for action in command.parser()._actions:
                assert action.help and all(option in shown for option in action.option_strings)


def test_when_the_version_is_asked_for_then_it_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"code-rlm {code_rlm.__version__}\n"


def test_when_an_option_has_underscores_then_it_is_the_same_as_with_dashes(cli, folder):
    dashes = cli(folder / "a.py", "--batch-size", "1", "--format", "csv")
    assert cli(folder / "a.py", "--batch_size", "1", "--format=csv") == dashes
    assert dashes[0] == 0


def test_when_measuring_is_not_installed_then_one_line_says_what_to_install(capsys, monkeypatch):
    for name in ("code_rlm_data", "code_rlm_data.measure", "code_rlm_data.measure.run"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["measure", "solutions/", "--out", "measured"]) == 2
    _, err = capsys.readouterr()
    expected = "needs the package code_rlm_data, which is not installed: pip install code-rlm-data"
    assert err == f"code-rlm measure: {expected}\n"


def test_when_measuring_is_installed_then_it_gets_its_arguments(monkeypatch):
    package, inner, module = (ModuleType(f"code_rlm_data{part}") for part in ("", ".measure", ".measure.run"))
    module.main = lambda argv: len(argv)
    for each in (package, inner, module):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    assert main(["measure", "--languages", "x", "y"]) == 3


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_when_a_completion_script_is_printed_then_it_has_commands_options_and_choices(capsys, shell):
    pytest.importorskip("shtab")
    assert main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*COMMANDS, "--schedule.steps", "--max-rows", "adafactor", "csv"))


@pytest.mark.parametrize(
    ("command", "where", "hint"),
    [
        ("predict", "code_rlm.predict.pipeline", "stopped before every file was read"),
        ("evaluate", "code_rlm.evaluation.run.load", "there is no report yet"),
        ("train", "code_rlm.train.load_tokenizer", "the same command resumes from the last checkpoint"),
    ],
)
def test_when_control_c_is_pressed_then_one_line_says_how_to_go_on(
    capsys, monkeypatch, folder, tmp_path, command, where, hint
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    module, _, name = where.rpartition(".")
    monkeypatch.setattr(import_module(module), name, stop)
    argv = {
        "predict": [str(folder / "a.py")],
        "evaluate": ["--task", "bhive_zen4", "--data-root", "x", "--out", str(tmp_path / "report")],
        "train": ["--data", "[{task: bhive_zen4}]", "--out", str(tmp_path / "run")],
    }[command]
    assert main([command, *argv]) == 130
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"code-rlm {command}: stopped") and hint in err


# ---------------------------------------------------------------------------------------------------- true processes


def run_command(*argv, cwd: Path, stdin: str | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "code_rlm", *map(str, argv)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_when_the_command_fails_then_its_status_is_2_and_one_line_is_on_standard_error(checkpoint, folder):
    done = run_command("predict", "a.py", "--metrics", "speed", "--model", checkpoint, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(
        "code-rlm predict: This checkpoint does not predict 'speed'"
    )


@pytest.mark.slow
def test_when_nothing_is_named_then_the_weights_that_ship_read_the_examples_offline(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "examples" / "empty.py").write_text("")
    done = run_command("predict", "-", "examples/", cwd=tmp_path, stdin=tiny.PYTHON)
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(r"code-rlm predict: 1 of 7 files skipped\n.*skipped examples/empty.py: .*\n", done.stderr)
    rows = json.loads(done.stdout)
    names = {f"examples/{path.name}" for path in (ROOT / "examples").iterdir()}
    assert {row["file"] for row in rows} == {"<stdin>", *names}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


LIGHT = """
import sys
{code}
heavy = [name for name in ("torch", "transformers", "datasets", "numpy") if name in sys.modules]
assert not heavy, heavy
"""
REGISTERED = """
{imports}
pipe = {make}
print(pipe("add rcx, 8", metrics=["cycles"])[0]["value"])
"""


@pytest.mark.parametrize(
    "code",
    ["import code_rlm; code_rlm.RLMError", "from code_rlm.cli import main; assert main(['--help']) == 0",
     "from code_rlm.cli import main; assert main(['train', '--help']) == 0",
     "from code_rlm.cli import main; assert main(['evaluate', '--help']) == 0"],
)  # fmt: skip
def test_when_only_help_is_needed_then_no_heavy_package_is_imported(code):
    began = os.times()
    done = subprocess.run([sys.executable, "-c", LIGHT.format(code=code)], capture_output=True, text=True, timeout=600)
    ended = os.times()
    assert done.returncode == 0, done.stderr
    seconds = ended.children_user + ended.children_system - began.children_user - began.children_system
    assert seconds < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imports", "make"),
    [
        ("import code_rlm\nfrom transformers import pipeline", "pipeline('code-regression')"),
        ("from transformers import pipeline\nimport code_rlm", "pipeline('code-regression')"),
        ("import transformers\nimport code_rlm", "transformers.pipeline('code-regression')"),
        ("from code_rlm.modeling_rlm import RLMForConditionalGeneration\nfrom transformers import pipeline",
         "pipeline('code-regression')"),
        ("import code_rlm\nfrom transformers import AutoModel, AutoTokenizer",
         "code_rlm.pipeline(AutoModel.from_pretrained({model!r}), AutoTokenizer.from_pretrained({model!r}))"),
    ],
)  # fmt: skip
def test_when_imports_come_in_any_order_then_transformers_knows_the_classes(checkpoint, imports, make):
    script = REGISTERED.format(imports=imports, make=make.format(model=str(checkpoint)))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) >= 0
