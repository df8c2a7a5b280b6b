"""New items: an embedding of content features recommends an item that was in no training sequence."""

from __future__ import annotations

import pytest
import torch

from diffusers_rec import DiffRec, Interactions
from diffusers_rec.training import TrainingConfig, train

KINDS = 3
ITEMS = [f"{kind}{number}" for kind in "abc" for number in range(4)]
CONFIG = TrainingConfig(epochs=50, examples="all-positions", batch_targets=160, learning_rate=1e-2)
EMBEDDINGS = [
    {"name": "features", "num_features": KINDS + 2, "scale": "unit"},
    {
        "name": "table+features",
        "features": {"name": "features", "num_features": KINDS + 2, "init_std": 0.3},
        "scale": "unit",
    },
]


def features(items):
    """The kind of each item, and two numbers of its own."""
    own = [torch.randn(2, generator=torch.Generator().manual_seed(sum(map(ord, item)))) for item in items]
    kinds = torch.eye(KINDS)[["abc".index(item[0]) for item in items]]
    return torch.cat([kinds, 0.3 * torch.stack(own)], dim=1)


def walks(users, seed, extra=()):
    """Users go from an item of kind a to one of kind b, of kind c, of kind a, ..."""
    generator = torch.Generator().manual_seed(seed)
    pools = [[item for item in [*ITEMS, *extra] if item[0] == kind] for kind in "abc"]
    rows = []
    for user in range(users):
        for time in range(6):
            pool = pools[(user + time) % KINDS]
            rows.append((user, pool[int(torch.randint(len(pool), (), generator=generator))], time))
    return Interactions.from_arrays(*zip(*rows, strict=True)).sequences()


def build(embedding):
    model = DiffRec(
        ITEMS,
        dim=8,
        max_length=7,
        schedule={"name": "sqrt", "num_timesteps": 20},
        embedding=embedding,
        denoiser={
            "name": "conditional-mlp",
            "encoder": {"name": "causal-transformer", "num_layers": 1, "num_heads": 1},
        },
        head={"name": "cosine", "temperature": 0.2},
    )
    model.embedding.set_features(features(ITEMS))
    return model


@pytest.mark.parametrize("embedding", EMBEDDINGS, ids=lambda config: config["name"])
def test_a_new_item_is_recommended_before_and_learned_in_further_training(embedding):
    model = build(embedding)
    train(model, walks(40, seed=1), config=CONFIG, device="cpu")
    before = model.predict_proba([["c0", "a1"]])

    larger = model.extend(["b-new"], features(["b-new"]))
    assert larger.vocabulary.ids[-1] == "b-new"
    scores = dict(zip(larger.vocabulary.ids, larger.predict_proba([["c0", "a1"]])[0].tolist(), strict=True))
    of_other_kinds = [score for item, score in scores.items() if item[0] != "b"]
    assert scores["b-new"] > 1.5 * max(of_other_kinds)
    assert "b-new" in larger.recommend([["c0", "a1"]], k=5).items[0]

    more = walks(40, seed=2, extra=["b-new"] * 4)  # half of the steps to kind b are to the new item
    train(larger, more, config=CONFIG, device="cpu")
    assert larger.recommend([["c0", "a1"]], k=1).items == [["b-new"]]
    assert torch.equal(model.predict_proba([["c0", "a1"]]), before)


def test_a_new_item_without_features_is_refused():
    with pytest.raises(ValueError, match="expected features with one row for each of the 1 new items"):
        build(EMBEDDINGS[0]).extend(["b-new"])
