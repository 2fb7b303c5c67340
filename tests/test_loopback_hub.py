"""The loopback hub, through the clients it exists for: huggingface_hub, transformers and datasets."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from loopback_hub import LoopbackHub
from safetensors.numpy import load_file, save_file

CARD = "---\npipeline_tag: text2text-generation\ntags: [regression]\nlicense: apache-2.0\n---\n# Card\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with LoopbackHub(tmp_path / "hub", lfs_threshold_bytes=4096) as hub:
        yield hub
        assert hub.unknown_requests == []


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "large.txt").write_text("line\n" * 2000)
    (folder / "deep" / "er" / "two words.txt").write_text("")
    save_file({"weight": np.arange(3000, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def run_client(hub: LoopbackHub, code: str, home: Path) -> str:
    """Runs code in a fresh process that knows only this hub, with its caches in `home`."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **hub.env(home)},
        cwd=hub.root,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_when_a_folder_is_uploaded_then_it_downloads_byte_for_byte(hub, api, model_folder, tmp_path):
    url = api.create_repo("tester/model")
    assert (url.repo_id, url.repo_type) == ("tester/model", "model")
    commit = api.upload_folder(repo_id="tester/model", folder_path=model_folder, commit_message="weights")
    local = Path(snapshot_download("tester/model", endpoint=hub.endpoint, cache_dir=tmp_path / "cache"))
    assert local.name == commit.oid
    for path in model_folder.rglob("*"):
        if path.is_file():
            assert (local / path.relative_to(model_folder)).read_bytes() == path.read_bytes()
    assert load_file(local / "model.safetensors")["weight"][-1] == 2999
    assert any(request.startswith("PUT /lfs/objects/") for request in hub.requests)


def test_when_a_model_is_described_then_files_card_and_lfs_are_there(api, model_folder):
    api.create_repo("tester/model")
    commit = api.upload_folder(repo_id="tester/model", folder_path=model_folder)
    info = api.model_info("tester/model", files_metadata=True)
    assert info.sha == commit.oid
    assert info.pipeline_tag == "text2text-generation"
    assert info.card_data.license == "apache-2.0"
    lfs = {sibling.rfilename for sibling in info.siblings if sibling.lfs is not None}
    assert lfs == {"model.safetensors", "large.txt"}
    assert sorted(api.list_repo_files("tester/model")) == sorted(sibling.rfilename for sibling in info.siblings)
    top = {entry.path for entry in api.list_repo_tree("tester/model")}
    assert "deep" in top and "deep/er/two words.txt" not in top
    assert [entry.path for entry in api.list_repo_tree("tester/model", "deep")] == ["deep/er"]
    (expanded,) = api.get_paths_info("tester/model", "config.json", expand=True)
    assert expanded.last_commit.oid == commit.oid


def test_when_commits_follow_each_other_then_old_revisions_stay(hub, api, tmp_path):
    api.create_repo("tester/model")
    first = api.upload_file(repo_id="tester/model", path_in_repo="a.txt", path_or_fileobj=b"one")
    api.create_tag("tester/model", tag="v1")
    api.create_branch("tester/model", branch="next")
    operations = [CommitOperationAdd("b.txt", b"two"), CommitOperationDelete("a.txt")]
    second = api.create_commit("tester/model", operations, commit_message="move", parent_commit=first.oid)

    def download(path: str, revision: str | None = None) -> bytes:
        return Path(api.hf_hub_download("tester/model", path, revision=revision, cache_dir=tmp_path)).read_bytes()

    assert download("b.txt") == b"two"
    assert download("a.txt", "v1") == download("a.txt", "next") == download("a.txt", first.oid) == b"one"
    assert [commit.commit_id for commit in api.list_repo_commits("tester/model")][:2] == [second.oid, first.oid]
    refs = api.list_repo_refs("tester/model")
    assert {ref.name: ref.target_commit for ref in refs.branches + refs.tags} == {
        "main": second.oid,
        "next": first.oid,
        "v1": first.oid,
    }
    late = [CommitOperationAdd("c.txt", b"three")]
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("tester/model", late, commit_message="late", parent_commit=first.oid)


def test_when_nothing_changed_then_no_commit_is_made(api, model_folder):
    api.create_repo("tester/model")
    first = api.upload_folder(repo_id="tester/model", folder_path=model_folder)
    assert api.upload_folder(repo_id="tester/model", folder_path=model_folder).oid == first.oid


def test_when_a_thing_is_missing_then_the_client_raises_its_own_error(api, tmp_path):
    api.create_repo("tester/model")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("tester/nothing")
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("plain-name", "config.json", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("tester/model")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download("tester/model", "config.json", revision="v9", cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("tester/model", "config.json", cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("tester/model", "folder"))
    assert not api.file_exists("tester/model", "config.json")
    assert not api.repo_exists("tester/nothing")


def test_when_a_repository_exists_then_creating_it_again_is_a_conflict(api):
    api.create_repo("tester/model")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("tester/model")
    api.create_repo("tester/model", exist_ok=True)
    api.delete_repo("tester/model")
    assert not api.repo_exists("tester/model")


def test_when_there_is_no_token_then_nothing_private_is_seen_and_nothing_is_written(hub, api):
    stranger = HfApi(endpoint=hub.endpoint, token=False)
    api.create_repo("tester/secret", private=True)
    assert api.model_info("tester/secret").private
    with pytest.raises(RepositoryNotFoundError):
        stranger.model_info("tester/secret")
    api.update_repo_settings("tester/secret", private=False)
    assert not stranger.model_info("tester/secret").private
    with pytest.raises(HfHubHTTPError, match="401"):
        stranger.upload_file(repo_id="tester/secret", path_in_repo="a.txt", path_or_fileobj=b"one")
    assert api.whoami()["name"] == "tester"


def test_when_the_card_has_bad_yaml_then_the_upload_is_refused(api):
    api.create_repo("tester/model")
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(repo_id="tester/model", path_in_repo="README.md", path_or_fileobj=b"---\na: [1\n---\n")


@pytest.mark.parametrize(
    ("wanted", "status", "expected"),
    [("bytes=2-4", 206, b"234"), ("bytes=7-", 206, b"789"), ("bytes=-2", 206, b"89"), ("words=1", 200, b"0123456789")],
)
def test_when_a_range_is_asked_for_then_only_it_comes(hub, api, wanted, status, expected):
    api.create_repo("tester/model")
    commit = api.upload_file(repo_id="tester/model", path_in_repo="a.txt", path_or_fileobj=b"0123456789")
    request = Request(f"{hub.endpoint}/tester/model/resolve/main/a.txt", headers={"Range": wanted})
    with urlopen(request) as response:
        assert (response.status, response.read()) == (status, expected)
        assert response.headers["X-Repo-Commit"] == commit.oid


def test_when_a_hub_restarts_on_its_folder_then_its_repositories_are_back(tmp_path):
    with LoopbackHub(tmp_path) as hub:
        HfApi(endpoint=hub.endpoint, token=hub.token).create_repo("tester/data", repo_type="dataset")
    with LoopbackHub(tmp_path) as hub:
        assert HfApi(endpoint=hub.endpoint).dataset_info("tester/data").id == "tester/data"


@pytest.mark.slow
def test_when_a_model_with_its_own_code_is_pushed_then_a_bare_process_loads_it(hub, tmp_path):
    (tmp_path / "tiny_modeling.py").write_text(
        textwrap.dedent(
            """\
            import torch
            from transformers import PreTrainedConfig, PreTrainedModel


            class TinyConfig(PreTrainedConfig):
                model_type = "tiny-loopback"
                width: int = 3


            class TinyModel(PreTrainedModel):
                config_class = TinyConfig

                def __init__(self, config):
                    super().__init__(config)
                    self.layer = torch.nn.Linear(config.width, 1)
                    self.post_init()

                def forward(self, x):
                    return self.layer(x)
            """
        )
    )
    push = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import torch
        from tiny_modeling import TinyConfig, TinyModel
        TinyConfig.register_for_auto_class()
        TinyModel.register_for_auto_class("AutoModel")
        torch.manual_seed(0)
        model = TinyModel(TinyConfig(width=4))
        model.push_to_hub("tester/tiny")
        print(model(torch.ones(4)).item())
    """
    load = """
        import torch
        from transformers import AutoModel
        model = AutoModel.from_pretrained("tester/tiny", trust_remote_code=True)
        print(model(torch.ones(4)).item())
    """
    assert run_client(hub, push, tmp_path / "home") == run_client(hub, load, tmp_path / "another_home")


@pytest.mark.slow
def test_when_a_dataset_is_pushed_then_it_loads_whole_and_streamed(hub, tmp_path):
    push = """
        from datasets import Dataset
        rows = Dataset.from_dict({"text": ["a", "b", "c"], "latency_ms": [1.0, 2.0, 3.0]})
        rows.push_to_hub("tester/rows", "kernels", split="train")
        rows.select([2]).push_to_hub("tester/rows", "kernels", split="test")
    """
    run_client(hub, push, tmp_path / "home")
    load = """
        from datasets import get_dataset_config_names, load_dataset
        whole = load_dataset("tester/rows", "kernels")
        print({name: rows.to_list() for name, rows in whole.items()})
        streamed = load_dataset("tester/rows", "kernels", streaming=True)
        print({name: list(rows) for name, rows in streamed.items()})
        print(get_dataset_config_names("tester/rows"))
    """
    whole, streamed, names = run_client(hub, load, tmp_path / "another_home").splitlines()
    assert whole == streamed
    assert "{'text': 'c', 'latency_ms': 3.0}" in whole
    assert names == "['kernels']"
