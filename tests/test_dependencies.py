"""Every third-party import is declared where it is needed, and predicting needs the core dependencies alone."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from code_rlm import cli

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it there
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
MODEL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DATA = tomllib.loads((ROOT / "data" / "pyproject.toml").read_text(encoding="utf-8"))
# Import names that differ from the name of their distribution.
DISTRIBUTIONS = {
    "huggingface_hub": "huggingface-hub",
    "prometheus_client": "prometheus-client",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
OURS = {"code_rlm", "code_rlm_data"}
# Extras that a part of the model package needs beside the core; modules of the root folder need the core alone.
EXTRAS_OF = {
    "data": {"data"},
    "training": {"train"},
    "train.py": {"train"},
    "stats.py": {"evaluate"},
    "evaluation": {"evaluate"},
    "evaluation/plots.py": {"plots"},
    "hub": {"evaluate"},
    "estimator.py": {"train"},
    "serving": {"serve"},
    "pytest_plugin.py": {"dev"},  # pytest itself loads it
}


@dataclass(frozen=True)
class Import:
    """An import statement: the module as written, and whether it runs when its file is imported."""

    module: str
    at_import: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def imports_of(path: Path) -> set[Import]:
    """Absolute imports of a file. Those in functions, under `try` and under TYPE_CHECKING do not run at import."""
    found: set[Import] = set()

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.Import):
            found.update(Import(alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(Import(node.module, at_import))
            found.update(Import(f"{node.module}.{alias.name}", at_import) for alias in node.names)
        optional = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Try)
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            visit(child, at_import and not guarded and not isinstance(node, optional))

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def third_party(path: Path) -> set[Import]:
    """Imports that are neither the standard library's nor ours, nor of a file beside a script."""
    known = sys.stdlib_module_names | OURS | {sibling.stem for sibling in path.parent.glob("*.py")}
    return {each for each in imports_of(path) if each.top not in known}


def distribution(module: str) -> str:
    """Name of the distribution that a module comes with."""
    return DISTRIBUTIONS.get(module, module).lower()


def declared(project: dict, extras: set[str]) -> set[str]:
    """Names of the distributions that a project requires, with those of its extras and of the extras that they name."""
    requirements = list(project["project"]["dependencies"])
    for extra in extras:
        requirements += project["project"]["optional-dependencies"][extra]
    names: set[str] = set()
    for requirement in requirements:
        name, own = re.match(r"([\w.-]+)(?:\[([^\]]*)\])?", requirement).groups()
        if name == "code-rlm":
            names |= declared(MODEL, set(own.split(",")) if own else set())
        else:
            names.add(name.lower())
    return names


def files_of(project: dict, folder: Path) -> Iterator[Path]:
    """Python files of the packages that a project names."""
    mapped = project["tool"]["setuptools"].get("package-dir", {})
    for package in project["tool"]["setuptools"]["packages"]:
        yield from sorted((folder / mapped.get(package, package.replace(".", "/"))).glob("*.py"))


def extras_of(path: Path) -> set[str]:
    """Extras that may be needed when a file of the model package is imported."""
    name = path.relative_to(ROOT).as_posix()
    return EXTRAS_OF.get(name) or EXTRAS_OF.get(name.partition("/")[0], set())


MODEL_FILES = list(files_of(MODEL, ROOT))
DATA_FILES = list(files_of(DATA, ROOT / "data"))


def test_when_a_module_of_the_model_package_imports_then_its_part_declares_it():
    undeclared = [
        f"{path.relative_to(ROOT)}: {each.module}"
        for path in MODEL_FILES
        for each in third_party(path)
        if distribution(each.top)
        not in declared(MODEL, extras_of(path) if each.at_import else set(MODEL["project"]["optional-dependencies"]))
    ]
    assert len(MODEL_FILES) > 40 and not undeclared


def test_when_a_module_of_the_data_package_imports_then_its_project_declares_it_itself():
    own = {**DATA, "project": {**DATA["project"], "dependencies": DATA["project"]["dependencies"][1:]}}
    assert DATA["project"]["dependencies"][0].startswith("code-rlm[")
    undeclared = [
        f"{path.relative_to(ROOT)}: {each.module}"
        for path in DATA_FILES
        if path.name not in ("onnx_run.py", "triton_run.py")  # run inside the measured process, with the extras
        for each in third_party(path)
        if distribution(each.top)
        not in declared(own, set() if each.at_import else set(DATA["project"]["optional-dependencies"]))
    ]
    assert len(DATA_FILES) > 40 and not undeclared


@pytest.mark.parametrize(("name", "extra"), [("onnx_run.py", "onnx"), ("triton_run.py", "triton")])
def test_when_a_driver_imports_then_the_extra_that_it_runs_with_declares_it(name, extra):
    (path,) = (path for path in DATA_FILES if path.name == name)
    found = {distribution(each.top) for each in third_party(path)}
    assert found <= declared(DATA, {extra})


@pytest.mark.parametrize("project", [MODEL, DATA], ids=["model", "data"])
def test_when_a_dependency_is_declared_then_something_imports_it(project):
    files = MODEL_FILES if project is MODEL else DATA_FILES
    imported = {distribution(each.top) for path in files for each in third_party(path)}
    names = {re.match(r"[\w.-]+", line).group().lower() for line in project["project"]["dependencies"]}
    assert names - imported <= {"code-rlm"}


def test_when_the_model_package_is_imported_then_nothing_of_the_data_package_is():
    named = [
        f"{path.relative_to(ROOT)}"
        for path in MODEL_FILES
        for each in imports_of(path)
        if each.top == "code_rlm_data" and each.at_import
    ]
    assert not named
    assert [name for name, command in cli.COMMANDS.items() if command.requirement == "code-rlm-data"] == ["measure"]


@pytest.mark.parametrize(("project", "folder"), [(MODEL, ROOT), (DATA, ROOT / "data")], ids=["model", "data"])
def test_when_a_folder_holds_modules_then_the_project_names_it_as_a_package(project, folder):
    listed = {path.parent for path in files_of(project, folder)}
    top = folder if project is MODEL else folder / "code_rlm_data"
    outside = ("tests", "benchmarks", "examples", "docs", "build", "dist", "code_rlm_data", "rlm_metrics")
    on_disk = {
        path.parent
        for path in top.rglob("*.py")
        if not set(path.relative_to(top).parts) & set(outside) and not path.relative_to(top).parts[0].startswith(".")
    }
    assert listed == on_disk


# The names of everything that the extras bring, hidden: transformers and we take them for not installed.
HIDDEN = (
    "accelerate",
    "datasets",
    "evaluate",
    "matplotlib",
    "pandas",
    "peft",
    "pyarrow",
    "scipy",
    "sklearn",
    "code_rlm_data",
)
HIDE = f"import sys\nsys.modules.update(dict.fromkeys({HIDDEN}))\n"


def run(code: str) -> subprocess.CompletedProcess:
    """Runs Python without the extras."""
    return subprocess.run([sys.executable, "-c", HIDE + code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_when_only_the_core_is_installed_then_predict_answers_for_all_examples():
    done = run("from code_rlm.cli import main\nsys.exit(main(['predict', 'examples/', '--format', 'json']))")
    assert done.returncode == 0, done.stderr
    assert {row["file"] for row in json.loads(done.stdout)} == {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").iterdir() if path.suffix != ".md"
    }


def test_when_a_command_lacks_its_packages_then_one_line_names_what_to_install():
    commands = (
        ["train", "--data", "[{task: bhive_zen4}]"],
        ["evaluate", "--task", "bhive_zen4", "--out", "report"],
        ["calibrate", "--model", "m", "--task", "bhive_zen4", "--in-place"],
        ["card"],
        ["measure", "--languages"],
    )
    done = run(f"from code_rlm.cli import main\nprint([main(argv) for argv in {commands}])")
    assert done.stdout == f"{[2] * len(commands)}\n", done.stderr
    for (name, *_), error in zip(commands, done.stderr.splitlines(), strict=True):
        wanted = re.escape(f"pip install {cli.COMMANDS[name].requirement}")
        assert re.fullmatch(rf"code-rlm {name}: needs the package \w+, which is not installed: {wanted}", error)


def test_when_only_the_core_is_installed_then_every_command_shows_its_options():
    names = [name for name, command in cli.COMMANDS.items() if command.parser is not None]
    done = run(f"from code_rlm.cli import main\nprint([main([name, '--help']) for name in {names}])")
    assert done.stdout.splitlines()[-1] == f"{[0] * len(names)}", done.stderr


# The job on the lowest versions


def test_when_the_lowest_versions_are_pinned_then_they_are_the_declared_ones():
    lines = (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.replace("==", ">=") for line in lines if line and not line.startswith("#")}
    project = MODEL["project"]
    declared = {*project["dependencies"], *project["optional-dependencies"]["data"]}
    assert pinned == {line for line in declared if not line.startswith("torch>=")}
