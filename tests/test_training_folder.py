"""The folder of a run: it takes one run, and refuses damaged and foreign files."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import CONFIG, SPLIT, build, end, files, fit, uninterrupted

from diffusers_rec import DiffRec, Holdout, Interactions, Sequences, SqrtSchedule, Vocabulary
from diffusers_rec.core.checkpoint import CONFIG_FILE
from diffusers_rec.core.verified import read_verified, write_verified
from diffusers_rec.training import train
from diffusers_rec.training.run_store import LOG_FILE
from diffusers_rec.training.state import STATE_FILE


def test_a_directory_takes_one_run_alone(tmp_path):
    fit(tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    renamed = Vocabulary([f"other {item}" for item in SPLIT.train.vocabulary.ids])
    train_renamed, histories_renamed = (
        Sequences(part.items, part.offsets, part.users, renamed) for part in (SPLIT.train, SPLIT.validation.histories)
    )
    config = replace(CONFIG, epochs=1)
    fewer = SPLIT.train.take(range(90))
    others = {
        "settings": (build(), SPLIT.train, SPLIT.validation, replace(config, learning_rate=1e-4)),
        "epochs": (build(), SPLIT.train, SPLIT.validation, replace(config, epochs=2)),
        "model": (build(head="linear"), SPLIT.train, SPLIT.validation, config),
        "weights": (build(seed=1), SPLIT.train, SPLIT.validation, config),
        "data": (build(), fewer, SPLIT.validation, config),
        "validation": (build(), SPLIT.train, SPLIT.test, config),
        "items": (
            build(vocabulary=renamed), train_renamed, Holdout(histories_renamed, SPLIT.validation.targets), config
        ),
    }  # fmt: skip
    for other in others.values():
        with pytest.raises(ValueError, match="holds a run with other settings, other data"):
            train(*other, directory=tmp_path, device="cpu")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("damage", ["cut", "empty", "byte", "progress", "text"])
def test_a_damaged_state_is_refused(damage, tmp_path):
    fit(tmp_path, epochs=1)
    path = tmp_path / STATE_FILE
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "cut": data[:middle],
            "empty": b"",
            "byte": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "progress": data.replace(b'best_epoch\\": 1', b'best_epoch\\": 0'),
            "text": b"no state at all, but long enough to be one",
        }[damage]
    )
    assert path.read_bytes() != data
    model = build()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"cannot be used .* Delete the folder"):
        fit(tmp_path, model=model, epochs=1)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_a_folder_that_holds_another_model_is_left_as_it_is(tmp_path):
    (tmp_path / CONFIG_FILE).write_text("{}")
    (tmp_path / ".config.json.abcdefgh").touch()
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"holds a config\.json that no run here has written"):
        fit(tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", [LOG_FILE, STATE_FILE])
def test_a_file_of_others_is_not_overwritten(name, tmp_path):
    (tmp_path / name).write_text('{"epoch": 1, "loss": 0.5}\n')
    before = files(tmp_path)
    with pytest.raises(
        ValueError, match=rf"{name} (is not the log of this run, and is not overwritten|cannot be used)"
    ):
        fit(tmp_path)
    assert files(tmp_path) == before


def test_a_log_that_was_replaced_is_not_overwritten(tmp_path):
    fit(tmp_path, epochs=1)
    (tmp_path / LOG_FILE).write_text('{"epoch": 1, "loss": 0.5}\n')
    before = files(tmp_path)
    with pytest.raises(ValueError, match="is not the log of this run"):
        fit(tmp_path, epochs=1)
    assert files(tmp_path) == before


def test_a_second_run_in_the_folder_is_refused_and_harms_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers_rec.training.run_store.WAIT", 0.1)
    refused = []

    def second():
        with pytest.raises(ValueError, match="is in use: another process or thread is writing to it"):
            fit(tmp_path)
        refused.append(True)

    def on_epoch(_):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    model, result = fit(tmp_path, on_epoch=on_epoch)
    assert len(refused) == 3
    assert end(model, result) == uninterrupted()


@pytest.mark.parametrize("change", ["epoch", "history", "record", "best", "text", "nothing"])
def test_a_state_whose_numbers_do_not_fit_is_refused(change, tmp_path):
    fit(tmp_path, epochs=1)
    metadata, tensors = read_verified(tmp_path / STATE_FILE)
    progress = json.loads(metadata["progress"])
    changed = {
        "epoch": progress | {"epoch": 7},
        "history": progress | {"history": {}},
        "record": progress | {"history": [3]},
        "best": progress | {"best_epoch": 2},
        "text": "text",
        "nothing": {},
    }[change]
    write_verified(tmp_path / STATE_FILE, {**metadata, "progress": json.dumps(changed)}, tensors)
    with pytest.raises(ValueError, match=f"{STATE_FILE} cannot be used .* Delete the folder"):
        fit(tmp_path, epochs=1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.embedding.weight", lambda tensor: tensor.to(torch.int32)),
        ("model.embedding.weight", lambda tensor: tensor[1:].contiguous()),
        ("model.embedding.weight", lambda tensor: tensor * torch.nan),
        ("model.timesteps.losses", lambda tensor: tensor[1:].contiguous()),
        ("optimizer.0.exp_avg", lambda tensor: tensor[1:].contiguous()),
        ("optimizer.0.step", None),
        ("model.embedding.weight", None),
        ("optimizer.999.step", lambda _: torch.tensor(1.0)),
    ],
)
def test_a_state_whose_tensors_do_not_fit_is_refused(name, change, tmp_path):
    fit(tmp_path, epochs=1)
    metadata, tensors = read_verified(tmp_path / STATE_FILE)
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors.get(name))
    write_verified(tmp_path / STATE_FILE, metadata, tensors)
    with pytest.raises(ValueError, match=f"{STATE_FILE} cannot be used .* Delete the folder"):
        fit(tmp_path, epochs=1)


@pytest.mark.parametrize("place", ["under a file", "a file", "read-only"])
def test_an_unwritable_directory_is_reported_before_training(place, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers_rec.training.run_store.WAIT", 0.1)
    (tmp_path / "file").touch()
    file = tmp_path / "file"
    directory = {"under a file": file / "run", "a file": file, "read-only": Path("/proc/self")}[place]
    if place == "read-only" and not directory.is_dir():
        pytest.skip("no folder here that even root cannot write")
    model = build()
    model.forward = lambda *_: pytest.fail("it trained")
    with pytest.raises(OSError, match=r"\[Errno|is a file; a run needs a folder"):
        fit(directory, model=model)


def test_ids_that_cannot_be_saved_are_refused_before_training(tmp_path):
    split = Interactions.from_arrays(
        [u for u in range(9) for _ in range(5)], [(i,) for _ in range(9) for i in range(5)]
    )
    split = split.sequences().leave_one_out()
    model = DiffRec(split.train.vocabulary, dim=8, max_length=4)
    with pytest.raises(TypeError, match="id"):
        train(model, split.train, split.validation, replace(CONFIG, epochs=1), directory=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_model_that_no_run_has_made_is_not_overwritten(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a config\.json that no run here has written"):
        fit(tmp_path, model=model)


def test_a_part_without_a_name_trains_where_nothing_is_saved():
    class Unnamed(SqrtSchedule):
        pass

    result = train(build(schedule=Unnamed(20)), SPLIT.train, SPLIT.validation, replace(CONFIG, epochs=1), device="cpu")
    assert result.best_epoch == 1


def test_the_log_has_one_record_an_epoch(tmp_path):
    records = []
    _, result = fit(tmp_path, on_epoch=records.append)
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history == records
    assert [row["epoch"] for row in records] == [1, 2, 3]
    for row in records:
        assert {"reconstruction", "recommendation", "learning_rate", "targets_per_second"} < set(row)
        assert all(math.isfinite(value) for value in row.values())


def test_nothing_is_written_without_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(epochs=1)
    assert not files(tmp_path)


def test_a_run_of_an_older_format_is_refused(tmp_path):
    fit(tmp_path, epochs=1)
    metadata, tensors = read_verified(tmp_path / STATE_FILE)
    old = {name: metadata[name] for name in ("run", "progress")}
    write_verified(tmp_path / STATE_FILE, old, tensors)
    with pytest.raises(
        ValueError, match=r"another version of this library wrote it.*cannot be resumed.*Delete the folder"
    ):
        fit(tmp_path, epochs=1)


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved["groups"].append({}),
        lambda saved: saved["groups"][0].update(eps="small"),
        lambda saved: saved["groups"][0].pop("lr"),
        lambda saved: saved["state"]["0"].update(step="first"),
        lambda saved: saved["state"]["0"].pop("step"),
        lambda saved: saved["state"].update({"999": {"count": 1}}),
        lambda saved: saved.pop("state"),
    ],
)
def test_numbers_of_an_optimizer_that_do_not_fit_are_refused(change, tmp_path):
    fit(tmp_path, epochs=1)
    metadata, tensors = read_verified(tmp_path / STATE_FILE)
    saved = json.loads(metadata["optimizer"])
    change(saved)
    write_verified(tmp_path / STATE_FILE, {**metadata, "optimizer": json.dumps(saved)}, tensors)
    model = build()
    weights = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with pytest.raises(ValueError, match=f"{STATE_FILE} cannot be used .* Delete the folder"):
        fit(tmp_path, model=model, epochs=1)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.named_parameters())


def test_other_features_of_the_items_are_another_run(tmp_path):
    def model(seed):
        embedding = {"name": "features", "num_features": 3}
        built = DiffRec(SPLIT.train.vocabulary, dim=8, max_length=12, embedding=embedding)
        built.embedding.set_features(
            torch.randn(len(built.vocabulary), 3, generator=torch.Generator().manual_seed(seed))
        )
        return built

    config = replace(CONFIG, epochs=1)
    train(model(0), SPLIT.train, SPLIT.validation, config, directory=tmp_path)
    with pytest.raises(ValueError, match="holds a run with other settings, other data"):
        train(model(1), SPLIT.train, SPLIT.validation, config, directory=tmp_path)
