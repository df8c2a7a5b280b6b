"""The page's code for RecBole, trained and evaluated by RecBole. Run by `make test-integrations`."""

from __future__ import annotations

import pytest
import torch

from diffusers_rec import DiffRec
from diffusers_rec.recommenders.memory import NoMemory

pytest.importorskip("recbole", reason="RecBole is not installed; make test-integrations installs it")

import recbole
from page import run
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import init_seed
from recbole.utils.case_study import full_sort_scores

from diffusers_rec.integrations.recbole import RecBoleModel

pytestmark = pytest.mark.slow

NUM_USERS, NUM_ITEMS, LENGTH = 60, 20, 8
WHOLE = "A whole model in RecBole"
ENCODER, DENOISER = "An encoder in RecBole's SASRec", "A denoiser in RecBole's SASRec"
SETTINGS = "Settings for a class that is not named SASRec"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # RecBole writes its logs to the working directory
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # its checkpoints hold more than weights
    monkeypatch.setattr("sys.argv", ["test"])  # RecBole reads settings from the command line, too


@pytest.fixture
def prepare(tmp_path):
    """Users that walk round a circle of items, as RecBole's atomic file; and a model of a class."""
    rows = [f"u{user}\ti{(user + time) % NUM_ITEMS}\t{time}\n" for user in range(NUM_USERS) for time in range(LENGTH)]
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle" / "circle.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows))

    def of(cls, **settings):
        of_sasrec = f"{recbole.__path__[0]}/properties/model/SASRec.yaml"
        config = Config(
            model=cls,
            dataset="circle",
            config_file_list=[of_sasrec],
            config_dict={
                "data_path": str(tmp_path),
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                "eval_args": {
                    "split": {"LS": "valid_and_test"},
                    "order": "TO",
                    "group_by": "user",
                    "mode": {"valid": "uni10", "test": "full"},  # calls predict, and full_sort_predict
                },
                "train_neg_sample_args": None,
                "MAX_ITEM_LIST_LENGTH": 5,
                "epochs": 15,
                "train_batch_size": 64,
                "learning_rate": 0.003,
                "topk": [5],
                "valid_metric": "NDCG@5",
                "use_gpu": False,
                "show_progress": False,
                **settings,
            },
        )
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train_data, *held_out = data_preparation(config, dataset)
        return Trainer(config, cls(config, train_data.dataset)), dataset, train_data, *held_out

    return of


def fitted(trainer, train_data, valid_data, test_data):
    """The report after training, which learns the circle."""
    untrained = trainer.evaluate(test_data, load_best_model=False)
    _, validation = trainer.fit(train_data, valid_data)
    losses = list(trainer.train_loss_dict.values())
    assert losses[-1] < losses[0]
    report = trainer.evaluate(test_data)
    assert report["hit@5"] > 0.9 > untrained["hit@5"]
    assert validation["hit@5"] > 0.9
    return report


def walks(length):
    """The histories as they were written."""
    return [[f"i{(user + time) % NUM_ITEMS}" for time in range(length)] for user in range(NUM_USERS)]


def test_recbole_trains_and_evaluates_a_whole_model(prepare, tmp_path):
    trainer, dataset, train_data, *held_out = prepare(run(WHOLE).BestInRecBole)
    model = trainer.model
    assert trainer.evaluate(held_out[1], load_best_model=False)["hit@5"] == 1, "the memory knows the circle"
    model.recommender.memory = NoMemory()
    report = fitted(trainer, train_data, *held_out)

    users = dataset.token2id(dataset.uid_field, [f"u{user}" for user in range(NUM_USERS)])
    scores = full_sort_scores(users, model, held_out[1])
    indices = torch.tensor([model.recommender.vocabulary.encode(walk) for walk in walks(LENGTH - 1)])
    assert torch.equal(scores[:, 1:], model.recommender.scores(indices)), "the test's histories, and our own scores"
    assert bool((scores[:, 0] == -torch.inf).all()), "the padding"
    best = model.recommender.recommend(walks(LENGTH - 1), k=5, exclude_seen=False)
    targets = [f"i{(user + LENGTH - 1) % NUM_ITEMS}" for user in range(NUM_USERS)]
    hits = sum(target in items for target, items in zip(targets, best.items, strict=True)) / NUM_USERS
    assert report["hit@5"] == pytest.approx(hits, abs=1e-4)

    model.recommender.save_pretrained(tmp_path / "saved")
    loaded = DiffRec.from_pretrained(tmp_path / "saved")
    assert loaded.recommend(walks(LENGTH - 1), k=5, exclude_seen=False).items == best.items


def test_the_model_counts_the_training_sequences(prepare):
    trainer, *_ = prepare(run(WHOLE).BestInRecBole)
    recommender = trainer.model.recommender
    counts = dict(zip(recommender.vocabulary.ids, recommender.popularity.tolist(), strict=True))
    expected = [item for walk in walks(LENGTH - 2) for item in walk]
    assert counts == {item: expected.count(item) for item in counts}
    assert recommender.popularity.sum() == NUM_USERS * (LENGTH - 2)


def test_recbole_trains_an_encoder_in_its_sasrec(prepare):
    trainer, _, *data = prepare(run(ENCODER).FilterSASRec, hidden_size=32)
    fitted(trainer, *data)


def test_recbole_trains_a_denoiser_in_its_sasrec(prepare):
    trainer, _, *data = prepare(run(DENOISER).DenoisingSASRec, hidden_size=32)
    fitted(trainer, *data)


def test_the_page_runs_as_it_stands(capsys):
    """On the real data that RecBole brings along."""
    module = run(WHOLE, "RecBole trains and evaluates")
    assert 0.02 < module.trainer.best_valid_score < 1
    assert "ndcg@10" in capsys.readouterr().out
    first = module.model.recommender.recommend([["50", "181"]], k=10)
    assert len(first.items[0]) == 10


def test_the_settings_of_sasrec_are_found():
    module = run(ENCODER, SETTINGS, Config=Config, settings={"train_neg_sample_args": None})
    assert (module.config["n_heads"], module.config["loss_type"], module.config["hidden_size"]) == (2, "CE", 64)


def test_a_model_without_build_is_refused(prepare):
    with pytest.raises(NotImplementedError, match=r"must define build\(items\)"):
        prepare(RecBoleModel)
