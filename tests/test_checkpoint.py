"""Checkpoints come back bit for bit, or not at all, and damage is told from content."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_rec import Denoiser, DiffRec, ItemHead
from diffusers_rec.core.checkpoint import CONFIG_FILE, FORMAT_VERSION, write_checkpoint
from diffusers_rec.core.files import folder_lock
from diffusers_rec.testing.inputs import perturbed  # not from strategies, which processes of their own cannot import

ITEMS = [f"i{v}" for v in range(24)]


def own(family):
    """The library's members that predict latents; guides without training have no weights to keep."""
    names = [name for name in family.names() if family.named(name).__module__.startswith("diffusers_rec.")]
    return [name for name in names if name not in ("attribute", "function", "posterior")]


def build(denoiser="conditional-mlp", items=ITEMS, seed=0, **settings):
    schedule = {"name": "cosine", "num_timesteps": 7}
    model = DiffRec(items, dim=16, max_length=6, schedule=schedule, denoiser=denoiser, seed=seed, **settings)
    return perturbed(model, seed)


@lru_cache
def small(seed=0):
    return build(
        {"name": "conditional-mlp", "encoder": {"name": "causal-transformer", "num_layers": 1}, "mlp_layers": 1},
        seed=seed,
    )


def listing(folder):
    """Every file below ``folder`` and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(model, other):
    assert other.config() == model.config()
    assert other.vocabulary == model.vocabulary
    weights = model.state_dict()
    assert other.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in other.state_dict().items())
    history = [model.vocabulary.ids[:3]]
    assert torch.equal(other.predict_proba(history), model.predict_proba(history))


# Round trips


@pytest.mark.parametrize("head", own(ItemHead))
@pytest.mark.parametrize("denoiser", own(Denoiser))
def test_a_model_comes_back_bit_for_bit(denoiser, head, tmp_path):
    objective = "items" if Denoiser.named(denoiser).prediction == "items" else "simplified"
    noising = {"name": "last-k", "k": 2}
    settings = {"head": head, "objective": objective, "noising": noising, "sampler": "ddpm", "timesteps": "uniform"}
    model = build(denoiser, **settings, seeds=[3, 1])
    model.save_pretrained(tmp_path / "new" / "folder")
    assert_same(model, DiffRec.from_pretrained(str(tmp_path / "new" / "folder")))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_precision_of_the_weights_comes_back(dtype, tmp_path):
    model = build().to(dtype)
    model.save_pretrained(tmp_path)
    assert_same(model, DiffRec.from_pretrained(tmp_path))


def test_a_loaded_model_trains_and_the_tied_embedding_stays_one(tmp_path):
    build(head="tied").save_pretrained(tmp_path)
    model = DiffRec.from_pretrained(tmp_path)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.head.keys().data_ptr() == model.embedding.weight.data_ptr()


@given(ids=st.lists(st.text() | st.integers(), min_size=1, max_size=5, unique=True))
def test_any_text_and_integer_comes_back_as_the_same_id(ids, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ids")
    DiffRec(
        ids,
        dim=2,
        max_length=2,
        denoiser={"name": "conditional-mlp", "encoder": {"name": "causal-transformer", "num_heads": 1}},
    ).save_pretrained(folder)
    back = DiffRec.from_pretrained(folder).vocabulary.ids
    assert [(type(i), i) for i in back] == [(type(i), i) for i in ids]


def test_seeds_from_numpy_are_saved_as_numbers(tmp_path):
    build(seeds=np.arange(2, 5)).save_pretrained(tmp_path)
    assert DiffRec.from_pretrained(tmp_path).seeds == [2, 3, 4]


def test_the_config_is_json_with_a_format_version(tmp_path):
    small().save_pretrained(tmp_path)
    content = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert content["format"] == "diffusers_rec"
    assert content["format_version"] == FORMAT_VERSION
    assert content["pipeline"] == small().config()


def test_saving_twice_gives_the_same_bytes(tmp_path):
    small().save_pretrained(tmp_path / "a")
    small().save_pretrained(tmp_path / "b")
    assert listing(tmp_path / "a") == listing(tmp_path / "b")


def test_a_newer_checkpoint_replaces_the_older_and_leaves_other_files_alone(tmp_path):
    others = ["README.md", "model-00001-of-00002.safetensors", "items-raw.json"]
    for name in others:
        (tmp_path / name).write_text("not yours")
    for seed in (0, 1, 1):
        small(seed).save_pretrained(tmp_path)
    assert_same(small(1), DiffRec.from_pretrained(tmp_path))
    kinds = sorted(name.split("-")[0] for name in listing(tmp_path) if name not in others)
    assert kinds == ["config.json", "items", "model"]
    assert all((tmp_path / name).read_text() == "not yours" for name in others)


def test_loading_never_unpickles(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a checkpoint went through pickle")

    small().save_pretrained(tmp_path)
    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    assert_same(small(), DiffRec.from_pretrained(tmp_path))


# Damage


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    small().save_pretrained(folder)
    return folder


def damaged(saved, name, data):
    """What loading says of the checkpoint with the bytes of one file replaced."""
    path = saved / name
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        with pytest.raises(
            ValueError, match=r"damaged|not JSON|not written by this library|newer|reads up to"
        ) as error:
            DiffRec.from_pretrained(saved)
    finally:
        path.write_bytes(whole)
    return str(error.value)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), data=st.data())
def test_one_flipped_bit_anywhere_is_noticed(saved, place, bit, data):
    name = data.draw(st.sampled_from(sorted(listing(saved))))
    content = bytearray((saved / name).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    assert name in damaged(saved, name, bytes(content))


@given(share=st.floats(0, 1, exclude_max=True), data=st.data())
def test_a_file_cut_short_is_noticed(saved, share, data):
    name = data.draw(st.sampled_from(sorted(listing(saved))))
    content = (saved / name).read_bytes()
    assert name in damaged(saved, name, content.rstrip()[: int(share * len(content.rstrip()))])


@pytest.mark.parametrize(
    "foreign", ['{"architectures": ["Bert"]}', "[1, 2]", "null", "", "not json", '{"format": "other"}', "[" * 100_000]
)
def test_a_foreign_config_is_refused(foreign, tmp_path):
    (tmp_path / CONFIG_FILE).write_text(foreign)
    with pytest.raises(ValueError, match=r"config\.json (was not written by this library|is not JSON)"):
        DiffRec.from_pretrained(tmp_path)


def edit(folder, *, sign=False, **changes):
    """Change the config by hand, with a digest that fits if ``sign``."""
    content = json.loads((folder / CONFIG_FILE).read_text()) | changes
    if sign:
        del content["sha256"]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        content["sha256"] = hashlib.sha256(canonical).hexdigest()
    (folder / CONFIG_FILE).write_text(json.dumps(content))


@pytest.mark.parametrize("part", ["weights", "items"])
def test_a_config_reaches_no_file_outside_its_directory(part, tmp_path):
    folder = tmp_path / "folder"
    small().save_pretrained(folder)
    entry = json.loads((folder / CONFIG_FILE).read_text())[part]
    edit(folder, sign=True)
    assert_same(small(), DiffRec.from_pretrained(folder))
    outside = tmp_path / entry["file"]
    (folder / entry["file"]).rename(outside)
    for name in (f"../{outside.name}", str(outside)):
        edit(folder, sign=True, **{part: entry | {"file": name}})
        with pytest.raises(FileNotFoundError, match=f"lacks the file {outside.name}"):
            DiffRec.from_pretrained(folder)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99])
def test_a_newer_format_says_to_update(version, tmp_path):
    small().save_pretrained(tmp_path)
    edit(tmp_path, format_version=version, library_version="9.9")
    with pytest.raises(ValueError, match=rf"format version {version}.*Update diffusers-rec.*9\.9"):
        DiffRec.from_pretrained(tmp_path)


@pytest.mark.parametrize("version", [None, "1", 0, -1, True, 1.5])
def test_a_format_version_that_never_was_is_refused(version, tmp_path):
    small().save_pretrained(tmp_path)
    edit(tmp_path, format_version=version)
    with pytest.raises(ValueError, match=r"format version|damaged"):
        DiffRec.from_pretrained(tmp_path)


def test_a_hand_edited_config_is_refused_and_told_the_way(tmp_path):
    small().save_pretrained(tmp_path)
    edit(tmp_path, pipeline=small().config() | {"seeds": 3})
    with pytest.raises(ValueError, match=r"edited by hand.*from_config"):
        DiffRec.from_pretrained(tmp_path)


def test_an_empty_a_missing_and_a_half_directory_are_told_apart(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"holds no checkpoint: config\.json is missing"):
            DiffRec.from_pretrained(folder)
    small().save_pretrained(tmp_path)
    for name in sorted(set(listing(tmp_path)) - {CONFIG_FILE}):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"lacks the file {name}"):
            DiffRec.from_pretrained(tmp_path)
        (tmp_path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights | {"head.offset": torch.zeros(3)}, r"head\.offset \(3,\) instead of \(24,\)"),
        (
            lambda weights: weights | {"head.offset": torch.zeros(24, dtype=torch.int32)},
            r"head\.offset torch.int32 instead of torch.float32",
        ),
        (lambda weights: weights | {"spare": torch.zeros(3)}, "spare is not in the model"),
        (
            lambda weights: {name: weights[name] for name in weights if name != "embedding.weight"},
            r"embedding\.weight is",
        ),
        (lambda weights: {}, r"denoiser\.empty is missing, .* and 33 more"),
    ],
)
def test_whole_weights_that_do_not_fit_the_config_are_refused(change, message, tmp_path):
    write_checkpoint(tmp_path, small().config(), change(small().state_dict()), ITEMS)
    with pytest.raises(ValueError, match=rf"do not fit the model: .*{message}"):
        DiffRec.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "items", "message"),
    [
        ({"denoiser": {"name": "oracle"}}, ITEMS, "Unknown denoiser name: 'oracle'"),
        ({"colour": 1}, ITEMS, r"Unknown keys.*\['colour'\]"),
        ({}, ITEMS[1:], "items of the embedding is 24, items of the vocabulary is 23"),
        ({}, [*ITEMS[1:], "i1"], "every id must occur once"),
    ],
)
def test_a_whole_config_that_names_what_is_not_there_is_refused(change, items, message, tmp_path):
    write_checkpoint(tmp_path, small().config() | change, small().state_dict(), items)
    with pytest.raises(ValueError, match=message):
        DiffRec.from_pretrained(tmp_path)


# Writing that fails


@pytest.fixture(params=["fresh", "older"])
def target(request, tmp_path):
    """A directory that does not exist or holds an older checkpoint; at the end it must be as it was."""
    folder = tmp_path / "deep" / "folder"
    if request.param == "older":
        small(0).save_pretrained(folder)
    before = listing(tmp_path)
    yield folder
    assert listing(tmp_path) == before
    assert folder.exists() == (request.param == "older")
    if request.param == "older":
        assert_same(small(0), DiffRec.from_pretrained(folder))


@pytest.mark.parametrize("ids", [[("a", 1), ("a", 2)], [0.5, 1.5], [True, False], [frozenset()], [b"a"]])
def test_ids_that_json_cannot_hold_are_refused_before_anything_is_written(ids, target):
    with pytest.raises(TypeError, match="only str and int ids can be saved"):
        build(items=ids).save_pretrained(target)


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
@pytest.mark.parametrize("nth", [0, 1, 2])
def test_an_error_in_any_step_of_any_file_changes_nothing(step, nth, target, monkeypatch):
    original, calls = getattr(os, step.removeprefix("os.")), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) > nth:
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(f"diffusers_rec.core.files.{step}", failing)
        with pytest.raises(OSError, match=r"written \(No space left.*Free space on that disk\); nothing was changed"):
            build(items=range(24), seed=1).save_pretrained(target)


def test_an_interrupt_changes_nothing(target, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("diffusers_rec.core.files.os.replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            small(1).save_pretrained(target)


def test_saving_below_a_file_is_an_error_and_leaves_the_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(OSError, match="could not be written"):
            small().save_pretrained(folder)
    assert listing(tmp_path) == {"file": b"mine"}


def test_a_disk_that_fills_up_in_the_middle_of_a_file_changes_nothing(target):
    """A limit on the size of files, in a process of its own, stands for the full disk."""
    script = f"""
import resource, torch
from diffusers_rec.core.checkpoint import write_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for weights, items in ((100_000, 10), (10, 100_000)):
    try:
        write_checkpoint({str(target)!r}, {{}}, {{"w": torch.zeros(weights)}}, ["x" * items])
    except OSError as error:
        print(error)
"""
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert told.count("could not be written (File too large. The system limits") == 2
    assert told.count("nothing was changed") == 2


def test_an_interrupt_after_the_last_rename_leaves_the_new_checkpoint_whole(tmp_path, monkeypatch):
    model = DiffRec(ITEMS, dim=8, max_length=4)
    model.save_pretrained(tmp_path / "m")
    other = DiffRec(ITEMS, dim=8, max_length=4, seed=1)
    replace = os.replace

    def then_interrupt(source, target):
        replace(source, target)
        if Path(target).name == "config.json":
            raise KeyboardInterrupt

    monkeypatch.setattr("diffusers_rec.core.files.os.replace", then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        other.save_pretrained(tmp_path / "m")
    assert torch.equal(DiffRec.from_pretrained(tmp_path / "m").embedding.weight, other.embedding.weight)


def test_a_config_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["Bert"]}')
    with pytest.raises(ValueError, match="belongs to something else"):
        DiffRec(ITEMS, dim=8, max_length=4).save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_loaded_model_is_ready_to_serve(tmp_path):
    DiffRec(ITEMS, dim=8, max_length=4).save_pretrained(tmp_path / "m")
    assert not any(module.training for module in DiffRec.from_pretrained(tmp_path / "m").modules())


# Several writers, and files of somebody else


def write_often(folder, seed, times):
    """A process of its own that saves one model again and again."""
    script = f"""
import torch
from tests.test_checkpoint import small
torch.set_num_threads(1)
for _ in range({times}):
    small({seed}).save_pretrained({str(folder)!r})
"""
    return subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1])


def test_two_writers_and_a_reader_see_whole_models(tmp_path):
    models = [small(seed) for seed in (0, 1)]
    models[0].save_pretrained(tmp_path)
    writers = [write_often(tmp_path, seed, 15) for seed in (0, 1)]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        weight = DiffRec.from_pretrained(tmp_path).embedding.weight
        assert any(torch.equal(weight, model.embedding.weight) for model in models)
        reads += 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert reads > 0
    assert any(torch.equal(DiffRec.from_pretrained(tmp_path).embedding.weight, m.embedding.weight) for m in models)
    assert len(listing(tmp_path)) == 3


def test_a_folder_that_is_locked_is_refused_with_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers_rec.core.checkpoint.WAIT", 0.1)
    small(0).save_pretrained(tmp_path)
    refused = []

    def save():
        with pytest.raises(ValueError, match="is in use: another process or thread is writing to it"):
            small(1).save_pretrained(tmp_path)
        refused.append(True)

    with folder_lock(tmp_path, wait=0):
        small(0).save_pretrained(tmp_path)  # who holds it may write
        thread = threading.Thread(target=save)
        thread.start()
        thread.join()
    assert refused
    assert_same(small(0), DiffRec.from_pretrained(tmp_path))


LOOK_ALIKES = [
    "model-0123456789ab.safetensors",
    "items-0123456789ab.json",
    "log.jsonl",
    ".config.json.abcd1234",
    ".log.jsonl.abcd1234",
    ".config.json.diffusers_rec-notours",
]


def test_files_that_only_look_like_the_librarys_own_are_left_alone(tmp_path):
    small(0).save_pretrained(tmp_path)
    for name in LOOK_ALIKES:
        (tmp_path / name).write_text("not yours")
    for seed in (1, 0):
        small(seed).save_pretrained(tmp_path)
    assert len(listing(tmp_path)) == 3 + len(LOOK_ALIKES)
    assert all((tmp_path / name).read_text() == "not yours" for name in LOOK_ALIKES)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("kind", ["model", "items"])
def test_a_file_in_the_place_of_a_new_one_is_not_overwritten(kind, older, tmp_path):
    small(1).save_pretrained(tmp_path / "elsewhere")
    name = next(name for name in listing(tmp_path / "elsewhere") if name.startswith(kind))
    folder = tmp_path / "here"
    if older:
        build(items=range(24)).save_pretrained(folder)
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("not yours")
    before = listing(folder)
    with pytest.raises(ValueError, match=f"{name} was not written by this library and is not overwritten"):
        small(1).save_pretrained(folder)
    assert listing(folder) == before


def test_a_file_whose_content_was_replaced_survives_its_checkpoint(tmp_path):
    small(0).save_pretrained(tmp_path)
    name = next(name for name in listing(tmp_path) if name.startswith("model"))
    (tmp_path / name).write_text("not yours")
    small(1).save_pretrained(tmp_path)
    assert (tmp_path / name).read_text() == "not yours"
    assert_same(small(1), DiffRec.from_pretrained(tmp_path))


def test_a_config_cannot_name_a_file_of_somebody_else_as_its_own(tmp_path):
    small(0).save_pretrained(tmp_path)
    (tmp_path / "thesis.json").write_text("[]")
    edit(tmp_path, sign=True, items={"file": "thesis.json", "sha256": hashlib.sha256(b"[]").hexdigest()})
    with pytest.raises(ValueError, match="lacks items"):
        DiffRec.from_pretrained(tmp_path)
    small(1).save_pretrained(tmp_path)
    assert (tmp_path / "thesis.json").read_text() == "[]"


def test_what_a_killed_writer_left_is_removed(tmp_path):
    small(0).save_pretrained(tmp_path)
    (tmp_path / ".config.json.diffusers_rec-0123abcd").write_text("half")
    small(1).save_pretrained(tmp_path)
    assert len(listing(tmp_path)) == 3


@pytest.mark.parametrize("call", [small().save_pretrained, DiffRec.from_pretrained])
def test_an_empty_path_is_not_the_working_folder(call):
    with pytest.raises(ValueError, match=r"directory must be a path, got ''"):
        call("")
