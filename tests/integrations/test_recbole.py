"""A `DiffRec` inside a model class of RecBole's, trained and evaluated by RecBole. Run by `make test-integrations`."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from diffusers_rec import DiffRec
from diffusers_rec.data import Batch, History

pytest.importorskip("recbole", reason="RecBole is not installed; make test-integrations installs it")

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.trainer import Trainer
from recbole.utils import InputType, init_seed
from recbole.utils.case_study import full_sort_scores

pytestmark = pytest.mark.slow

NUM_USERS, NUM_ITEMS, LENGTH = 60, 20, 8


class DiffRecOfRecBole(SequentialRecommender):
    """RecBole's item i has index i - 1 in the vocabulary: RecBole's item 0 is the padding."""

    input_type = InputType.POINTWISE  # no sampled negatives

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.recommender = DiffRec(
            dataset.field2id_token[self.ITEM_ID][1:],
            dim=32,
            max_length=self.max_seq_length + 1,
            embedding={"name": "table", "scale": "unit"},
            denoiser={"name": "conditional-mlp", "encoder": {"name": "causal-transformer", "dropout": 0.1}},
            head="tied",
            objective={"name": "simplified", "distance": "cosine", "recommend_from": "start"},
            seed=config["seed"],
        )
        self.generator = torch.Generator().manual_seed(config["seed"])

    def calculate_loss(self, interaction):
        lengths = interaction[self.ITEM_SEQ_LEN]
        with_target = F.pad(interaction[self.ITEM_SEQ], (0, 1))
        with_target = with_target.scatter(1, lengths[:, None], interaction[self.POS_ITEM_ID][:, None])
        batch = Batch(History((with_target - 1).clamp(min=0), lengths + 1), lengths[:, None])
        return self.recommender.loss(batch, self.generator).total

    def full_sort_predict(self, interaction):
        history = History((interaction[self.ITEM_SEQ] - 1).clamp(min=0), interaction[self.ITEM_SEQ_LEN])
        latents = self.recommender.next_item_latents(history)
        probabilities = self.recommender.head.logits(latents).softmax(-1).mean(1)
        return F.pad(probabilities, (1, 0))

    def predict(self, interaction):
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Users that walk round a circle of items, as RecBole's atomic file."""
    monkeypatch.chdir(tmp_path)  # RecBole writes its logs to the working directory
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # its checkpoints hold more than weights
    rows = [f"u{user}\ti{(user + time) % NUM_ITEMS}\t{time}\n" for user in range(NUM_USERS) for time in range(LENGTH)]
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle" / "circle.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows))
    monkeypatch.setattr("sys.argv", ["test"])  # RecBole reads settings from the command line, too
    return Config(
        model=DiffRecOfRecBole,
        dataset="circle",
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
        },
    )


def test_recbole_trains_and_evaluates_a_diffrec(config, tmp_path):
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    model = DiffRecOfRecBole(config, train_data.dataset)
    trainer = Trainer(config, model)
    untrained = trainer.evaluate(test_data, load_best_model=False)

    _, validation = trainer.fit(train_data, valid_data)
    losses = list(trainer.train_loss_dict.values())
    assert losses[-1] < 0.5 * losses[0]
    report = trainer.evaluate(test_data)
    assert report["hit@5"] > 0.9 > untrained["hit@5"]
    assert validation["hit@5"] > 0.9

    users = dataset.token2id(dataset.uid_field, [f"u{user}" for user in range(NUM_USERS)])
    scores = full_sort_scores(users, model, test_data)[:, 1:]
    # The histories as they were written, of which the last item is the test's target.
    histories = [[f"i{(user + time) % NUM_ITEMS}" for time in range(LENGTH - 1)] for user in range(NUM_USERS)]
    assert (scores - model.recommender.predict_proba(histories)).abs().max() < 1e-6
    best = model.recommender.recommend(histories, k=5, exclude_seen=False)
    targets = [f"i{(user + LENGTH - 1) % NUM_ITEMS}" for user in range(NUM_USERS)]
    hits = sum(target in items for target, items in zip(targets, best.items, strict=True)) / NUM_USERS
    assert report["hit@5"] == pytest.approx(hits, abs=1e-4)

    model.recommender.save_pretrained(tmp_path / "saved")
    loaded = DiffRec.from_pretrained(tmp_path / "saved")
    assert loaded.recommend(histories, k=5, exclude_seen=False).items == best.items
