"""Repositories of the Hugging Face Hub: what counts as one, and what it is asked. No test opens a connection."""

from __future__ import annotations

import sys

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from diffusers_rec import DiffRec, HistoryEncoder, load_pretrained
from diffusers_rec.encoders import GRUEncoder


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The calls of the Hub, which answers with a local model or encoder; the working folder is empty."""
    DiffRec(range(9), dim=8, max_length=6).save_pretrained(tmp_path / "cache" / "model")
    GRUEncoder(8, 6).save_pretrained(tmp_path / "cache" / "encoder")
    calls = []

    def snapshot_download(repo_id, **options):
        calls.append((repo_id, options))
        return str(tmp_path / "cache" / repo_id.split("/")[1])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return calls


@pytest.mark.parametrize("load", [DiffRec.from_pretrained, load_pretrained])
def test_a_model_comes_from_the_hub(load, asked):
    assert (
        load("user/model").recommend([[1]]).items == load("user/model", revision="v1", token="t").recommend([[1]]).items
    )
    files = ["config.json", "model-*.safetensors", "items-*.json"]
    assert asked == [
        ("user/model", {"revision": None, "token": None, "allow_patterns": files}),
        ("user/model", {"revision": "v1", "token": "t", "allow_patterns": files}),
    ]


def test_a_part_comes_from_the_hub(asked):
    part = HistoryEncoder.from_pretrained("user/encoder", revision="main", token="t")
    assert part.config() == GRUEncoder(8, 6).config()
    assert asked[0][1]["token"] == "t"


def test_a_local_folder_wins(asked, tmp_path):
    DiffRec(range(5), dim=8, max_length=6).save_pretrained("user/model")
    assert len(load_pretrained("user/model").vocabulary) == 5
    with pytest.raises(ValueError, match=r"revision='v1' needs a repository .* 'user/model' is a path"):
        load_pretrained("user/model", revision="v1")
    assert not asked


@pytest.mark.parametrize(
    "path", ["model", "a/b/c", "./user/model", "../user/model", "/user/model", "user/", "-a/b", "user/.b"]
)
def test_a_path_that_is_no_id_is_not_looked_for(path, asked):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load_pretrained(path)
    with pytest.raises(ValueError, match="needs a repository such as 'user/repo'"):
        load_pretrained(path, revision="main")
    assert not asked


def test_a_name_beside_other_folders_is_a_path_unless_it_has_a_revision(asked, tmp_path):
    (tmp_path / "here" / "user").mkdir()
    with pytest.raises(FileNotFoundError, match="user/model holds no checkpoint"):
        load_pretrained("user/model")
    assert not asked
    assert len(load_pretrained("user/model", revision="main").vocabulary) == 9


def test_what_the_hub_refuses_is_said(asked, monkeypatch):
    def refuse(*_, **__):
        raise LocalEntryNotFoundError("Cannot find the requested files.\nCheck your connection.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(FileNotFoundError, match=r"no folder user/model, .* Hub: Cannot find the requested files\.$"):
        load_pretrained("user/model")


def test_the_error_names_the_extra(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r"no folder user/model, .* pip install 'diffusers-rec\[hub\]'"):
        load_pretrained("user/model")
