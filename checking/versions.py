"""Two versions of a set of files: two folders, or a git revision and what came after it."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from code_rlm.errors_rlm import InputError
from code_rlm.processing_rlm import LANGUAGES


@dataclass(frozen=True)
class Change:
    """A file that is there in the later version.

    Attributes:
        name: Its path in the repository or the folder, with slashes.
        before: The earlier version's file; None where there was none.
        after: The later version's file.
    """

    name: str
    before: Path | None
    after: Path


class GitError(InputError):
    """git is not there, or does not know a revision or a folder."""


def folder_changes(before: Path, after: Path) -> list[Change]:
    """Returns the files of two folders that differ, known suffixes only, in the order of their names.

    Raises:
        InputError: Not a folder.
    """
    for folder in (before, after):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder.")
    changes = []
    for path in sorted(after.rglob("*")):
        if not path.is_file() or not _is_known(path):
            continue
        name = path.relative_to(after)
        earlier = before / name
        if not earlier.is_file():
            changes.append(Change(name.as_posix(), None, path))
        elif earlier.read_bytes() != path.read_bytes():
            changes.append(Change(name.as_posix(), earlier, path))
    return changes


@contextmanager
def git_changes(base: str, head: str | None = None, files: Sequence[str] = ()) -> Iterator[list[Change]]:
    """Gives the files that changed since the merge base with a revision, while the context lasts.

    Args:
        base: Revision; what is compared with is its merge base with `head`.
        head: Revision; None: the working tree, files that git does not track and does not ignore included.
        files: Only these, as paths from the working directory; none: every changed file.

    Raises:
        GitError: No repository, or no such revision.
    """
    top = Path(_git(["rev-parse", "--show-toplevel"], Path.cwd()).strip())
    start = _merge_base(base, head or "HEAD", top)
    end = None if head is None else _commit(head, top)
    pairs = _changed(start, end, top)
    if files:
        kept = {Path(os.path.relpath(Path(name).resolve(), top.resolve())).as_posix() for name in files}
        pairs = [pair for pair in pairs if pair[1] in kept]
    with TemporaryDirectory(prefix="code-rlm-") as folder:
        changes = []
        for old, new in pairs:
            before = None if old is None else _written(start, old, Path(folder, "before"), top)
            after = top / new if end is None else _written(end, new, Path(folder, "after"), top)
            changes.append(Change(new, before, after))
        yield changes


def _is_known(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in LANGUAGES and not hidden and "__pycache__" not in path.parts


def _changed(start: str, end: str | None, top: Path) -> list[tuple[str | None, str]]:
    """Returns earlier and later name of each changed file with a known suffix that is still there."""
    ends = [start] if end is None else [start, end]
    listed = _git(["diff", "--no-ext-diff", "--name-status", "-z", "-M", "--diff-filter=AMR", *ends, "--"], top)
    words = iter(listed.split("\0")[:-1])
    pairs: list[tuple[str | None, str]] = []
    for status in words:
        name = next(words)
        if status.startswith("R"):
            pairs.append((name, next(words)))
        else:
            pairs.append((None if status == "A" else name, name))
    if end is None:
        untracked = _git(["ls-files", "--others", "--exclude-standard", "-z"], top).split("\0")[:-1]
        pairs += [(None, name) for name in untracked]
    return sorted((pair for pair in pairs if _is_known(Path(pair[1]))), key=lambda pair: pair[1])


def _written(commit: str, name: str, folder: Path, top: Path) -> Path:
    """Writes a file of a commit below a folder and returns its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_git_bytes(["cat-file", "blob", f"{commit}:{name}"], top))
    return path


def _commit(revision: str, top: Path) -> str:
    return _git(
        ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"], top, revision
    ).strip()


def _merge_base(base: str, head: str, top: Path) -> str:
    """Returns the merge base, or the base itself where the histories have nothing in common."""
    start, end = _commit(base, top), _commit(head, top)
    done = subprocess.run(
        ["git", "-C", str(top), "merge-base", start, end], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or start


def _git(arguments: Sequence[str], folder: Path, revision: str = "") -> str:
    return _git_bytes(arguments, folder, revision).decode("utf-8", "surrogateescape")


def _git_bytes(arguments: Sequence[str], folder: Path, revision: str = "") -> bytes:
    """Runs git and returns what it prints.

    Raises:
        GitError: It is not installed, or fails.
    """
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise GitError("git is not installed; compare two folders with --before and --after.") from None
    if done.returncode == 0:
        return done.stdout
    if revision:
        raise GitError(
            f"git knows no revision {revision!r} here; fetch it (in an action: fetch-depth: 0), or name another --base."
        )
    reason = done.stderr.decode("utf-8", "replace").strip().splitlines()
    raise GitError(f"git {arguments[0]} failed: {reason[0] if reason else f'status {done.returncode}'}")


__all__ = ["Change", "GitError", "folder_changes", "git_changes"]
