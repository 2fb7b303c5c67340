"""How a program of each language is built and run: the commands, and the package that brings them.

Commands are lists of words in which these stand for what a run fills in:

* `{build}`, the folder with the source file and what the build made of it; builds run in it.
* `{python}`, the interpreter that runs this package, without its virtual environment.
* `{own_python}`, the same within it, with the packages that are installed there.
* `{memory_mb}`, the limit on memory in MiB.
* `{tsc}`, the path of the TypeScript compiler.

Every program is pinned to one core, and runtimes that choose by the machine get the same options on every machine.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Toolchain:
    """One language.

    Attributes:
        language: Name in the schema.
        source: Name of the source file.
        run: Command that runs the program; its arguments are added.
        version: Command whose first line of output names the version.
        package: Debian package with the tools, or the extra of this package where it is modules that are needed.
        idle: A program that does nothing; its memory is the language's baseline.
        build: Command that builds it, or () where there is nothing to build.
        artifact: File that a build must leave.
        batch: Command that builds many at once: it is run in a folder whose subfolders each hold a source, and its
            arguments are the subfolders. What it fails to build is built alone. () where starting the compiler is cheap.
        environment: Variables for build and run.
        suffixes: Suffixes of source files, the first is the usual one.
        modules: Python modules that it needs.
        entry: Function of a program to the stem of its source file and the name that it is run by, where these follow from
            the text; they stand in place of `{stem}` and `{entry}` in the fields above.
    """

    language: str
    source: str
    run: tuple[str, ...]
    version: tuple[str, ...]
    package: str
    idle: str
    build: tuple[str, ...] = ()
    artifact: str = ""
    batch: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    suffixes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    entry: Callable[[str], tuple[str, str]] | None = None

    def of(self, text: str) -> Toolchain:
        """Returns the toolchain of one program, with its own names in place of `{stem}` and `{entry}`."""
        if self.entry is None:
            return self
        stem, entry = self.entry(text)

        def filled(words: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(word.replace("{stem}", stem).replace("{entry}", entry) for word in words)

        source, artifact = filled((self.source, self.artifact.replace("{entry}", entry.replace(".", "/"))))
        return replace(self, source=source, artifact=artifact, build=filled(self.build), run=filled(self.run))

    def tools(self) -> list[str]:
        """Returns the names of the programs that the commands begin with."""
        words = [command[0] for command in (self.build, self.run, self.version, self.batch) if command]
        return [word for word in dict.fromkeys(words) if not word.startswith("{")]

    def missing(self) -> list[str]:
        """Returns the tools that are not on the PATH, and the modules that are not installed."""
        tools = [tool for tool in self.tools() if shutil.which(tool) is None]
        return tools + [module for module in self.modules if importlib.util.find_spec(module) is None]

    def remedy(self) -> str:
        """Returns the command that brings what is missing."""
        return f"pip install 'code-rlm-data[{self.package}]'" if self.modules else f"apt-get install {self.package}"


_JAVA_PACKAGE = re.compile(r"^\s*package\s+([\w.]+)\s*;", re.MULTILINE)
_JAVA_TYPE = re.compile(r"^[ \t]*((?:\w+[ \t]+)*?)(?:class|record|enum|interface)[ \t]+(\w+)", re.MULTILINE)
_JAVA_MAIN = re.compile(r"\bstatic\s+(?:final\s+)?void\s+main\s*\(")


def java_entry(text: str) -> tuple[str, str]:
    """Returns the stem of a Java program's file and the name of its main class, package included.

    The file is named after its public class, as the compiler demands. The main class is the public one, or else the last that
    begins before the method `main`.
    """
    types = list(_JAVA_TYPE.finditer(text))
    public = next((found[2] for found in types if "public" in found[1].split()), None)
    main = _JAVA_MAIN.search(text)
    before = [found[2] for found in types if main and found.start() < main.start()]
    name = public or (before[-1] if before else "Main")
    package = _JAVA_PACKAGE.search(text)
    return public or "Main", f"{package[1]}.{name}" if package else name


def base_python() -> str:
    """Returns the path of the interpreter itself, behind any virtual environment."""
    return os.path.realpath(sys.executable)


_NATIVE = ("{build}/main",)
# Runs have an environment of their own; drivers must find the same packages as this process.
_OWN = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "OMP_NUM_THREADS": "1"}
_DRIVERS = os.path.dirname(os.path.abspath(__file__))

TOOLCHAINS: dict[str, Toolchain] = {
    each.language: each
    for each in (
        Toolchain(
            "c",
            "main.c",
            build=("gcc", "-O2", "-std=gnu17", "-o", "main", "main.c", "-lm"),
            artifact="main",
            run=_NATIVE,
            version=("gcc", "--version"),
            package="gcc",
            idle="int main(void) { return 0; }\n",
            suffixes=(".c",),
        ),
        Toolchain(
            "cpp",
            "main.cpp",
            build=("g++", "-O2", "-std=gnu++17", "-o", "main", "main.cpp"),
            artifact="main",
            run=_NATIVE,
            version=("g++", "--version"),
            package="g++",
            idle="#include <iostream>\nint main() { return 0; }\n",
            suffixes=(".cpp", ".cc", ".cxx"),
        ),
        Toolchain(
            "python",
            "main.py",
            # Not -I: it would ignore PYTHONHASHSEED. The environment of a run is empty, and -s -S leave nothing to isolate.
            run=("{python}", "-s", "-S", "-B", "{build}/main.py"),
            version=("{python}", "--version"),
            package="python3",
            idle="pass\n",
            environment={"PYTHONHASHSEED": "0"},
            suffixes=(".py",),
        ),
        Toolchain(
            "java",
            "{stem}.java",
            build=("javac", "-nowarn", "-proc:none", "-d", ".", "{stem}.java"),
            artifact="{entry}.class",
            entry=java_entry,
            batch=("java", "-XX:+UseSerialGC", f"{_DRIVERS}/JavacMany.java"),
            # The collector and the first heap depend on the machine unless they are named.
            run=(
                "java",
                "-XX:+UseSerialGC",
                "-Xms8m",
                "-Xmx{memory_mb}m",
                "-XX:-UsePerfData",
                "-cp",
                "{build}",
                "{entry}",
            ),
            version=("javac", "-version"),
            package="default-jdk-headless",
            idle="public class Main { public static void main(String[] args) {} }\n",
            suffixes=(".java",),
        ),
        Toolchain(
            "go",
            "main.go",
            build=("go", "build", "-o", "main", "main.go"),
            artifact="main",
            run=_NATIVE,
            version=("go", "version"),
            package="golang-go",
            idle="package main\n\nfunc main() {}\n",
            environment={"GO111MODULE": "off", "GOFLAGS": "", "GOMAXPROCS": "1", "GOTOOLCHAIN": "local"},
            suffixes=(".go",),
        ),
        Toolchain(
            "rust",
            "main.rs",
            build=("rustc", "-O", "--edition", "2021", "-A", "warnings", "-o", "main", "main.rs"),
            artifact="main",
            run=_NATIVE,
            version=("rustc", "--version"),
            package="rustc",
            idle="fn main() {}\n",
            suffixes=(".rs",),
        ),
        Toolchain(
            "javascript",
            "main.js",
            run=("node", "{build}/main.js"),
            version=("node", "--version"),
            package="nodejs",
            idle=";\n",
            suffixes=(".js", ".mjs"),
        ),
        Toolchain(
            "typescript",
            "main.ts",
            build=(
                "tsc",
                "--target",
                "es2020",
                "--module",
                "commonjs",
                "--lib",
                "es2020,dom",
                "--skipLibCheck",
                "main.ts",
            ),
            artifact="main.js",
            batch=("node", f"{_DRIVERS}/TscMany.js", "{tsc}"),
            run=("node", "{build}/main.js"),
            version=("tsc", "--version"),
            package="node-typescript",
            idle="export {};\n",
            suffixes=(".ts",),
        ),
        Toolchain(
            "ruby",
            "main.rb",
            run=("ruby", "{build}/main.rb"),
            version=("ruby", "--version"),
            package="ruby",
            idle="nil\n",
            suffixes=(".rb",),
        ),
        Toolchain(
            "perl",
            "main.pl",
            run=("perl", "{build}/main.pl"),
            version=("perl", "-e", "print qq(perl $^V\\n)"),
            package="perl",
            idle="1;\n",
            environment={"PERL_HASH_SEED": "0"},
            suffixes=(".pl",),
        ),
        Toolchain(
            "php",
            "main.php",
            run=("php", "-d", "memory_limit=-1", "{build}/main.php"),
            version=("php", "--version"),
            package="php-cli",
            idle="<?php\n",
            suffixes=(".php",),
        ),
        Toolchain(
            "lua",
            "main.lua",
            run=("lua5.4", "{build}/main.lua"),
            version=("lua5.4", "-v"),
            package="lua5.4",
            idle="local _ = 0\n",
            suffixes=(".lua",),
        ),
        Toolchain(
            "csharp",
            "main.cs",
            build=("mcs", "-optimize", "-nowarn:0168,0219", "-out:main.exe", "main.cs"),
            artifact="main.exe",
            run=("mono", "{build}/main.exe"),
            version=("mcs", "--version"),
            package="mono-mcs mono-runtime",
            idle="class Program { static void Main() {} }\n",
            suffixes=(".cs",),
        ),
        Toolchain(
            "haskell",
            "Main.hs",
            build=("ghc", "-O1", "-v0", "-o", "main", "Main.hs"),
            artifact="main",
            run=_NATIVE,
            version=("ghc", "--version"),
            package="ghc",
            idle="main :: IO ()\nmain = return ()\n",
            suffixes=(".hs",),
        ),
        Toolchain(
            "ocaml",
            "main.ml",
            build=(
                "ocamlfind",
                "ocamlopt",
                "-O3",
                "-w",
                "-a",
                "-linkpkg",
                "-package",
                "str,unix",
                "-o",
                "main",
                "main.ml",
            ),
            artifact="main",
            run=_NATIVE,
            version=("ocamlfind", "ocamlopt", "-version"),
            package="ocaml-findlib ocaml-nox",
            idle="let () = ()\n",
            suffixes=(".ml",),
        ),
        Toolchain(
            "fortran",
            "main.f90",
            build=("gfortran", "-O2", "-o", "main", "main.f90"),
            artifact="main",
            run=_NATIVE,
            version=("gfortran", "--version"),
            package="gfortran",
            idle="program main\nend program main\n",
            suffixes=(".f90", ".f95"),
        ),
        Toolchain(
            "pascal",
            "main.pas",
            build=("fpc", "-O2", "-v0", "-omain", "main.pas"),
            artifact="main",
            run=_NATIVE,
            version=("fpc", "-iV"),
            package="fp-compiler",
            idle="program main;\nbegin\nend.\n",
            suffixes=(".pas", ".pp"),
        ),
        Toolchain(
            "d",
            "main.d",
            build=("ldc2", "-O2", "-of=main", "main.d"),
            artifact="main",
            run=_NATIVE,
            version=("ldc2", "--version"),
            package="ldc",
            idle="void main() {}\n",
            suffixes=(".d",),
        ),
        Toolchain(
            "bash",
            "main.sh",
            run=("bash", "{build}/main.sh"),
            version=("bash", "--version"),
            package="bash",
            idle=":\n",
            suffixes=(".sh",),
        ),
        Toolchain(
            "scheme",
            "main.scm",
            build=(
                *("guile", "--no-auto-compile", "-c"),
                '(use-modules (system base compile)) (compile-file "main.scm" #:output-file "main.go")',
            ),
            artifact="main.go",
            run=("guile", "--no-auto-compile", "-c", '(load-compiled "{build}/main.go")'),
            version=("guile", "--version"),
            package="guile-3.0",
            idle="#t\n",
            suffixes=(".scm",),
        ),
        Toolchain(
            "onnx",
            "model.onnx",
            run=("{own_python}", "-B", f"{_DRIVERS}/onnx_run.py", "{build}/model.onnx", '{"warmups": 0, "repeats": 1}'),
            version=("{own_python}", "-c", "import onnxruntime; print('onnxruntime', onnxruntime.__version__)"),
            package="onnx",
            idle="",
            suffixes=(".onnx",),
            environment=_OWN,
            modules=("onnxruntime",),
        ),
        Toolchain(
            "triton",
            "main.py",
            run=("{own_python}", "-B", f"{_DRIVERS}/triton_run.py", "{build}/main.py", '{"warmups": 0, "repeats": 1}'),
            version=(
                "{own_python}",
                "-c",
                "import torch, triton; print('triton', triton.__version__, torch.__version__)",
            ),
            package="triton",
            idle="def run():\n    pass\n",
            environment=_OWN,
            modules=("triton",),
        ),
    )
}

LANGUAGE_OF_SUFFIX = {suffix: each.language for each in TOOLCHAINS.values() for suffix in each.suffixes}


__all__ = ["LANGUAGE_OF_SUFFIX", "TOOLCHAINS", "Toolchain", "base_python"]
