"""A small Hugging Face Hub on 127.0.0.1, so that uploads and downloads are tested offline through the real clients.

It speaks the part of the Hub's HTTP API that `huggingface_hub`, `transformers` and `datasets` use to create a
repository, push to it and load from it:

- repositories: create, delete, info, refs, branches, tags, commit history, visibility;
- files: pre-upload, commits as ndjson, Git LFS batch uploads, tree and path listings, `resolve` with HEAD and ranges;
- commits are content-addressed and every download names the commit it came from (`X-Repo-Commit`);
- errors carry `X-Error-Code` as on the Hub (`RepoNotFound`, `RevisionNotFound`, `EntryNotFound`);
- writes need the token, and a private repository does not exist for those without it.

Not here: Xet storage, pull requests, discussions, spaces that run, search.

In a test, the clients read their endpoint when they are imported, so they run in a fresh process:

    with LoopbackHub(tmp_path) as hub:
        subprocess.run([sys.executable, "-c", code], env={**os.environ, **hub.env()}, check=True)

By hand: `python tests/loopback_hub.py --port 0 --root DIR` prints the variables to export.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime
import hashlib
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_loopback"
USER = "tester"
LFS_THRESHOLD_BYTES = 10 * 2**20
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".onnx", ".parquet", ".arrow", ".npz", ".zip", ".gz", ".zst", ".png")
CHUNK_BYTES = 1 << 20
REPO_TYPES = ("model", "dataset", "space")
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
API_REPO = re.compile(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/([a-z-]+)(?:/(.+))?)?")
API_REPO_WITHOUT_NAMESPACE = re.compile(r"/api/(?:model|dataset|space)s/[^/]+")
RESOLVE = re.compile(r"/(?:(dataset|space)s/)?([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)")
LFS_BATCH = re.compile(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")
LFS_OBJECT = re.compile(r"/lfs/objects/([0-9a-f]{64})")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class HubError(Exception):
    """An HTTP error answer: status, message, `X-Error-Code` where the Hub sends one, further fields of the body."""

    def __init__(self, status: int, message: str, code: str | None = None, fields: dict[str, Any] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.fields = status, message, code, fields or {}


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _git_oid(content: bytes) -> str:
    """The SHA-1 that git gives a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _card_data(text: str) -> dict[str, Any]:
    """The YAML between the leading `---` lines of a card, `{}` where there is none. Raises `ValueError` on bad YAML."""
    match = re.match(r"\A---[ \t]*\r?\n(.*?)\r?\n?---[ \t]*(?:\r?\n|\Z)", text, re.DOTALL)
    if match is None:
        return {}
    try:
        data = yaml.safe_load(match.group(1))
    except yaml.YAMLError as error:
        raise ValueError(f"bad YAML in the card's metadata: {error}") from error
    if data is not None and not isinstance(data, dict):
        raise ValueError("the card's metadata must be a mapping")
    return data or {}


class HubStore:
    """Repositories and their contents in one folder: `objects/<sha256>` and `repos/<type>/<owner>/<name>.json`.

    A repository is `{"type", "id", "private", "created", "branches", "tags", "commits"}`; a commit is
    `{"parent", "title", "message", "date", "files": {path: {"size", "sha256", "oid", "lfs"}}}` and its name is the
    SHA-1 of its JSON, so equal content, parent, message and time give the same name and nothing else does.
    """

    def __init__(self, root: Path):
        self.root = root
        self.lock = threading.RLock()
        (root / "objects").mkdir(parents=True, exist_ok=True)

    def object_path(self, sha256: str) -> Path:
        return self.root / "objects" / sha256

    def write_object(self, chunks: Iterator[bytes], expected_sha256: str | None = None) -> str:
        """Stores the bytes under their SHA-256 and returns it; a mismatch with `expected_sha256` stores nothing."""
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self.root, delete=False) as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
        sha256 = digest.hexdigest()
        if expected_sha256 is not None and sha256 != expected_sha256:
            Path(file.name).unlink()
            raise HubError(400, f"the content's SHA-256 is {sha256}, not {expected_sha256}")
        Path(file.name).replace(self.object_path(sha256))
        return sha256

    def _repo_path(self, repo_type: str, repo_id: str) -> Path:
        if not REPO_ID.fullmatch(repo_id) or ".." in repo_id:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return self.root / "repos" / repo_type / f"{repo_id}.json"

    def load(self, repo_type: str, repo_id: str) -> dict[str, Any]:
        path = self._repo_path(repo_type, repo_id)
        if not path.exists():
            raise HubError(404, "Repository not found", "RepoNotFound")
        return json.loads(path.read_text(encoding="utf-8"))

    def save(self, repo: dict[str, Any]) -> None:
        path = self._repo_path(repo["type"], repo["id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(repo), encoding="utf-8")
        partial.replace(path)

    def create(self, repo_type: str, repo_id: str, private: bool) -> dict[str, Any]:
        if repo_type not in REPO_TYPES or not REPO_ID.fullmatch(repo_id):
            raise HubError(400, f"bad repository name or type: {repo_type} {repo_id}")
        if self._repo_path(repo_type, repo_id).exists():
            raise FileExistsError(repo_id)
        repo = {"type": repo_type, "id": repo_id, "private": private, "created": _now()}
        repo |= {"branches": {}, "tags": {}, "commits": {}}
        self.add_commit(repo, "main", {".gitattributes": self.regular_file(GIT_ATTRIBUTES)}, "initial commit", "")
        return repo

    def delete(self, repo_type: str, repo_id: str) -> None:
        self.load(repo_type, repo_id)
        self._repo_path(repo_type, repo_id).unlink()

    def regular_file(self, content: bytes) -> dict[str, Any]:
        sha256 = self.write_object(iter([content]))
        return {"size": len(content), "sha256": sha256, "oid": _git_oid(content), "lfs": False}

    def lfs_file(self, sha256: str) -> dict[str, Any]:
        path = self.object_path(sha256)
        if not path.exists():
            raise HubError(400, f"LFS object {sha256} was committed but never uploaded")
        size = path.stat().st_size
        return {"size": size, "sha256": sha256, "oid": _git_oid(_lfs_pointer(sha256, size)), "lfs": True}

    def resolve(self, repo: dict[str, Any], revision: str) -> str:
        """Branch, tag or full commit name to a commit name."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        for names in (repo["branches"], repo["tags"]):
            if name in names:
                return names[name]
        if revision in repo["commits"]:
            return revision
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def files(self, repo: dict[str, Any], revision: str) -> dict[str, dict[str, Any]]:
        return repo["commits"][self.resolve(repo, revision)]["files"]

    def add_commit(
        self, repo: dict[str, Any], branch: str, files: dict[str, dict[str, Any]], title: str, message: str
    ) -> str:
        """Puts a commit on the branch and returns its name; unchanged files leave the branch where it is."""
        parent = repo["branches"].get(branch)
        if parent is not None and repo["commits"][parent]["files"] == files:
            return parent
        files = dict(sorted(files.items()))
        commit = {"parent": parent, "title": title, "message": message, "date": _now(), "files": files}
        sha = hashlib.sha1(json.dumps(commit, sort_keys=True).encode()).hexdigest()
        repo["commits"][sha] = commit
        repo["branches"][branch] = sha
        self.save(repo)
        return sha

    def history(self, repo: dict[str, Any], sha: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Commits from `sha` back to the first."""
        while sha is not None:
            commit = repo["commits"][sha]
            yield sha, commit
            sha = commit["parent"]

    def last_commit(self, repo: dict[str, Any], sha: str, path: str) -> dict[str, str]:
        """The newest commit that changed the file (or any file of the folder) at `path`."""

        def below(commit: dict[str, Any] | None) -> dict[str, Any]:
            files = commit["files"] if commit is not None else {}
            return {name: file for name, file in files.items() if name == path or name.startswith(f"{path}/")}

        for name, commit in self.history(repo, sha):
            parent = repo["commits"].get(commit["parent"])
            if below(commit) != below(parent):
                return {"id": name, "title": commit["title"], "date": commit["date"]}
        raise HubError(404, f"no commit touches {path}", "EntryNotFound")


class _Handler(BaseHTTPRequestHandler):
    """Routes requests to the store. One instance a connection, one thread each."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the hub keeps its own list of requests."""

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _handle(self) -> None:
        url = urlsplit(self.path)
        self._query = parse_qs(url.query)
        self._body_left = int(self.headers.get("Content-Length") or 0)
        self._chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        self.server.hub.requests.append(f"{self.command} {url.path}")
        try:
            self._route(url.path)
        except HubError as error:
            self._send_error_json(error)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:
            self._send_error_json(HubError(500, f"{type(error).__name__}: {error}"))
            raise

    # Requests

    def _body_chunks(self) -> Iterator[bytes]:
        """The request's body, plain or in HTTP/1.1 chunks."""
        while self._chunked:
            size = int(self.rfile.readline().split(b";")[0], 16)
            if size == 0:
                while self.rfile.readline().strip():
                    pass
                self._chunked = False
                return
            yield self._read(size)
            self.rfile.readline()
        while self._body_left:
            chunk = self._read(min(CHUNK_BYTES, self._body_left))
            self._body_left -= len(chunk)
            yield chunk

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) != size:
            raise ConnectionError("the client left in the middle of a body")
        return data

    def _body(self) -> bytes:
        return b"".join(self._body_chunks())

    def _json(self) -> dict[str, Any]:
        try:
            return json.loads(self._body() or b"{}")
        except ValueError as error:
            raise HubError(400, f"the body is not JSON: {error}") from error

    def _flag(self, name: str) -> bool:
        return self._query.get(name, ["false"])[-1].lower() in ("1", "true")

    @property
    def _authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.hub.token}"

    def _require_token(self) -> None:
        if not self._authorized:
            raise HubError(401, "Invalid username or password.")

    def _repo(self, repo_type: str, repo_id: str) -> dict[str, Any]:
        repo = self.server.hub.store.load(repo_type, unquote(repo_id))
        if repo["private"] and not self._authorized:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo

    # Answers

    def _send(self, status: int, headers: dict[str, str], length: int) -> None:
        # A body nobody read would be taken for the next request on this connection.
        for _ in self._body_chunks():
            pass
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send_json(self, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(data, default=str).encode()
        self._send(status, {"Content-Type": "application/json", **(headers or {})}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_error_json(self, error: HubError) -> None:
        headers = {"X-Error-Message": error.message.replace("\n", " ")}
        if error.code is not None:
            headers["X-Error-Code"] = error.code
        with contextlib.suppress(ConnectionError):
            self._send_json({"error": error.message, **error.fields}, error.status, headers)

    # Routes

    def _route(self, path: str) -> None:
        if path == "/api/whoami-v2" and self.command == "GET":
            self._require_token()
            access = {"displayName": "loopback", "role": "write"}
            self._send_json(
                {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token", "accessToken": access}}
            )
        elif path == "/api/validate-yaml" and self.command == "POST":
            self._validate_yaml()
        elif path in ("/api/repos/create", "/api/repos/delete"):
            self._create_or_delete()
        elif match := LFS_BATCH.fullmatch(path):
            self._lfs_batch(match[1] or "model", match[2])
        elif (match := LFS_OBJECT.fullmatch(path)) and self.command == "PUT":
            self.server.hub.store.write_object(self._body_chunks(), match[1])
            self._send_json({})
        elif (match := RESOLVE.fullmatch(path)) and self.command in ("GET", "HEAD"):
            self._resolve(match[1] or "model", match[2], unquote(match[3]), unquote(match[4]))
        elif match := API_REPO.fullmatch(path):
            self._repo_api(*match.groups())
        elif API_REPO_WITHOUT_NAMESPACE.fullmatch(path):
            raise HubError(404, "Repository not found", "RepoNotFound")
        else:
            self._unknown(path)

    def _unknown(self, path: str) -> None:
        self.server.hub.unknown_requests.append(f"{self.command} {path}")
        raise HubError(404, f"the loopback hub has no endpoint {self.command} {path}")

    def _validate_yaml(self) -> None:
        try:
            _card_data(self._json()["content"])
        except ValueError as error:
            self._send_json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        else:
            self._send_json({"errors": [], "warnings": []})

    def _create_or_delete(self) -> None:
        self._require_token()
        request = self._json()
        repo_type = request.get("type") or "model"
        repo_id = f"{request.get('organization') or USER}/{request['name']}"
        hub = self.server.hub
        url = {"url": hub.repo_url(repo_type, repo_id)}
        with hub.store.lock:
            if self.command == "POST":
                private = request.get("visibility") == "private" or bool(request.get("private"))
                try:
                    hub.store.create(repo_type, repo_id, private)
                except FileExistsError:
                    raise HubError(409, f"You already created this {repo_type} repo", fields=url) from None
            elif self.command == "DELETE":
                hub.store.delete(repo_type, repo_id)
            else:
                self._unknown(self.path)
        self._send_json(url | {"name": repo_id})

    def _repo_api(self, repo_type: str, repo_id: str, verb: str | None, rest: str | None) -> None:
        store = self.server.hub.store
        with store.lock:
            repo = self._repo(repo_type, repo_id)
            if self.command != "GET" and verb != "paths-info":
                self._require_token()
            revision, _, path = (rest or "main").partition("/")
            revision, path = unquote(revision), unquote(path)
            match self.command, verb:
                case "GET", None | "revision":
                    self._info(repo, revision)
                case "GET", "tree":
                    self._tree(repo, revision, path)
                case "POST", "paths-info":
                    self._paths_info(repo, revision)
                case "GET", "refs":
                    self._refs(repo)
                case "GET", "commits":
                    self._commits(repo, revision)
                case "POST", "preupload":
                    self._preupload(repo, revision)
                case "POST", "commit":
                    self._commit(repo, revision)
                case "POST" | "DELETE", "tag" | "branch":
                    self._tag_or_branch(repo, verb, revision)
                case "PUT", "settings":
                    self._settings(repo)
                case _:
                    self._unknown(self.path)

    def _settings(self, repo: dict[str, Any]) -> None:
        request = self._json()
        if "visibility" in request:
            repo["private"] = request["visibility"] == "private"
        self.server.hub.store.save(repo)
        self._send_json({"private": repo["private"]})

    def _info(self, repo: dict[str, Any], revision: str) -> None:
        store = self.server.hub.store
        sha = store.resolve(repo, revision)
        files = repo["commits"][sha]["files"]
        siblings: list[dict[str, Any]] = []
        for path, file in files.items():
            sibling: dict[str, Any] = {"rfilename": path}
            if self._flag("blobs"):
                sibling |= {"size": file["size"], "blobId": file["oid"]}
                if file["lfs"]:
                    sibling["lfs"] = self._lfs_info(file) | {"sha256": file["sha256"]}
            siblings.append(sibling)
        card: dict[str, Any] = {}
        if "README.md" in files:
            with contextlib.suppress(ValueError):
                card = _card_data(store.object_path(files["README.md"]["sha256"]).read_text(encoding="utf-8"))
        info = {"id": repo["id"], "author": repo["id"].split("/")[0], "sha": sha, "private": repo["private"]}
        info |= {"createdAt": repo["created"], "lastModified": repo["commits"][sha]["date"], "siblings": siblings}
        info |= {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": card.get("tags") or []}
        if card:
            info["cardData"] = card
        if repo["type"] == "model":
            info |= {"modelId": repo["id"], "pipeline_tag": card.get("pipeline_tag")}
            info["library_name"] = card.get("library_name")
        self._send_json(info)

    @staticmethod
    def _lfs_info(file: dict[str, Any]) -> dict[str, Any]:
        pointer_size = len(_lfs_pointer(file["sha256"], file["size"]))
        return {"oid": file["sha256"], "size": file["size"], "pointerSize": pointer_size}

    def _entries(self, repo: dict[str, Any], sha: str, expand: bool) -> dict[str, dict[str, Any]]:
        """Every file and folder of a commit as the tree endpoints describe them, by path."""
        files = repo["commits"][sha]["files"]
        entries: dict[str, dict[str, Any]] = {}
        for path, file in files.items():
            for folder in list(PurePosixPath(path).parents)[-2::-1]:
                inside = {p: f["oid"] for p, f in files.items() if p.startswith(f"{folder}/")}
                oid = hashlib.sha1(json.dumps(inside).encode()).hexdigest()
                entries.setdefault(str(folder), {"type": "directory", "oid": oid, "size": 0, "path": str(folder)})
            entries[path] = {"type": "file", "oid": file["oid"], "size": file["size"], "path": path}
            if file["lfs"]:
                entries[path]["lfs"] = self._lfs_info(file)
        if expand:
            for path, entry in entries.items():
                entry["lastCommit"] = self.server.hub.store.last_commit(repo, sha, path)
        return entries

    def _tree(self, repo: dict[str, Any], revision: str, path: str) -> None:
        entries = self._entries(repo, self.server.hub.store.resolve(repo, revision), self._flag("expand"))
        path = path.strip("/")
        if path and entries.get(path, {}).get("type") != "directory":
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        prefix = f"{path}/" if path else ""
        found = [entry for name, entry in entries.items() if name.startswith(prefix)]
        if not self._flag("recursive"):
            found = [entry for entry in found if "/" not in entry["path"][len(prefix) :]]
        self._send_json(found)

    def _paths_info(self, repo: dict[str, Any], revision: str) -> None:
        body = self._body().decode()
        if "json" in self.headers.get("Content-Type", ""):
            request = json.loads(body)
            paths, expand = request.get("paths", []), bool(request.get("expand"))
        else:
            form = parse_qs(body)
            paths, expand = form.get("paths", []), form.get("expand", ["false"])[-1].lower() in ("1", "true")
        entries = self._entries(repo, self.server.hub.store.resolve(repo, revision), expand)
        self._send_json([entries[path.strip("/")] for path in paths if path.strip("/") in entries])

    def _refs(self, repo: dict[str, Any]) -> None:
        def listed(names: dict[str, str], kind: str) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

        branches, tags = listed(repo["branches"], "heads"), listed(repo["tags"], "tags")
        self._send_json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    def _commits(self, repo: dict[str, Any], revision: str) -> None:
        store = self.server.hub.store
        commits = []
        for sha, commit in store.history(repo, store.resolve(repo, revision)):
            fields = {key: commit[key] for key in ("title", "message", "date")}
            commits.append({"id": sha, **fields, "authors": [{"user": USER}]})
        self._send_json(commits)

    def _tag_or_branch(self, repo: dict[str, Any], verb: str, name: str) -> None:
        store = self.server.hub.store
        names = repo["tags" if verb == "tag" else "branches"]
        if self.command == "DELETE":
            if name not in names:
                raise HubError(404, f"there is no {verb} {name}", "RevisionNotFound")
            del names[name]
        else:
            request = self._json()
            # A tag's URL names the revision and its body the tag; a branch's URL names the branch.
            start = name if verb == "tag" else request.get("startingPoint", "main")
            name = request["tag"] if verb == "tag" else name
            if name in names:
                raise HubError(409, f"{verb} {name} already exists")
            names[name] = store.resolve(repo, start)
        store.save(repo)
        self._send_json({})

    def _preupload(self, repo: dict[str, Any], revision: str) -> None:
        present = self.server.hub.store.files(repo, revision)
        answers = []
        for file in self._json()["files"]:
            path, size = file["path"], file["size"]
            binary = b"\0" in base64.b64decode(file.get("sample", ""))
            large = size > self.server.hub.lfs_threshold_bytes
            mode = "lfs" if large or binary or path.endswith(LFS_SUFFIXES) else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            if (old := present.get(path)) is not None:
                answer["oid"] = old["sha256"] if old["lfs"] else old["oid"]
            answers.append(answer)
        self._send_json({"files": answers})

    def _lfs_batch(self, repo_type: str, repo_id: str) -> None:
        hub = self.server.hub
        self._repo(repo_type, repo_id)
        self._require_token()
        objects = []
        for item in self._json()["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if not hub.store.object_path(item["oid"]).exists():
                entry["actions"] = {"upload": {"href": f"{hub.endpoint}/lfs/objects/{item['oid']}"}}
            objects.append(entry)
        headers = {"Content-Type": "application/vnd.git-lfs+json"}
        self._send_json({"transfer": "basic", "objects": objects}, headers=headers)

    def _commit(self, repo: dict[str, Any], revision: str) -> None:
        hub = self.server.hub
        if self._flag("create_pr"):
            raise HubError(400, "the loopback hub has no pull requests; push with create_pr=False")
        if revision not in repo["branches"]:
            raise HubError(404, f"there is no branch {revision}", "RevisionNotFound")
        operations = [json.loads(line) for line in self._body().splitlines() if line.strip()]
        header = operations[0]["value"]
        head = repo["branches"][revision]
        if header.get("parentCommit") not in (None, head):
            raise HubError(412, f"A commit has happened since {header['parentCommit']}. Please refresh and try again.")
        files = dict(repo["commits"][head]["files"])
        for operation in operations[1:]:
            key, value = operation["key"], operation["value"]
            path = value["path"]
            if path.startswith("/") or {"", ".", ".."} & set(path.rstrip("/").split("/")):
                raise HubError(400, f"bad path {path!r}")
            if key == "file":
                files[path] = hub.store.regular_file(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                files[path] = hub.store.lfs_file(value["oid"])
            elif key in ("deletedFile", "deletedFolder"):
                prefix = path if key == "deletedFile" else path.rstrip("/") + "/"
                gone = [name for name in files if (name == path if key == "deletedFile" else name.startswith(prefix))]
                if not gone:
                    raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                for name in gone:
                    del files[name]
            else:
                raise HubError(400, f"unknown operation {key!r} in a commit")
        sha = hub.store.add_commit(repo, revision, files, header["summary"], header.get("description", ""))
        url = f"{hub.repo_url(repo['type'], repo['id'])}/commit/{sha}"
        self._send_json({"success": True, "commitOid": sha, "commitUrl": url, "pullRequestUrl": None})

    def _resolve(self, repo_type: str, repo_id: str, revision: str, path: str) -> None:
        store = self.server.hub.store
        with store.lock:
            repo = self._repo(repo_type, repo_id)
            sha = store.resolve(repo, revision)
        file = repo["commits"][sha]["files"].get(path)
        commit = {"X-Repo-Commit": sha}
        if file is None:
            error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self._send_json({"error": "Entry not found"}, 404, commit | error)
            return
        etag = file["sha256"] if file["lfs"] else file["oid"]
        headers = commit | {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        start, stop, status = 0, file["size"], 200
        if (match := RANGE.fullmatch(self.headers.get("Range", ""))) and any(match.groups()):
            if not match[1]:
                start = max(0, stop - int(match[2]))
            else:
                start = int(match[1])
                stop = min(stop, int(match[2]) + 1) if match[2] else stop
            if start >= stop:
                self._send(416, headers | {"Content-Range": f"bytes */{file['size']}"}, 0)
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file['size']}"
            status = 206
        self._send(status, headers, stop - start)
        if self.command == "GET":
            with store.object_path(file["sha256"]).open("rb") as content:
                content.seek(start)
                self._copy(content, stop - start)

    def _copy(self, content: BinaryIO, size: int) -> None:
        while size:
            chunk = content.read(min(CHUNK_BYTES, size))
            self.wfile.write(chunk)
            size -= len(chunk)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hub: LoopbackHub


class LoopbackHub:
    """A Hub on an address of this machine only, for as long as the `with` block lasts.

    Args:
        root: Folder for the repositories; what an earlier hub left there is served again. A temporary folder, removed
            at the end, when not given.
        port: TCP port; 0 takes a free one.
        token: The token that may write and that sees private repositories.
        lfs_threshold_bytes: Files larger than this go through Git LFS, as do binary files of any size.

    Attributes:
        endpoint: `http://127.0.0.1:PORT`.
        requests: `METHOD path` of every request so far, oldest first.
        unknown_requests: Those of them that no endpoint answers: what to look at when a client fails.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        port: int = 0,
        token: str = TOKEN,
        lfs_threshold_bytes: int = LFS_THRESHOLD_BYTES,
    ):
        self._temporary = root is None
        self.root = Path(tempfile.mkdtemp(prefix="loopback_hub_") if root is None else root)
        self.token = token
        self.lfs_threshold_bytes = lfs_threshold_bytes
        self.requests: list[str] = []
        self.unknown_requests: list[str] = []
        self.store = HubStore(self.root / "store")
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.hub = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread: threading.Thread | None = None

    def repo_url(self, repo_type: str, repo_id: str) -> str:
        """The address of a repository's page, which the clients parse for its type and name."""
        return f"{self.endpoint}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"

    def env(self, home: str | Path | None = None) -> dict[str, str]:
        """Environment variables for a process that is to use this hub and no other, caches included.

        Args:
            home: Folder for the process's caches; one shared by all processes of this hub when not given. Another
                folder is another machine: nothing is cached there yet.
        """
        home = Path(home) if home is not None else self.root / "home"
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_MODULES_CACHE": str(home / "modules"),
            "HF_DATASETS_CACHE": str(home / "datasets"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def start(self) -> LoopbackHub:
        """Answers requests from a background thread."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def serve_forever(self) -> None:
        """Answers requests from this thread until it is interrupted."""
        self._server.serve_forever()

    def stop(self) -> None:
        """Stops answering, frees the port and removes the folder if it was temporary."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()
        if self._temporary:
            shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> LoopbackHub:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a small Hugging Face Hub on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 takes a free one")
    parser.add_argument("--root", default=None, help="folder for the repositories; temporary when not given")
    options = parser.parse_args()
    hub = LoopbackHub(options.root, port=options.port)
    for name, value in hub.env().items():
        print(f"export {name}={value}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        hub.serve_forever()
    hub.stop()


if __name__ == "__main__":
    main()
