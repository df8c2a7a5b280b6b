"""The benchmarks measure what they say: the yardstick is the library's mathematics, and the harness keeps its word."""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import plots
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
    read_csv,
    write_csv,
)
from benchmarks.naive import NaiveDSR, NaiveTraining, every_prefix, pad_in_front
from benchmarks.paper import figure2, figure3, figure4, figure5, figure6, figure7, noise, recipes, table2, trials
from benchmarks.paper.serving import with_exact_posterior
from diffusers_rec import (
    Batch,
    DDPMSampler,
    DiffRec,
    OneStepSampler,
    SyntheticWorld,
    TrainingBatches,
    Vocabulary,
    read_interactions,
)
from diffusers_rec.data import pad
from diffusers_rec.evaluation import evaluate
from diffusers_rec.evaluation.audit import landing
from diffusers_rec.presets import best, control, paper
from diffusers_rec.recommenders.ranking import top_k

ROOT = Path(__file__).parents[1]


def programs(folder: str) -> list[str]:
    found = (ROOT / folder).glob("*.py")
    return sorted(path.stem for path in found if 'if __name__ == "__main__"' in path.read_text())


PROGRAMS = programs("benchmarks")
PAPER_PROGRAMS = programs("benchmarks/paper")
VARIANTS = {"figure2": figure2, "figure3": figure3, "figure4": figure4, "figure5": figure5}
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
    ours = top_k(model.head, model.next_item_latents(pad(histories), seeds=[3, 5]), 5)
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


@pytest.mark.parametrize("name", [*PROGRAMS, *(f"paper.{name}" for name in PAPER_PROGRAMS)])
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


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """Small files in the places of the real ones, with the movies' titles and genres."""
    folder = tmp_path_factory.mktemp("data")
    for name in trials.DATASETS:
        log = SyntheticWorld(NUM_ITEMS, num_groups=2).sample(40, min_length=5, max_length=9).sequences()
        lines = ([user + 1, *(log.items[log.offsets[user] : log.offsets[user + 1]] + 1)] for user in range(len(log)))
        (folder / f"{name}.txt").write_text("".join(f"{' '.join(map(str, line))}\n" for line in lines))
    movies = [{"item": 1 + i, "title": f"Film {i}", "genres": ("War|Drama", "Comedy")[i % 2]} for i in range(NUM_ITEMS)]
    write_csv(folder / "ml-1m_items.csv", movies)
    return folder


def options_of(data_dir, folder, *more):
    return ["--data-dir", str(data_dir), "--runs", str(folder / "runs"), "--out", str(folder), *more]


def config_of(trial, seed=0):
    """Of the model that it would train, on the tests' items."""
    return trial.build(Vocabulary(range(NUM_ITEMS)), seed).config()


def changed(before, after):
    """The keys whose values differ."""
    return {key for key in before if before[key] != after[key]}


@pytest.mark.parametrize("preset", ["best", trials.ALONE, "paper"])
@pytest.mark.parametrize("dataset", ["beauty", "ml-1m"])
@pytest.mark.parametrize(
    ("name", "parts", "keys"),
    [
        ("figure2", {"schedule"}, {"name", "offset", "max_beta", "beta_start", "beta_end", "rescale"}),
        ("figure3", {"schedule", "timesteps"}, {"num_timesteps"}),
        ("figure4", {"denoiser"}, {"position_embedding", "step_embedding"}),
        ("figure5", {"noising"}, {"name", "k", "ahead", "independent_steps"}),
    ],
)
def test_variants_differ_in_what_the_figure_is_about_and_in_nothing_else(preset, dataset, name, parts, keys):
    built = VARIANTS[name].variants(preset, dataset)
    configs = {label: config_of(trial, seed=3) for label, trial in built.items()}
    default = configs.pop(str(VARIANTS[name].DEFAULT))
    assert len({trial.model for trial in built.values()}) == len(built), "trials share a folder"
    assert len({trial.training for trial in built.values()}) == 1
    for config in configs.values():
        assert changed(config, default) == parts
        for part in parts:
            both = {**default[part], **config[part]}
            assert {key for key in both if config[part].get(key) != default[part].get(key)} - keys == set()


def test_figures_share_the_trial_of_the_table():
    for dataset in trials.DATASETS:
        for preset in ("best", "paper"):
            wanted = table2.trials(dataset)[preset]
            for name in ("figure2", "figure3"):
                found = VARIANTS[name].variants(preset, dataset)[str(VARIANTS[name].DEFAULT)]
                assert (found.model, found.training) == (wanted.model, wanted.training)
                assert config_of(found, seed=1) == config_of(wanted, seed=1)


@pytest.mark.parametrize("preset", recipes.RECIPES_OF)
@pytest.mark.parametrize("dataset", trials.DATASETS)
def test_recipes_differ_and_have_folders_of_their_own(preset, dataset):
    found = recipes.RECIPES_OF[preset](dataset)
    assert len({trial.model for trial in found.values()}) == len(found)
    assert all(trial.model.split("-")[0] == preset for trial in found.values())
    configs = [json.dumps(config_of(trial), sort_keys=True) for trial in found.values()]
    trainings = [str(trial.training) for trial in found.values()]
    assert len(set(zip(configs, trainings, strict=True))) == len(found)


def test_the_paper_is_mended_one_thing_on_top_of_another():
    found = recipes.of_paper("beauty")
    before = config_of(found["paper"])
    for label, (_, parts) in recipes.MENDS.items():
        config = config_of(found[label])
        assert changed(before, config) == set(parts)
        before = config


def test_without_the_step_embedding_each_thing_is_changed_by_itself():
    found = recipes.of_paper("beauty")
    before = config_of(found["no step embedding, signal fixed"])
    for label, (_, parts) in recipes.WITHOUT_STEP.items():
        after = config_of(found[f"no step embedding, signal fixed, {label}"])
        assert changed(before, after) == set(parts)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("paper", "answer out of the last item"),
        ("no step embedding", "no step embedding, answer out of the last item"),
        ("and a fiftieth of the signal", "signal fixed, answer out of the last item"),
        ("no step embedding, signal fixed", "no step embedding, signal fixed, answer out of the last item"),
    ],
)
def test_the_answer_out_of_the_last_item_changes_nothing_else(before, after):
    found = recipes.of_paper("beauty")
    one, other = (config_of(found[label]) for label in (before, after))
    assert changed(one, other) == {"denoiser"}
    assert changed(one["denoiser"], other["denoiser"]) == {"target_token"}
    assert other["denoiser"]["target_token"] == "last-item"
    assert found[before].training == found[after].training


@pytest.mark.parametrize("dataset", trials.DATASETS)
def test_another_network_is_all_that_changes_in_the_paper(dataset):
    whole, other = trials.base("paper", dataset), trials.on_another_network(dataset)
    before, after = config_of(whole), config_of(other)
    assert changed(before, after) == {"denoiser"}
    shared = before["denoiser"].keys() & after["denoiser"].keys()
    assert changed({key: before["denoiser"][key] for key in shared}, after["denoiser"]) == {"name"}
    unlike = changed(whole.training.config(), other.training.config())
    assert unlike == ({"examples"} if dataset == "ml-1m" else set())


@pytest.mark.parametrize("dataset", trials.DATASETS)
def test_mended_the_other_network_has_a_fixed_signal(dataset):
    other, mended = trials.on_another_network(dataset), trials.mended(dataset)
    assert changed(config_of(other), config_of(mended)) == set(trials.FIXED_SIGNAL)
    assert mended.training == other.training


@pytest.mark.parametrize("dataset", trials.DATASETS)
def test_out_of_the_last_item_the_paper_keeps_its_network_and_training(dataset):
    whole, grown = trials.base("paper", dataset), trials.out_of_last_item(dataset)
    before, after = config_of(whole), config_of(grown)
    assert changed(before, after) == {"denoiser", *trials.FIXED_SIGNAL}
    assert changed(before["denoiser"], after["denoiser"]) == {"target_token"}
    assert grown.training == whole.training
    assert recipes.of_paper(dataset)["signal fixed, answer out of the last item"].model == grown.model


@pytest.mark.parametrize("dataset", trials.DATASETS)
def test_in_table_2_it_has_four_epochs_on_ml_1m(dataset):
    grown, in_table = trials.out_of_last_item(dataset), table2.trials(dataset)
    assert f"{grown.model}-control" in in_table
    assert config_of(in_table[grown.model]) == config_of(grown)
    assert in_table[grown.model].training == grown.lasting(4 if dataset == "ml-1m" else 50).training


@pytest.mark.parametrize("dataset", trials.DATASETS)
def test_one_target_a_user_is_the_same_model_for_the_papers_fifty_epochs(dataset):
    whole, short = trials.base("paper", dataset), trials.one_target_a_user(dataset)
    assert config_of(whole) == config_of(short)
    assert changed(whole.training.config(), short.training.config()) <= {"examples", "epochs", "patience"}
    assert (short.training.examples, short.training.epochs, short.training.patience) == ("last-target", 50, 0)
    assert table2.trials(dataset)["paper"].training == whole.training
    assert {short.model, f"{short.model}-control"} < set(table2.trials(dataset))


def test_an_unknown_recipe_is_told_with_those_that_there_are(data_dir, tmp_path, capsys):
    with pytest.raises(SystemExit):
        recipes.main(options_of(data_dir, tmp_path, "--preset", "paper", "--recipes", "no memory"))
    assert "--preset paper has no 'no memory'; there are 'paper', 'noise off (the control)'" in capsys.readouterr().err


def test_recipes_of_a_preset_last_as_long_as_asked(data_dir, tmp_path):
    asked = ["--preset", "paper", "--recipes", "paper", "--epochs", "2", "--dataset", "toys"]
    recipes.main(options_of(data_dir, tmp_path, *asked))
    (row,) = read_csv(tmp_path / "recipes-paper.csv")
    assert (row["dataset"], row["recipe"], row["epochs"]) == ("toys", "paper", "2")
    assert len((tmp_path / "runs" / "toys" / "paper-0-2" / "log.jsonl").read_text().splitlines()) == 2


def test_the_network_alone_is_best_but_for_its_memory():
    whole, alone = (config_of(trials.base(name, "ml-1m")) for name in ("best", trials.ALONE))
    assert alone == {**whole, "memory": {"name": "none"}}


def test_a_part_that_is_changed_keeps_what_both_have():
    model = best(range(NUM_ITEMS), dim=DIM, max_length=9, dropout=0.1, seed=4)
    parts = {"denoiser": {"name": "transformer", "num_heads": 4}, "schedule": {"name": "cosine"}}
    changed = trials.with_parts(model, parts)
    config = changed.config()
    assert config["denoiser"].items() >= {"name": "transformer", "num_heads": 4, "dropout": 0.1, "seed": 13}.items()
    assert (changed.embedding.dim, changed.max_length) == (DIM, 9)
    assert changed.schedule.log_snr_shift == model.schedule.log_snr_shift
    assert {part for part in config if config[part] != model.config()[part]} == {"denoiser", "schedule"}


@pytest.mark.parametrize(
    "name", ["figure2", "figure4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("figure3", "figure5"))]
)
def test_a_figure_goes_on_where_it_was_stopped(name, data_dir, tmp_path, monkeypatch):
    figure = VARIANTS[name]
    default, other = str(figure.DEFAULT), next(iter({*figure.variants("best", "toys")} - {str(figure.DEFAULT)}))
    options = options_of(data_dir, tmp_path, "--dataset", "toys", "--budget", "1", "--variants", default, other)
    full, table, drawn = (tmp_path / each for each in (f"{name}.csv", f"{name}-quick.csv", f"{name}-quick.png"))
    full.write_text("a full result")

    evaluated = []

    def stopped_at_the_second(*args):
        evaluated.append(args)
        if len(evaluated) > 1:
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(trials, "evaluate", stopped_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        figure.main(options)
    assert len({row["setting"] for row in read_csv(table) if not row["source"]}) == 1
    monkeypatch.undo()
    figure.main(options)
    rows = read_csv(table)
    assert {row["setting"] for row in rows} == {default, other}
    assert [row["setting"] for row in rows if row["source"]] == [default]
    logs = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("log.jsonl")}
    assert len(logs) == 2

    monkeypatch.setattr(trials, "evaluate", None)  # whoever evaluates now fails
    figure.main(options)
    assert read_csv(table) == rows
    assert {path: path.stat().st_mtime_ns for path in logs} == logs
    drawn.unlink()
    figure.main(["--plot", "--budget", "1", "--out", str(tmp_path), "--data-dir", "nowhere"])
    assert drawn.is_file()
    assert full.read_text() == "a full result"


def test_a_figure_adds_to_what_is_there(data_dir, tmp_path):
    options = options_of(data_dir, tmp_path, "--budget", "1", "--variants")
    table = tmp_path / "figure3-quick.csv"
    figure3.main([*options, "2000", "10", "--dataset", "toys"])
    first = read_csv(table)
    figure3.main([*options, "50", "1000", "--dataset", "toys", "--add"])
    figure3.main([*options, "10", "--dataset", "beauty", "--seed", "1", "--add"])
    rows = read_csv(table)
    assert [row for row in rows if row["dataset"] == "toys" and row["setting"] in ("10", "2000")] == first[1:]
    ours = [(row["dataset"], row["setting"], row["trained_seed"]) for row in rows if row["history"] == "masked"]
    assert ours == [("beauty", "10", "1"), *(("toys", steps, "0") for steps in ("10", "50", "1000", "2000"))]
    assert [row["dataset"] for row in rows if row["source"]] == ["beauty", "toys"]
    scores = {row["setting"]: float(row["ndcg@10"]) for row in rows if row["dataset"] == "toys" and not row["source"]
              and row["history"] == "masked"}  # fmt: skip
    found = {row["name"]: float(row["value"]) for row in read_csv(tmp_path / "figure3-quick-ratios.csv")}
    wanted = {f"toys_{steps}_vs_1000_ndcg10": scores[steps] / scores["1000"] for steps in ("10", "50", "2000")}
    assert found == pytest.approx(wanted)
    figure3.main([*options, "10", "--dataset", "beauty"])
    assert {row["dataset"] for row in read_csv(table)} == {"beauty"}, "without --add a run replaces its files"


def test_no_training_at_all_is_refused(data_dir, tmp_path, capsys):
    with pytest.raises(SystemExit):
        figure2.main(options_of(data_dir, tmp_path, "--seeds", "0"))
    assert "--seeds: expected a whole number from 1 on, got '0'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_trainings_that_differ_do_not_come_into_one_figure(data_dir, tmp_path):
    options = options_of(data_dir, tmp_path, "--dataset", "toys", "--variants", "10", "--budget")
    figure3.main([*options, "1"])
    with pytest.raises(ValueError, match=r"--add: .*figure3-quick\.csv holds .* toys, 10, with epochs 1 and not 2"):
        figure3.main([*options, "2", "--add"])


def test_trainings_without_a_later_setting_had_its_default(data_dir, tmp_path):
    options = options_of(data_dir, tmp_path, "--dataset", "toys", "--variants", "10", "--budget", "1")
    figure3.main(options)
    table = tmp_path / "figure3-quick.csv"
    text = table.read_text()
    older = text.replace(', ""select_by"": ""ndcg@10""', "")
    assert older != text
    table.write_text(older)
    figure3.main([*options, "--add"])


def test_recipes_add_to_what_is_there(data_dir, tmp_path):
    options = options_of(data_dir, tmp_path, "--dataset", "toys", "--budget", "1", "--recipes")
    recipes.main([*options, "cosine head"])
    recipes.main([*options, "best", "--add"])
    assert [row["recipe"] for row in read_csv(tmp_path / "recipes-quick.csv")] == ["best", "cosine head"]


def test_a_figure_is_of_the_model_and_not_of_its_network_besides(data_dir, tmp_path):
    options = options_of(data_dir, tmp_path, "--dataset", "toys", "--budget", "1", "--preset", "best")
    figure2.main([*options, "--variants", "cosine"])
    found = [
        (row["model"], row["history"]) for row in read_csv(tmp_path / "figure2-best-quick.csv") if not row["source"]
    ]
    assert found == [("best-cosine", "masked"), ("best-cosine", "unmasked")]


@pytest.fixture
def table_of_two_trainings(data_dir, tmp_path):
    options = options_of(data_dir, tmp_path, "--dataset", "toys", "--models", "best", "--seeds", "2", "--budget", "1")
    table2.main(options)
    return options


def keep_reports_alone(folder, *, together=True):
    for path in folder.rglob("*.*"):
        if path.name != trials.REPORT_FILE and not (together and path.name.startswith("together")):
            path.unlink()


def test_a_table_needs_no_more_of_a_training_than_its_report(table_of_two_trainings, tmp_path):
    rows = read_csv(tmp_path / "table2-quick.csv")
    trained = [row for row in rows if row["trained_seed"]]
    assert {row["trained_seed"] for row in trained} == {"0", "1", "0, 1"}
    assert {row["trained_on"] for row in trained} == {trials.machine_name()}
    assert all(row["evaluated_with"] for row in trained)

    keep_reports_alone(tmp_path / "runs")
    table2.main(table_of_two_trainings)
    assert read_csv(tmp_path / "table2-quick.csv") == rows
    keep_reports_alone(tmp_path / "runs", together=False)
    table2.main([*table_of_two_trainings, "--finished"])
    found = read_csv(tmp_path / "table2-quick.csv")
    assert found == [row for row in rows if row["trained_seed"] != "0, 1"]
    assert not list((tmp_path / "runs").rglob("log.jsonl")), "it was trained again"


def test_a_table_of_nothing_finished_is_not_written(data_dir, tmp_path):
    (tmp_path / "table2.csv").write_text("a full result")
    with pytest.raises(ValueError, match=r"nothing that was asked for is finished in .*runs\. Nothing is written"):
        table2.main(options_of(data_dir, tmp_path, "--dataset", "toys", "--finished"))
    assert (tmp_path / "table2.csv").read_text() == "a full result"


def test_a_report_that_came_alone_is_not_trained_over(table_of_two_trainings, tmp_path):
    keep_reports_alone(tmp_path / "runs", together=False)
    with pytest.raises(ValueError, match=r"best-0-1 holds the report of a training and not the training.*--runs"):
        table2.main(table_of_two_trainings)


def test_a_report_of_other_settings_or_data_is_refused(table_of_two_trainings, data_dir, tmp_path, monkeypatch):
    refused = pytest.raises(ValueError, match=r"report\.json reports a training with other settings or data.*--runs")
    with monkeypatch.context() as changed, refused:
        changed.setitem(trials.BEST, "toys", ({"dim": 32}, trials.SHORT_SEQUENCES))
        table2.main(table_of_two_trainings)
    other = tmp_path / "other"
    other.mkdir()
    lines = [line.split() for line in (data_dir / "toys.txt").read_text().splitlines()]
    (other / "toys.txt").write_text("".join(f"{' '.join([user, *reversed(items)])}\n" for user, *items in lines))
    with refused:
        table2.main([*table_of_two_trainings, "--data-dir", str(other)])


def test_a_trial_tells_the_machines_that_trained_it(tmp_path, monkeypatch):
    assert trials.machines_of(tmp_path) == []
    for name in ("one", "another", "one"):
        monkeypatch.setattr(trials, "machine_name", lambda name=name: name)
        trials.note_machine(tmp_path)
    assert trials.machines_of(tmp_path) == ["one", "another"]


def test_a_figure_that_was_never_made_cannot_be_drawn(tmp_path):
    with pytest.raises(SystemExit, match=r"figure3-paper\.csv is not there: run once without --plot"):
        figure3.main(["--plot", "--preset", "paper", "--out", str(tmp_path)])


def test_scores_draw_means_whiskers_and_the_papers_star():
    row = {"dataset": "toys", "history": "masked", "source": ""}
    ours = [
        row | {"setting": setting, "ndcg@10": ndcg, "hr@10": "0.5"}
        for setting, ndcg in [("a", "0.1"), ("a", "0.3"), ("b", "0.4")]
    ]
    unmasked = row | {"setting": "a", "history": "unmasked", "ndcg@10": "9", "hr@10": "9"}
    star = row | {"setting": "b", "history": "not said", "source": "a paper", "model": "DiffRec", "hr@10": "0.6"}
    figure = plots.canvas(5, 5)
    plots.scores(figure, [*ours, unmasked, star | {"ndcg@10": "0.7"}], xlabel="setting")
    ndcg, hit_rate = figure.axes
    assert [bar.get_height() for bar in ndcg.patches] == pytest.approx([0.2, 0.4])
    (whiskers,) = (each for each in ndcg.collections if len(each.get_segments()) == 2)
    (low, high), _ = (segment[:, 1] for segment in whiskers.get_segments())
    assert (low, high) == pytest.approx((0.1, 0.3))
    for axis, height in ((ndcg, 0.7), (hit_rate, 0.6)):
        ((place, shown),) = (line.get_xydata()[0] for line in axis.lines if line.get_marker() == "*")
        assert shown == pytest.approx(height)
        assert 1.35 < place < 1.5, "the star hides the bar's number, or stands by another bar"


@pytest.fixture(scope="module")
def saved(data_dir, tmp_path_factory) -> Path:
    """A small model of the movies, hardly trained."""
    folder = tmp_path_factory.mktemp("model")
    train = read_interactions(data_dir / "ml-1m.txt").sequences().leave_one_out().train
    model = best(train.vocabulary, dim=DIM, max_length=LENGTH, seed=2)
    model.memory.fit(train)
    torch.nn.init.normal_(model.denoiser.out.weight, generator=torch.Generator().manual_seed(0))  # the noise tells
    model.save_pretrained(folder)
    return folder


def test_a_model_of_other_items_or_without_noise_is_refused(saved, data_dir, tmp_path):
    other = best(range(5), dim=DIM, max_length=LENGTH)
    other.save_pretrained(tmp_path / "other")
    control(DiffRec.from_pretrained(saved)).save_pretrained(tmp_path / "control")
    asked = options_of(data_dir, tmp_path, "--model", str(tmp_path / "other"))
    for program, about in (
        (figure6, ["--user", "7"]), (figure7, ["--dataset", "toys"]), (noise, ["--dataset", "toys"]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="other was trained on other items than those of"):
            program.main([*asked, *about])
    with pytest.raises(ValueError, match="control is a control: its denoiser never sees noise"):
        noise.main(options_of(data_dir, tmp_path, "--model", str(tmp_path / "control"), "--dataset", "ml-1m"))


@pytest.mark.parametrize("program", [figure6, figure7, noise])
def test_chains_longer_than_the_schedule_are_refused_before_training(program, saved, data_dir, tmp_path):
    about = ["--user", "7"] if program is figure6 else ["--dataset", "ml-1m"]
    for model in ([], ["--model", str(saved)]):
        with pytest.raises(ValueError, match="--steps must be at most num_timesteps=1000, the model's N, got 1001"):
            program.main(options_of(data_dir, tmp_path, *about, *model, "--steps", "1001"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("chains", [False, True])
def test_seeds_are_averaged_as_evaluation_does(chains, saved, data_dir):
    model = DiffRec.from_pretrained(saved)
    test = read_interactions(data_dir / "ml-1m.txt").sequences().leave_one_out().test
    sampler = DDPMSampler("posterior", num_steps=5) if chains else OneStepSampler()
    served = with_exact_posterior(model) if chains else model
    found = figure7.reports(served, test, 4, sampler, batch_size=7)
    assert found == [evaluate(served, test, seeds=seeds, sampler=sampler, memory=False) for seeds in (1, 2, 3, 4)]
    assert len({report.unmasked["ndcg@10"] for report in found}) > 1, "the seeds changed nothing"


def test_the_exact_posterior_leaves_the_model_as_it_was(saved):
    model = DiffRec.from_pretrained(saved)
    before = model.config()
    sampling = with_exact_posterior(model)
    assert model.config() == before
    assert sampling.denoiser.base is not model.denoiser
    assert (sampling.config()["denoiser"]["name"], sampling.denoiser.schedule) == ("posterior", sampling.schedule)


def test_figure7_looks_at_a_given_model(saved, data_dir, tmp_path):
    options = options_of(data_dir, tmp_path, "--model", str(saved), "--most", "3", "--steps", "4", "--users", "20")
    for program, more in ((figure7, []), (noise, ["--users", "20"])):
        with pytest.raises(ValueError, match=r"--model is one model: name the data set .* --dataset"):
            program.main([*options_of(data_dir, tmp_path, "--model", str(saved)), *more])
    figure7.main([*options, "--dataset", "ml-1m"])
    rows = [row for row in read_csv(tmp_path / "figure7-of-a-model.csv") if row["history"] == "masked"]
    assert [(row["model"], row["setting"], row["users"]) for row in rows] == [
        (name, str(seeds), "20") for name in ("one step", "chains of 4 steps") for seeds in (1, 2, 3)
    ]
    assert (tmp_path / "figure7-of-a-model.png").is_file()
    assert not (tmp_path / "runs").exists()


def test_noise_audits_a_given_model(saved, data_dir, tmp_path):
    asked = ["--model", str(saved), "--dataset", "ml-1m", "--steps", "4", "--users", "20"]
    noise.main(options_of(data_dir, tmp_path, *asked))
    rows = read_csv(tmp_path / "noise-of-a-model.csv")
    assert {row["table"] for row in rows} == {"ranking", "timesteps", "chains"}
    assert {row["users"] for row in rows} == {"20"}


def test_figure6_lists_movies_and_marks_the_one_that_came_next(saved, data_dir, tmp_path):
    options = ["--model", str(saved), "--user", "7", "--k", str(NUM_ITEMS - 9), "--steps", "4"]
    figure6.main(options_of(data_dir, tmp_path, *options))
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


def test_figure6_tells_who_and_what_is_unknown_before_training(data_dir, tmp_path):
    with pytest.raises(ValueError, match="--user 5200 is none of the 40 users of ml-1m"):
        figure6.main(options_of(data_dir, tmp_path))
    titles = read_csv(data_dir / "ml-1m_items.csv")
    write_csv(tmp_path / "ml-1m_items.csv", titles[:-2])
    (tmp_path / "ml-1m.txt").write_bytes((data_dir / "ml-1m.txt").read_bytes())
    with pytest.raises(ValueError, match=r"ml-1m_items.csv has no row for item .*; 2 items lack theirs"):
        figure6.main(options_of(tmp_path, tmp_path, "--user", "7"))
    assert not (tmp_path / "runs").exists()


def test_favourite_genres_are_the_commonest():
    assert figure6.favourite_genres(["A|B", "B|C", "C|B", "D"], count=2) == {"B", "C"}
