"""The programs that train: they resume, add to their results, and refuse what does not belong together."""

from __future__ import annotations

import pytest

from benchmarks import draw
from benchmarks.harness import read_csv
from benchmarks.paper import figure2, figure3, figure4, figure5, recipes, running, settings, table2
from diffusers_rec.evaluation import evaluate

VARIANTS = {"figure2": figure2, "figure3": figure3, "figure4": figure4, "figure5": figure5}


def test_an_unknown_recipe_is_refused_with_the_known_ones(options_of, capsys):
    with pytest.raises(SystemExit):
        recipes.main(options_of("--preset", "paper", "--recipes", "no memory"))
    assert "--preset paper has no 'no memory'; there are 'paper', 'noise off (the control)'" in capsys.readouterr().err


@pytest.mark.slow
def test_recipes_train_for_the_given_epochs(options_of, tmp_path):
    chosen = ["--preset", "paper", "--recipes", "paper", "--epochs", "2", "--dataset", "toys"]
    recipes.main(options_of(*chosen))
    (row,) = read_csv(tmp_path / "recipes-paper.csv")
    assert (row["dataset"], row["recipe"], row["epochs"]) == ("toys", "paper", "2")
    assert len((tmp_path / "runs" / "toys" / "paper-0-2" / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "name", ["figure4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("figure2", "figure3", "figure5"))]
)
def test_a_stopped_figure_resumes(name, options_of, tmp_path, monkeypatch):
    figure = VARIANTS[name]
    default, other = str(figure.DEFAULT), next(iter({*figure.variants("best", "toys")} - {str(figure.DEFAULT)}))
    options = options_of("--dataset", "toys", "--budget", "1", "--variants", default, other)
    full, table, drawn = (tmp_path / each for each in (f"{name}.csv", f"{name}-quick.csv", f"{name}-quick.png"))
    full.write_text("a full result")

    evaluated = []

    def stopped_at_the_second(*args):
        evaluated.append(args)
        if len(evaluated) > 1:
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(running, "evaluate", stopped_at_the_second)
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

    monkeypatch.setattr(running, "evaluate", None)  # evaluating fails now
    figure.main(options)
    assert read_csv(table) == rows
    assert {path: path.stat().st_mtime_ns for path in logs} == logs
    drawn.unlink()
    draw.main([str(table)])
    assert drawn.is_file()
    assert full.read_text() == "a full result"


@pytest.mark.slow
def test_a_figure_adds_to_what_is_there(options_of, tmp_path):
    options = options_of("--budget", "1", "--variants")
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


def test_no_training_at_all_is_refused(options_of, tmp_path, capsys):
    with pytest.raises(SystemExit):
        figure2.main(options_of("--seeds", "0"))
    assert "--seeds: expected a whole number from 1 on, got '0'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_trainings_with_other_settings_are_not_added_to_a_figure(options_of):
    options = options_of("--dataset", "toys", "--variants", "10", "--budget")
    figure3.main([*options, "1"])
    with pytest.raises(ValueError, match=r"--add: .*figure3-quick\.csv holds .* toys, 10, with epochs 1 and not 2"):
        figure3.main([*options, "2", "--add"])


def test_a_setting_younger_than_a_row_had_its_default_then(options_of, tmp_path):
    options = options_of("--dataset", "toys", "--variants", "10", "--budget", "1")
    figure3.main(options)
    table = tmp_path / "figure3-quick.csv"
    text = table.read_text()
    older = text.replace(', ""select_by"": ""ndcg@10""', "")
    assert older != text
    table.write_text(older)
    figure3.main([*options, "--add"])


def test_recipes_add_to_what_is_there(options_of, tmp_path):
    options = options_of("--dataset", "toys", "--budget", "1", "--recipes")
    recipes.main([*options, "cosine head"])
    recipes.main([*options, "best", "--add"])
    assert [row["recipe"] for row in read_csv(tmp_path / "recipes-quick.csv")] == ["best", "cosine head"]


def test_a_figure_leaves_out_the_rows_of_the_network_alone(options_of, tmp_path):
    options = options_of("--dataset", "toys", "--budget", "1", "--preset", "best")
    figure2.main([*options, "--variants", "cosine"])
    found = [
        (row["model"], row["history"]) for row in read_csv(tmp_path / "figure2-best-quick.csv") if not row["source"]
    ]
    assert found == [("best-cosine", "masked"), ("best-cosine", "unmasked")]


@pytest.fixture
def table_of_two_trainings(options_of):
    options = options_of("--dataset", "toys", "--models", "best", "--seeds", "2", "--budget", "1")
    table2.main(options)
    return options


def keep_only_reports(folder, *, ensembles=True):
    for path in folder.rglob("*.*"):
        if path.name != running.REPORT_FILE and not (ensembles and path.name.startswith("together")):
            path.unlink()


def test_a_table_needs_only_the_reports(table_of_two_trainings, tmp_path):
    rows = read_csv(tmp_path / "table2-quick.csv")
    trained = [row for row in rows if row["trained_seed"]]
    assert {row["trained_seed"] for row in trained} == {"0", "1", "0, 1"}
    assert {row["trained_on"] for row in trained} == {running.machine_name()}
    assert all(row["evaluated_with"] for row in trained)

    keep_only_reports(tmp_path / "runs")
    table2.main(table_of_two_trainings)
    assert read_csv(tmp_path / "table2-quick.csv") == rows
    keep_only_reports(tmp_path / "runs", ensembles=False)
    table2.main([*table_of_two_trainings, "--finished"])
    found = read_csv(tmp_path / "table2-quick.csv")
    assert found == [row for row in rows if row["trained_seed"] != "0, 1"]
    assert not list((tmp_path / "runs").rglob("log.jsonl")), "it was trained again"


def test_a_table_of_nothing_finished_is_not_written(options_of, tmp_path):
    (tmp_path / "table2.csv").write_text("a full result")
    with pytest.raises(ValueError, match=r"no training of these models is finished in .*runs\. Nothing is written"):
        table2.main(options_of("--dataset", "toys", "--finished"))
    assert (tmp_path / "table2.csv").read_text() == "a full result"


@pytest.mark.slow
def test_a_report_without_its_training_is_not_overwritten(table_of_two_trainings, tmp_path):
    keep_only_reports(tmp_path / "runs", ensembles=False)
    with pytest.raises(ValueError, match=r"best-0-1 holds the report of a training and not the training.*--runs"):
        table2.main(table_of_two_trainings)


def test_a_report_of_other_settings_or_data_is_refused(table_of_two_trainings, data_dir, tmp_path, monkeypatch):
    refused = pytest.raises(ValueError, match=r"report\.json reports a training with other settings or data.*--runs")
    with monkeypatch.context() as changed, refused:
        changed.setitem(settings.BEST, "toys", ({"dim": 32}, settings.SHORT_SEQUENCES))
        table2.main(table_of_two_trainings)
    other = tmp_path / "other"
    other.mkdir()
    lines = [line.split() for line in (data_dir / "toys.txt").read_text().splitlines()]
    (other / "toys.txt").write_text("".join(f"{' '.join([user, *reversed(items)])}\n" for user, *items in lines))
    with refused:
        table2.main([*table_of_two_trainings, "--data-dir", str(other)])


def test_a_run_records_its_machines(tmp_path, monkeypatch):
    assert running.machines_of(tmp_path) == []
    for name in ("one", "another", "one"):
        monkeypatch.setattr(running, "machine_name", lambda name=name: name)
        running.record_machine(tmp_path)
    assert running.machines_of(tmp_path) == ["one", "another"]
