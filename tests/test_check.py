"""`code-rlm check` in real git repositories: which files, which limits, which reports; the action, the hook, the plugin."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml

from code_rlm.checking.limits import Finding, Limits, check_changes, probability_of_growth
from code_rlm.checking.reports import write_report
from code_rlm.checking.versions import Change, GitError, folder_changes, git_changes
from code_rlm.cli import main
from code_rlm.errors_rlm import InputError
from code_rlm.processing_rlm import LANGUAGES
from code_rlm.units import parse_quantity, parse_share

ROOT = Path(__file__).parents[1]
METRIC = "peak_memory_bytes"
LOW = -1e30  # what every number is over; the tiny model may expect negative ones
LARGER = tiny.PYTHON + "def g(n):\n    return [f(n) for _ in range(n)]\n"


def git(folder: Path, *arguments: str) -> str:
    author = {f"GIT_{role}_{what}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env={**os.environ, **author, "GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository whose branch changes, renames, adds and deletes files, while main goes on."""
    top = tmp_path / "repository"
    (top / "deep").mkdir(parents=True)
    git(tmp_path, "init", "-q", "-b", "main", str(top))
    (top / "a.py").write_text(tiny.PYTHON)
    (top / "deep" / "b.py").write_text("x = 1\n" * 20)
    (top / "gone.py").write_text("x = 1\n")
    (top / "notes.txt").write_text("x = 1\n")
    (top / ".gitignore").write_text("ignored.py\n")
    git(top, "add", ".")
    git(top, "commit", "-qm", "first")
    git(top, "checkout", "-qb", "feature")
    (top / "a.py").write_text(LARGER)
    git(top, "mv", "deep/b.py", "deep/c.py")
    (top / "deep" / "c.py").write_text("x = 1\n" * 20 + "y = 2\n")
    (top / "gone.py").unlink()
    (top / "notes.txt").write_text("y = 1\n")
    git(top, "add", ".")
    git(top, "commit", "-qm", "second")
    git(top, "checkout", "-q", "main")
    (top / "later.py").write_text("z = 1\n")
    git(top, "add", ".")
    git(top, "commit", "-qm", "on main")
    git(top, "checkout", "-q", "feature")
    (top / "new file.py").write_text("w = 1\n")
    (top / "ignored.py").write_text("w = 1\n")
    monkeypatch.chdir(top)
    return top


def run(capsys, *argv) -> tuple[int, str, str]:
    capsys.readouterr()
    return main(["check", *map(str, argv)]), *capsys.readouterr()


# ---------------------------------------------------------------------------------------------------- versions


def test_when_a_branch_is_compared_then_its_files_since_the_merge_base_are_found(repository):
    with git_changes("main") as changes:
        names = {each.name: None if each.before is None else each.before.read_text() for each in changes}
        assert changes[0].after == repository / "a.py"
    assert names == {"a.py": tiny.PYTHON, "deep/c.py": "x = 1\n" * 20, "new file.py": None}
    with git_changes("main", "feature") as changes:
        assert [each.name for each in changes] == ["a.py", "deep/c.py"]
        assert changes[0].after.read_text() == LARGER and changes[0].after != repository / "a.py"
    with git_changes("main", files=["deep/c.py", "gone.py"]) as changes:
        assert [each.name for each in changes] == ["deep/c.py"]


def test_when_a_hook_names_files_in_a_subfolder_then_they_are_found(repository, monkeypatch):
    monkeypatch.chdir(repository / "deep")
    with git_changes("main", files=["c.py"]) as changes:
        assert [each.name for each in changes] == ["deep/c.py"]


@pytest.mark.parametrize("revision", ["no-such-branch", "--all", "a b"])
def test_when_git_does_not_know_a_revision_then_the_error_says_what_to_do(repository, revision):
    with pytest.raises(GitError, match="git knows no revision"), git_changes(revision):
        pass


def test_when_there_is_no_repository_then_the_error_is_that_of_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(GitError, match="not a git repository"), git_changes("main"):
        pass


def test_when_two_folders_are_compared_then_equal_files_are_left_out(tmp_path):
    for name, files in {
        "old": {"a.py": "x = 1\n", "b.py": "x = 1\n"},
        "new": {"a.py": "x = 1\n", "b.py": "x = 2\n"},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    (tmp_path / "new" / "c.s").write_text(tiny.ASSEMBLY)
    found = folder_changes(tmp_path / "old", tmp_path / "new")
    assert [(each.name, each.before is None) for each in found] == [("b.py", False), ("c.s", True)]


# ---------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [("2GB", "bytes", 2e9), ("2 GiB", "bytes", 2**31), ("1.5s", "ms", 1500.0), ("300", "ms", 300.0), ("20us", "ms", 0.02),
     ("93 %", "%", 93.0), ("7", "", 7.0), ("1,000 KiB", "bytes", 1024000.0), ("1e-3", "ms", 1e-3), ("2min", "s", 120.0)],
)  # fmt: skip
def test_when_a_quantity_is_written_then_it_is_in_the_unit_of_the_metric(text, unit, value):
    assert parse_quantity(text, unit) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "unit"), [("2GB", "ms"), ("fast", "ms"), ("", "bytes"), ("3s", "bytes"), ("2 GB s", "bytes")]
)
def test_when_a_quantity_has_no_meaning_then_the_error_lists_units(text, unit):
    with pytest.raises(InputError, match=r"latency: .*is no quantity in"):
        parse_quantity(text, unit, "latency")


def test_when_a_share_is_written_then_it_needs_a_percent_sign():
    assert parse_share("20%") == pytest.approx(0.2)
    for text in ("0.2", "-5%", "twice"):
        with pytest.raises(InputError, match="is no percentage; write one such as 20%"):
            parse_share(text)


def test_when_versions_are_compared_then_the_probability_of_growth_is_that_of_whole_distributions(pipe):
    inputs = [{"text": text, "language": "python"} for text in (tiny.PYTHON, LARGER)]
    (_, before), (_, after) = pipe.distributions(inputs, METRIC)
    encoded = [pipe.processor(each, [METRIC]) for each in inputs]
    exact = pipe.model.probability_less(*encoded, metrics=[METRIC])[0]
    assert probability_of_growth(before, after) == pytest.approx(exact, abs=0.01)
    assert probability_of_growth(before, before) == pytest.approx(0.5, abs=1e-6)


def test_when_limits_are_breached_then_the_status_is_1_and_the_findings_say_by_how_much(
    repository, checkpoint, pipe, capsys
):
    given = ("--base", "main", "--model", checkpoint)
    status, out, _ = run(capsys, *given, "--max", f"{METRIC}={LOW:g}", "--max-increase", f"{METRIC}=20%")
    report = json.loads(out)
    assert [each["file"] for each in report["findings"]] == ["a.py", "deep/c.py", "new file.py"]
    first, _, new = report["findings"]
    expected = pipe(LARGER, metrics=[METRIC], language="python", above={METRIC: LOW})[0]
    assert first["value"] == expected["value"]
    assert first["probability_exceeds"] == pytest.approx(expected["probability_above"], abs=1e-6)
    assert first["before"] == pipe(tiny.PYTHON, metrics=[METRIC])[0]["value"]
    assert new["before"] is None and new["probability_grew"] is None
    breached = [each["file"] for each in report["findings"] if each["probability_exceeds"] >= 0.5]
    assert {each["file"] for each in report["findings"] if each["breaches"]} >= set(breached) and breached
    assert status == 1 and report["breaches"] == sum(bool(each["breaches"]) for each in report["findings"])
    assert run(capsys, *given, "--max", f"{METRIC}=1e19")[0] == 0
    assert run(capsys, *given, "--max", "cycles=0.001")[0] == 0  # of assembly, and there is none


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--base", "main"], "There are no limits: give --max"),
        (["--max", f"{METRIC}=2GB"], "Give --base REVISION, or two folders"),
        (["--before", ".", "--max", f"{METRIC}=2GB"], "Give --base REVISION, or two folders"),
        (["--base", "nowhere", "--max", f"{METRIC}=2GB"], "git knows no revision 'nowhere'"),
        (["--base", "main", "--max", f"{METRIC}=2s"], "'2s' is no quantity in bytes"),
        (["--base", "main", "--max", "speed=2"], "does not predict 'speed'"),
        (["--base", "main", "--max-increase", f"{METRIC}=2"], "is no percentage"),
        (["--base", "main", "--max", f"{METRIC}=1", "--probability", "2"], "strictly between 0 and 1"),
    ],
)
def test_when_a_check_cannot_be_made_then_one_line_says_why(repository, checkpoint, capsys, argv, message):
    status, out, err = run(capsys, *argv, "--model", checkpoint)
    assert (status, out) == (2, "") and err.startswith("code-rlm check: ") and err.count("\n") == 1
    assert message in err


def test_when_a_file_cannot_be_read_then_it_is_named_and_the_others_are_checked(pipe, tmp_path):
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "a.py").write_text(tiny.PYTHON)
    changes = [Change(name, None, tmp_path / name) for name in ("empty.py", "a.py")]
    findings, skipped = check_changes(pipe, changes, Limits(most={METRIC: 1.0}))
    assert [each.file for each in findings] == ["a.py"]
    assert len(skipped) == 1 and "empty.py" in skipped[0]


def test_when_code_is_unlike_the_training_rows_then_it_breaches_nothing_unless_asked(tmp_path, capsys):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "softmax.py").write_text((ROOT / "examples" / "softmax_triton.py").read_text())
    given = ("--before", tmp_path / "old", "--after", tmp_path / "new", "--max", "latency_ms=1ns")
    status, out, _ = run(capsys, *given)
    (finding,) = json.loads(out)["findings"]
    assert status == 0 and finding["is_unfamiliar"] and finding["reasons"] and finding["probability_exceeds"] > 0.9
    assert run(capsys, *given, "--unfamiliar", "breach")[0] == 1


# ---------------------------------------------------------------------------------------------------- reports

FINDINGS = [
    Finding("a,b.py", 1, "cpu_time_ms", "ms", 200.0, 100.0, 400.0, 0.9, 100.0, 150.0, 0.8, 0.2, 0.9, 0.7, 0.9, [],
            ["100% | over"]),
    Finding("b.s", 12, "cycles", "cycles", 4.0, 3.0, 5.0, 0.9, familiarity=0.01, reasons=["zmm never seen"]),
]  # fmt: skip


def written(style: str) -> str:
    out = io.StringIO()
    write_report(FINDINGS, ["c.py: empty"], style, out)
    return out.getvalue()


def test_when_a_report_is_for_github_then_its_annotations_are_escaped():
    lines = written("github").splitlines()
    assert lines[0] == "::error file=a%2Cb.py,line=1,title=cpu_time_ms::100%25 | over"
    assert lines[1].startswith("::notice file=b.s,line=12,title=cycles::unlike the training rows")
    assert lines[2] == "::notice title=code-rlm::skipped: c.py: empty"
    assert lines[3] == (
        "2 changed files checked, 1 breach, 1 prediction for code unlike the training rows, 1 file skipped"
    )


def test_when_a_report_is_sarif_then_it_has_what_the_format_requires():
    report = json.loads(written("sarif"))
    (only,) = report["runs"]
    assert report["version"] == "2.1.0" and only["tool"]["driver"]["name"] == "code-rlm"
    rules = {rule["id"] for rule in only["tool"]["driver"]["rules"]}
    for result, level in zip(only["results"], ("error", "note"), strict=True):
        assert result["level"] == level and result["ruleId"] in rules and result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] in ("a,b.py", "b.s") and place["region"]["startLine"] >= 1
    assert only["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"] == "c.py: empty"


def test_when_a_report_is_markdown_then_every_row_has_as_many_cells_as_the_head():
    text = written("markdown")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "- **a,b.py**: 100% | over" in text and "b.s is unlike the training rows: zmm never seen" in text


# ---------------------------------------------------------------------------------------------------- action and hook


def in_shell(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1500,
    )


@pytest.mark.slow
def test_when_the_action_runs_then_it_annotates_fails_and_writes_summary_and_sarif(repository, checkpoint, tmp_path):
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    install, check = action["runs"]["steps"]
    names = set(re.findall(r"inputs\.([\w-]+)", json.dumps(action["runs"])))
    assert names == set(action["inputs"]) and "inputs.install" in install["if"]
    values = {name: str(entry["default"]) for name, entry in action["inputs"].items()}
    values |= {
        "base": "main",
        "max": f"{METRIC}={LOW:g} cpu_time_ms=1e30",
        "model": str(checkpoint),
        "sarif": "found.sarif",
    }
    environment = {name: values[re.search(r"inputs\.([\w-]+)", text)[1]] for name, text in check["env"].items()}
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    done = in_shell(check["run"], repository, GITHUB_STEP_SUMMARY=str(summary), **environment)
    assert done.returncode == 1, done.stderr
    assert "::error file=a.py,line=1,title=peak_memory_bytes::" in done.stdout
    assert summary.read_text().startswith("before\n### Predicted cost") and json.loads(
        (repository / "found.sarif").read_text()
    )
    within = {**environment, "MAX": f"{METRIC}=1e30", "MAX_INCREASE": "", "SARIF": ""}
    assert in_shell(check["run"], repository, GITHUB_STEP_SUMMARY=str(summary), **within).returncode == 0


def test_when_the_hook_is_read_then_its_files_are_those_with_a_known_suffix():
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    matching = {suffix for suffix in LANGUAGES if re.search(hook["files"], f"deep/a{suffix}")}
    assert set(LANGUAGES) - matching <= {".pyi", ".scm", ".lisp"}
    assert not re.search(hook["files"], "notes.txt") and hook["require_serial"] is True


def test_when_the_hook_runs_then_staged_files_over_the_limit_stop_the_commit(repository, checkpoint, capsys):
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    program, command, *fixed = hook["entry"].split()
    assert (program, command) == ("code-rlm", "check")
    git(repository, "add", "new file.py")
    limited = [*fixed, "--model", checkpoint, "--max"]
    assert run(capsys, *limited, f"{METRIC}=1e19", "--", "new file.py", "a.py")[0] == 0
    status, out, _ = run(capsys, *limited, f"{METRIC}={LOW:g}", "--", "new file.py", "a.py")
    assert status == 1 and "new file.py" in out and "a.py" not in out.replace("new file.py", "")


# ---------------------------------------------------------------------------------------------------- pytest

PYTEST = [sys.executable, "-m", "pytest", "-p", "code_rlm.pytest_plugin"]
TESTS = """
import pytest

def solve(n):
    return [0] * n

@pytest.mark.predicted(solve, max_memory="{large}")
def test_within():
    pass

@pytest.mark.predicted(max_memory="{small}")
def test_over():
    raise AssertionError("it must not run")

@pytest.mark.predicted("solution.py", limits={{"cpu_time_ms": "{large}"}})
def test_file():
    pass

@pytest.mark.predicted("absent.py", max_memory="{large}")
def test_absent():
    pass

@pytest.mark.predicted(max_memory="2 parsecs")
def test_unit():
    pass

def test_unmarked():
    pass
"""


@pytest.mark.slow
def test_when_tests_are_marked_then_those_over_their_limit_fail(checkpoint, tmp_path):
    (tmp_path / "pytest.ini").write_text(f"[pytest]\ncode_rlm_model = {checkpoint}\n")
    (tmp_path / "solution.py").write_text(tiny.PYTHON)
    (tmp_path / "test_it.py").write_text(TESTS.format(large="1e30", small="-1e30"))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "code_rlm.pytest_plugin",
            "--strict-markers",
            "-rA",
            "--color=no",
            str(tmp_path),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    passed = set(re.findall(r"^PASSED .*::(test_\w+)", done.stdout, re.M))
    assert passed == {"test_within", "test_file", "test_unmarked"}, done.stdout
    assert re.search("predicted cost is over its limit: peak_memory_bytes .* with probability 100%", done.stdout)
    assert "AssertionError: it must not run" not in done.stdout
    assert "absent.py does not exist" in done.stdout and "'2 parsecs' is no quantity in bytes" in done.stdout


def test_when_no_test_is_marked_then_the_plugin_imports_nothing_heavy(tmp_path):
    (tmp_path / "test_it.py").write_text("import sys\n\ndef test_it():\n    assert 'torch' not in sys.modules\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "code_rlm.pytest_plugin", "-q", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout


def test_when_the_package_is_installed_then_pytest_finds_the_plugin():
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'\[project.entry-points.pytest11\]\n"code_rlm.pytest_plugin" = "code_rlm.pytest_plugin"', text)


def test_when_a_distribution_is_narrow_then_growth_is_certain():
    from code_rlm.distributions_rlm import Distribution

    one, two = (Distribution(np.array([v]), np.array([v]), np.ones(1)) for v in (1.0, 2.0))
    assert probability_of_growth(one, two) == 1.0 and probability_of_growth(one, two, 1.0) == 0.5
    assert probability_of_growth(one, two, 1.5) == 0.0
