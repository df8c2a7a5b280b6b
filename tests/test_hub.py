"""Repositories of the Hugging Face Hub: what counts as one, and what it is asked. No test opens a connection."""

from __future__ import annotations

import sys

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from diffusers_rec import DiffRec, HistoryEncoder, load_pretrained
from diffusers_rec.encoders import GRUEncoder

COMMIT = "9f" * 20


@pytest.fixture
def repositories(tmp_path, monkeypatch):
    """The folder with the content of the Hub's repositories: a model and an encoder; the working folder is empty."""
    found = tmp_path / "hub" / "user"
    DiffRec(range(9), dim=8, max_length=6).save_pretrained(found / "model")
    GRUEncoder(8, 6).save_pretrained(found / "encoder")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return found


@pytest.fixture
def asked(repositories, tmp_path, monkeypatch):
    """The requests to the Hub, which puts a file into a cache that is laid out like huggingface_hub's."""
    calls = []

    def hf_hub_download(repo_id, filename, *, revision, token):
        calls.append((repo_id, filename, revision, token))
        source = repositories.parent / repo_id / filename
        target = tmp_path / "cache" / repo_id.replace("/", "--") / "snapshots" / COMMIT / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        return str(target)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return calls


@pytest.mark.parametrize("load", [DiffRec.from_pretrained, load_pretrained])
@pytest.mark.parametrize("options", [{"revision": None, "token": None}, {"revision": "v1", "token": "t"}])
def test_a_model_comes_from_the_hub(load, options, asked, repositories):
    expected = load_pretrained(repositories / "model").recommend([[1]])
    files = {path.name for path in (repositories / "model").iterdir()} - {"config.json"}
    for foreign in ["model-00001-of-00191.safetensors", "model-0123456789ab.safetensors", "model-a/b.safetensors"]:
        (repositories / "model" / foreign).parent.mkdir(parents=True, exist_ok=True)
        (repositories / "model" / foreign).touch()
    assert load("user/model", **options).recommend([[1]]).items == expected.items
    assert asked[0] == ("user/model", "config.json", options["revision"], options["token"])
    assert len(asked) == 3
    assert set(asked[1:]) == {("user/model", name, COMMIT, options["token"]) for name in files}


@pytest.mark.parametrize("config", ['{"model_type": "llama"}', "[]", "{", '{"format": "diffusers_rec"}'])
def test_nothing_more_is_fetched_of_a_repository_of_something_else(config, asked, repositories):
    (repositories / "llama").mkdir()
    (repositories / "llama" / "config.json").write_text(config)
    (repositories / "llama" / "model-00001-of-00191.safetensors").touch()
    with pytest.raises(ValueError, match=r"user--llama.*config\.json"):
        load_pretrained("user/llama")
    assert asked == [("user/llama", "config.json", None, None)]


def test_a_part_comes_from_the_hub(asked):
    part = HistoryEncoder.from_pretrained("user/encoder", revision="main", token="t")
    assert part.config() == GRUEncoder(8, 6).config()
    assert len(asked) == 2


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

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(FileNotFoundError, match=r"no folder user/model, .* Hub: Cannot find the requested files\.$"):
        load_pretrained("user/model")


def test_the_error_names_the_extra(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r"no folder user/model, .* pip install 'diffusers-rec\[hub\]'"):
        load_pretrained("user/model")
