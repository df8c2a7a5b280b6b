"""The programs that examine one trained model: figures 6 and 7, and the audit of its noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.harness import read_csv, write_csv
from benchmarks.paper import figure6, figure7, noise
from benchmarks.paper.serving import with_exact_posterior
from diffusers_rec import DDPMSampler, DiffRec, OneStepSampler, read_interactions
from diffusers_rec.evaluation import evaluate
from diffusers_rec.presets import best, control

DIM, LENGTH = 16, 8


@pytest.fixture(scope="module")
def saved(data_dir, tmp_path_factory) -> Path:
    """A small model of the movies, untrained except for its memory."""
    folder = tmp_path_factory.mktemp("model")
    train = read_interactions(data_dir / "ml-1m.txt").sequences().leave_one_out().train
    model = best(train.vocabulary, dim=DIM, max_length=LENGTH, seed=2)
    model.memory.fit(train)
    torch.nn.init.normal_(
        model.denoiser.out.weight, generator=torch.Generator().manual_seed(0)
    )  # so that the noise matters
    model.save_pretrained(folder)
    return folder


def test_a_model_of_other_items_or_without_noise_is_refused(saved, options_of, tmp_path):
    other = best(range(5), dim=DIM, max_length=LENGTH)
    other.save_pretrained(tmp_path / "other")
    control(DiffRec.from_pretrained(saved)).save_pretrained(tmp_path / "control")
    options = options_of("--model", str(tmp_path / "other"))
    for program, about in (
        (figure6, ["--user", "7"]), (figure7, ["--dataset", "toys"]), (noise, ["--dataset", "toys"]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="other was trained on other items than those of"):
            program.main([*options, *about])
    with pytest.raises(ValueError, match="control is a control: its denoiser never sees noise"):
        noise.main(options_of("--model", str(tmp_path / "control"), "--dataset", "ml-1m"))


@pytest.mark.parametrize("program", [figure6, figure7, noise])
def test_chains_longer_than_the_schedule_are_refused_before_training(program, saved, options_of, tmp_path):
    about = ["--user", "7"] if program is figure6 else ["--dataset", "ml-1m"]
    for model in ([], ["--model", str(saved)]):
        with pytest.raises(ValueError, match="--steps must be at most num_timesteps=1000, the model's N, got 1001"):
            program.main(options_of(*about, *model, "--steps", "1001"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("chains", [False, True])
def test_seeds_are_averaged_as_evaluation_does(chains, saved, data_dir):
    model = DiffRec.from_pretrained(saved)
    test = read_interactions(data_dir / "ml-1m.txt").sequences().leave_one_out().test
    sampler = DDPMSampler("posterior", num_steps=5) if chains else OneStepSampler()
    serving = with_exact_posterior(model) if chains else model
    found = figure7.reports(serving, test, 4, sampler, batch_size=7)
    assert found == [evaluate(serving, test, seeds=seeds, sampler=sampler, memory=False) for seeds in (1, 2, 3, 4)]
    assert len({report.metrics(exclude_seen=False)["ndcg@10"] for report in found}) > 1, "the seeds changed nothing"


def test_the_exact_posterior_leaves_the_model_as_it_was(saved):
    model = DiffRec.from_pretrained(saved)
    before = model.config()
    sampling = with_exact_posterior(model)
    assert model.config() == before
    assert sampling.denoiser.base is not model.denoiser
    assert (sampling.config()["denoiser"]["name"], sampling.denoiser.schedule) == ("posterior", sampling.schedule)


def test_figure7_examines_a_given_model(saved, options_of, tmp_path):
    options = options_of("--model", str(saved), "--most", "3", "--steps", "4", "--users", "20")
    for program, more in ((figure7, []), (noise, ["--users", "20"])):
        with pytest.raises(ValueError, match=r"--model is one model: name the data set .* --dataset"):
            program.main([*options_of("--model", str(saved)), *more])
    figure7.main([*options, "--dataset", "ml-1m"])
    rows = [row for row in read_csv(tmp_path / "figure7-of-a-model.csv") if row["history"] == "masked"]
    assert [(row["model"], row["setting"], row["users"]) for row in rows] == [
        (name, str(seeds), "20") for name in ("one step", "chains of 4 steps") for seeds in (1, 2, 3)
    ]
    assert (tmp_path / "figure7-of-a-model.png").is_file()
    assert not (tmp_path / "runs").exists()


def test_noise_audits_a_given_model(saved, options_of, tmp_path):
    chosen = ["--model", str(saved), "--dataset", "ml-1m", "--steps", "4", "--users", "20"]
    noise.main(options_of(*chosen))
    rows = read_csv(tmp_path / "noise-of-a-model.csv")
    assert {row["table"] for row in rows} == {"ranking", "timesteps", "chains"}
    assert {row["users"] for row in rows} == {"20"}


def test_figure6_lists_movies_and_marks_the_one_that_came_next(saved, options_of, data_dir, tmp_path):
    options = ["--model", str(saved), "--user", "7", "--k", "21", "--steps", "4"]
    figure6.main(options_of(*options))
    rows = read_csv(tmp_path / "figure6-of-a-model.csv")
    line = (data_dir / "ml-1m.txt").read_text().splitlines()[6].split()
    shown = {name: [row for row in rows if row["list"] == name] for name in (figure6.WATCHED, figure6.NEXT)}
    assert [row["item"] for row in shown[figure6.WATCHED]] == line[1:-1]
    assert [row["item"] for row in shown[figure6.NEXT]] == line[-1:]
    assert {row["item"] for row in rows if row["hit"] == "True"} == {line[-1]}
    lists = {}
    for row in rows:
        if row["serving"]:
            lists.setdefault((row["serving"], row["list"]), []).append(row)
            assert row["title"] == f"Film {int(row['item']) - 1}"
            assert row["item"] not in line[1:-1]
    names = [*(f"seed {seed}" for seed in range(3)), "average"]
    assert list(lists) == [(serving, name) for serving in ("one step", "chains of 4 steps") for name in names]
    assert len({tuple(row["item"] for row in lists["chains of 4 steps", name]) for name in names[:3]}) == 3
    assert (tmp_path / "figure6-of-a-model.png").is_file()


def test_figure6_refuses_unknown_users_and_untitled_movies_before_training(options_of, data_dir, tmp_path):
    with pytest.raises(ValueError, match="--user 5200 is none of the 40 users of ml-1m"):
        figure6.main(options_of())
    titles = read_csv(data_dir / "ml-1m_items.csv")
    write_csv(tmp_path / "ml-1m_items.csv", titles[:-2])
    (tmp_path / "ml-1m.txt").write_bytes((data_dir / "ml-1m.txt").read_bytes())
    with pytest.raises(ValueError, match=r"ml-1m_items.csv has no row for item .*; 2 items lack theirs"):
        figure6.main(options_of("--data-dir", str(tmp_path), "--user", "7"))
    assert not (tmp_path / "runs").exists()


def test_favourite_genres_are_the_most_common():
    assert figure6.favourite_genres(["A|B", "B|C", "C|B", "D"], count=2) == {"B", "C"}
