"""The benchmarks measure what they say: the baseline is the library's mathematics, and the harness keeps its word."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import draw, plots
from benchmarks.chains import exact_draws
from benchmarks.harness import (
    Results,
    Timing,
    argument_parser,
    at_least,
    command,
    compare,
    extrapolated,
    parse,
)
from benchmarks.load import is_equal, serial
from benchmarks.naive import NaiveDSR, NaiveTraining, every_prefix, pad_in_front
from benchmarks.words import words
from diffusers_rec import (
    Batch,
    DDPMSampler,
    DiffRec,
    SyntheticWorld,
    TrainingBatches,
)
from diffusers_rec.data import pad
from diffusers_rec.evaluation.landing import landing
from diffusers_rec.presets import paper
from diffusers_rec.recommenders.ranking import top_k

ROOT = Path(__file__).parents[1]


def programs(folder: str) -> list[str]:
    found = (ROOT / folder).glob("*.py")
    return sorted(path.stem for path in found if 'if __name__ == "__main__"' in path.read_text())


PROGRAMS = [name for name in programs("benchmarks") if name not in ("draw", "peers")]  # peers needs other libraries
PAPER_PROGRAMS = programs("benchmarks/paper")
NUM_ITEMS, DIM, LENGTH, NUM_TIMESTEPS = 30, 16, 8, 12


@pytest.fixture
def model() -> DiffRec:
    built = paper(range(NUM_ITEMS), dim=DIM, max_length=LENGTH, dropout=0.0, seed=1)
    config = built.config() | {"schedule": {"name": "sqrt", "num_timesteps": NUM_TIMESTEPS}, "timesteps": "importance"}
    return DiffRec.from_config(range(NUM_ITEMS), config).double()


@pytest.fixture
def naive(model) -> NaiveDSR:
    copied = NaiveDSR(NUM_ITEMS, DIM, LENGTH, dropout=0.0, num_timesteps=NUM_TIMESTEPS).double()
    copied.copy_weights(model)
    return copied.eval()


@pytest.fixture
def histories():
    generator = np.random.default_rng(0)
    return [generator.integers(NUM_ITEMS, size=length) for length in (1, 2, 5, 7, 7)]


def with_place_for_target(histories):
    return pad_in_front([np.append(history, 0) for history in histories], LENGTH)


@pytest.mark.parametrize(("sampler", "num_steps"), [(None, 1), (DDPMSampler(), NUM_TIMESTEPS)])
def test_naive_draws_the_same_latents(model, naive, histories, sampler, num_steps):
    ours = model.next_item_latents(pad(histories), seeds=[3, 5], sampler=sampler)
    with torch.no_grad():
        theirs = [naive.sample(*with_place_for_target(histories), seed, num_steps) for seed in (3, 5)]
    torch.testing.assert_close(torch.stack(theirs, dim=1), ours, rtol=0, atol=1e-9)


def test_naive_ranks_the_same_items(model, naive, histories):
    ours = top_k(model.score(pad(histories), seeds=[3, 5]), 5)
    with torch.no_grad():
        scores, items = naive.top_k(*with_place_for_target(histories), 5, seeds=[3, 5])
    assert torch.equal(items, ours.items)
    torch.testing.assert_close(scores, ours.scores, rtol=0, atol=1e-9)


def test_naive_has_the_same_training_loss(model, naive, histories):
    whole = [np.append(history, row) for row, history in enumerate(histories)]
    history = pad(whole)
    generator = torch.Generator().manual_seed(7)
    timesteps, weights = model.timesteps.sample((len(whole), 1), torch.Generator().manual_seed(8))
    noise = torch.randn(len(whole), 1, 1, DIM, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    # The pipeline draws timesteps, then noise, from one generator.
    ours = model.eval().loss(Batch(history, history.lengths[:, None] - 1), generator)
    again = torch.Generator().manual_seed(7)
    timesteps, weights = model.timesteps.sample((len(whole), 1), again)
    noise = torch.randn(len(whole), 1, 1, DIM, generator=again, dtype=torch.float64)
    loss, distance = naive.loss(*pad_in_front(whole, LENGTH), timesteps[:, 0], weights[:, 0].double(), noise[:, 0, 0])
    torch.testing.assert_close(loss, ours.total, rtol=0, atol=1e-9)
    torch.testing.assert_close(distance, ours.per_latent, rtol=0, atol=1e-9)


def test_naive_trains_on_every_prefix():
    sequences = SyntheticWorld(NUM_ITEMS, num_groups=2).sample(6, max_length=6).sequences()
    items, real = every_prefix(sequences, LENGTH)
    assert len(items) == TrainingBatches(sequences).num_targets
    assert bool(real[:, -2:].all())
    training = NaiveTraining(NaiveDSR(NUM_ITEMS, DIM, LENGTH, num_timesteps=NUM_TIMESTEPS), sequences, batch_size=4)
    before = training.model.head.weight.clone()
    training.step()
    assert not torch.equal(before, training.model.head.weight)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/below"):
        with pytest.raises(SystemExit):
            parse(argument_parser("A program."), ["--out", str(tmp_path / out)])
        assert "error: --out: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"), [(KeyboardInterrupt(), "Stopped.*the same command goes on"), (ValueError("wrong"), "^wrong$")]
)
def test_a_long_program_ends_in_one_line(error, words):
    def main():
        raise error

    with pytest.raises(SystemExit, match=words):
        command(main)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_a_number_of_things_is_one_at_least(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 1 on, got"):
        at_least(1)(text)
    assert at_least(-2)("-2") == -2


def test_compare_calls_in_turn_and_counts_after_the_warmup():
    called = []
    timings = compare({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, repeats=3, warmup=2, calls=2)
    assert "".join(called) == "abab" + "aabb" * 3
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3}


def test_compare_keeps_to_its_budget_but_counts_one_round():
    timings = compare({"a": lambda: time.sleep(0.01)}, repeats=9, warmup=0, budget=0.025)
    assert 1 <= len(timings["a"].seconds) <= 3
    assert len(compare({"a": int}, repeats=9, warmup=0, budget=0)["a"].seconds) == 1


def test_a_ratio_is_taken_within_the_rounds():
    slow, fast = Timing((2.0, 20.0, 6.0)), Timing((1.0, 10.0, 2.0))
    assert slow.over(fast) == 2.0
    assert extrapolated(fast, slow, count=2, wanted=3).seconds == (3.0, 30.0, 10.0)


def test_results_are_written_and_their_ratios_are_the_last_lines(tmp_path, capsys):
    options = parse(argument_parser("A program."), ["--quick", "--out", str(tmp_path / "new"), "--seed", "3"])
    results = Results("thing", options)
    results.add({"what": "a"}, Timing((1.0, 3.0, 2.0)))
    results.add({"what": "b", "more": 1})
    results.ratio("b_vs_a", 0.5, "<= 1")
    drawn = []
    results.write(lambda path, rows: drawn.append((path.name, [row["what"] for row in rows])))
    assert drawn == [("thing-quick.png", ["a", "b"])]
    assert capsys.readouterr().out.splitlines()[-1] == "b_vs_a: 0.5"
    with (tmp_path / "new" / "thing-quick.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["median_seconds"], first["min_seconds"], first["repeats"], first["seed"]) == ("2.0", "1.0", "3", "3")
    assert {"p10_seconds", "p90_seconds", "threads", "cpu", "torch", "python", "diffusers_rec", "date"} <= first.keys()
    assert (second["more"], second["median_seconds"]) == ("1", "")
    ratios = (tmp_path / "new" / "thing-quick-ratios.csv").read_text().splitlines()
    assert ratios == ["name,value,target", "b_vs_a,0.5,<= 1"]
    again = Results("thing", options)
    again.add({"what": "c"})
    again.write()
    assert not list((tmp_path / "new").glob("*ratios*")), "ratios of other rows"


def test_exact_draws_follow_the_probabilities():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    draw = {"draws": 20_000, "generator": torch.Generator().manual_seed(0)}
    found = landing([(exact_draws(probabilities, **draw), probabilities)])
    assert found["probability"] == pytest.approx(probabilities.square().sum(1).mean().item(), abs=0.01)
    assert found["distinct"] == 3
    assert exact_draws(probabilities, candidates=1, **draw).unique(dim=1).tolist() == [[0], [2]]


@pytest.mark.parametrize("name", [*PROGRAMS, "peers", *(f"paper.{name}" for name in PAPER_PROGRAMS)])
def test_every_program_answers_help(name, capsys):
    with pytest.raises(SystemExit) as left:
        import_module(f"benchmarks.{name}").main(["--help"])
    assert left.value.code == 0
    assert "--quick" in capsys.readouterr().out


def test_make_bench_runs_every_program():
    (line,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("BENCHMARKS"))
    assert sorted(line.partition(":=")[2].split()) == PROGRAMS


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_runs_quickly_and_ends_with_its_ratios(name, tmp_path):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    with (tmp_path / f"{name}-quick-ratios.csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    last = dict(line.split(": ") for line in done.stdout.splitlines()[-len(names) :])
    assert names
    assert list(last) == names
    assert all(float(value) > 0 for value in last.values())
    assert (tmp_path / f"{name}-quick.csv").is_file()
    assert (tmp_path / f"{name}-quick.png").is_file()


def test_our_side_of_peers_trains_and_serves(tmp_path):
    log = tmp_path / "log.txt"
    walks = [[user, *(1 + (user + place) % 15 for place in range(6))] for user in range(20)]
    log.write_text("".join(" ".join(map(str, walk)) + "\n" for walk in walks))
    command = [sys.executable, "-c", "from benchmarks.peer_workers import work; work()", "diffusers_rec", str(log), "1"]
    requests = '["train", 1]\n["serve", 10]\n'
    done = subprocess.run(command, cwd=ROOT, input=requests, capture_output=True, text=True, check=True)
    about, (training, targets), (serving, _) = map(json.loads, done.stdout.splitlines())
    assert about["epoch_targets"] == targets == 20 * 3
    assert min(training, serving) > 0


SCORES = [
    {"dataset": "toys", "history": "masked", "source": "", "setting": setting, "ndcg@10": ndcg, "hr@10": "0.5"}
    for setting, ndcg in [("10", "0.1"), ("10", "0.3"), ("20", "0.4")]
]
UNMASKED = SCORES[0] | {"history": "unmasked", "ndcg@10": "9", "hr@10": "9"}
PRINTED = SCORES[2] | {"source": "a paper", "history": "not said", "model": "DiffRec", "ndcg@10": "0.7", "hr@10": "0.6"}


def test_score_dots_show_means_standard_deviations_and_the_printed_line():
    figure = plots.canvas(5, 5)
    plots.score_dots(figure, [*SCORES, UNMASKED, PRINTED], label="setting")
    ndcg, _ = figure.axes
    dots, *_, printed = ndcg.lines
    assert dots.get_xdata() == pytest.approx([0.2, 0.4])
    (bars,) = ndcg.collections
    (low, high), (same, again) = (segment[:, 0] for segment in bars.get_segments())
    assert (high - low) / 2 == pytest.approx(0.02**0.5)
    assert same == again
    assert [axis.lines[-1].get_xdata()[0] for axis in figure.axes] == [0.7, 0.6]
    assert printed.get_label() == "DiffRec as printed"


def test_score_lines_follow_the_numbers_and_mark_the_printed_score():
    figure = plots.canvas(5, 5)
    plots.score_lines(figure, [SCORES[2], *SCORES[:2], UNMASKED, PRINTED], label="steps")
    ndcg, _ = figure.axes
    assert ndcg.lines[0].get_ydata() == pytest.approx([0.2, 0.4])
    ((place, height),) = (line.get_xydata()[0] for line in ndcg.lines if line.get_marker() == "*")
    assert (place, height) == (1, 0.7)


def test_dots_have_bars_of_the_percentiles(tmp_path):
    seconds = {"median_seconds": "2", "p10_seconds": "1", "p90_seconds": "4", "targets": "8", "targets_per_second": "4"}
    assert plots._spread(seconds, "median_seconds") == (1, 2)
    assert plots._spread(seconds, "targets_per_second") == (2, 4)
    assert plots._spread({"distinct": "3", "distinct_noise": "0.5"}, "distinct") == (0.5, 0.5)
    assert plots._spread({"distinct": "3"}, "distinct") == (0, 0)
    plots.dots(
        tmp_path / "dots.png", [seconds | {"name": "a"}], names=["name"], panels={"median_seconds": "s"}, log=True
    )
    assert (tmp_path / "dots.png").is_file()


def test_dots_leave_out_what_is_not_printed(tmp_path):
    rows = [{"name": "a", "hr@10": "0.1", "ndcg@10": ""}, {"name": "b", "hr@10": "", "ndcg@10": ""}]
    plots.dots(tmp_path / "dots.png", rows, names=["name"], panels={"hr@10": "HR@10", "ndcg@10": "NDCG@10"})
    assert (tmp_path / "dots.png").is_file()


def test_a_name_is_shown_in_words():
    assert words("paper-from-last-item, 3 trainings together") == "paper, SNR fixed, last-item residual, ensemble of 3"
    assert words("SASRec, 256 sampled negatives") == "SASRec, 256 sampled negatives"


@pytest.mark.slow
def test_every_picture_is_drawn_again_from_its_csv(tmp_path):
    for table in (ROOT / "benchmarks" / "results").glob("*.csv"):
        shutil.copy(table, tmp_path)
    draw.main([*map(str, tmp_path.glob("*.csv"))])
    committed = {path.name for path in (ROOT / "benchmarks" / "results").glob("*.png") if "-quick" not in path.name}
    assert {path.name for path in tmp_path.glob("*.png")} == committed


def test_an_answer_under_load_is_the_list_of_the_model(model):
    def answer(**options):
        return [{"item": item, "score": score} for item, score, _ in model.recommend([seen], 10, **options)[0]]

    seen = list(range(15))
    expected, rows = serial(model, seen), answer()
    tied = list(expected)[10]
    assert is_equal(rows, expected)
    assert is_equal([*rows[:-1], {"item": tied, "score": rows[-1]["score"]}], expected | {tied: rows[-1]["score"]})
    assert not is_equal([*rows[:-1], {"item": tied, "score": expected[tied]}], expected)
    assert not is_equal(answer(exclude_seen=False), expected)
    assert not is_equal(rows[:-1], expected)
    assert not is_equal([*rows[:-1], rows[-2]], expected)
    assert not is_equal(rows[::-1], expected)
    assert not is_equal([{**row, "score": 1.01 * row["score"]} for row in rows], expected)
