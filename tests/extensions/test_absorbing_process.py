r"""An absorbing process: at step n a position holds its item's latent with probability alpha_bar_n, else ``[mask]``.

The reverse step from n to m unmasks with probability :math:`(\bar\alpha_m - \bar\alpha_n) / (1 - \bar\alpha_n)` and
draws the item from the head's distribution. Austin et al. 2021, *D3PM*; Shi et al. 2024, *MD4*.
"""

from __future__ import annotations

import torch
from scipy.stats import chisquare
from torch.special import ndtr

from diffusers_rec import Corrupted, Denoiser, DiffRec, Interactions, Process, TableEmbedding, TiedHead
from diffusers_rec.core.randomness import randn
from diffusers_rec.testing import check_component
from diffusers_rec.training import TrainingConfig, train


def uniform(like, generator):
    """One number in (0, 1) a latent, ``(..., 1)``, each draw from its own generator."""
    return ndtr(randn((*like.shape[:-1], 1), generator, device=like.device, dtype=like.dtype))


class AbsorbingProcess(Process, name="absorbing"):
    """The ``[mask]`` latent is zero."""

    requires = frozenset({"head", "embedding", "schedule"})

    def __init__(self, head, embedding, schedule):
        super().__init__(schedule)
        self.head, self.embedding = head, embedding

    def level(self, like, n):
        """alpha_bar_n, ``(..., 1)``."""
        found = self.schedule.alpha_bar.to(like)[torch.as_tensor(n, device=like.device)]
        return found[(...,) + (None,) * (like.ndim - found.ndim)]

    def start(self, shape, generator, *, device=None, dtype=torch.float32):
        return torch.zeros(*shape, device=device, dtype=dtype)

    def corrupt(self, x0, timesteps, generator, *, noise=None):
        noise = uniform(x0, generator).expand_as(x0) if noise is None else noise
        return Corrupted(torch.where(noise < self.level(x0, timesteps), x0, 0), noise)

    def step(self, x0, xn, timesteps, previous, generator, *, eta=1.0):
        now, then = self.level(xn, timesteps), self.level(xn, previous)
        chance = (then - now) / (1 - now).clamp(min=1e-12)
        if not eta:  # the likeliest items of all masks, once half of them should be open
            item, opens = self.head.logits(x0).argmax(-1), chance >= 0.5
        else:
            cumulative = self.head.logits(x0).softmax(-1).cumsum(-1)
            item = torch.searchsorted(cumulative, uniform(xn, generator).to(cumulative))[..., 0]
            item, opens = item.clamp(max=cumulative.shape[-1] - 1), uniform(xn, generator) < chance
        masked = (xn == 0).all(-1, keepdim=True)
        return torch.where(masked & opens, self.embedding(item).to(xn), xn)


# p(first item, second item)
JOINT = torch.tensor([[0.30, 0.05, 0.05], [0.02, 0.18, 0.10], [0.10, 0.10, 0.10]], dtype=torch.float64)
FIRST, SECOND = JOINT.sum(1), JOINT.sum(0)


class ExactDenoiser(Denoiser, name="exact"):
    """log p(item of a position | what the other shows), whatever the history; a latent is an item's one-hot vector."""

    def encode(self, history):
        return None

    def condition(self, context, queries, *, null=False):
        return None

    def forward(self, xn, timesteps, condition):
        first, second = xn.double().unbind(2)
        of_first = torch.where(second.any(-1, True), second @ (JOINT / SECOND).T, FIRST)
        of_second = torch.where(first.any(-1, True), first @ (JOINT / FIRST[:, None]), SECOND)
        return torch.stack([of_first, of_second], dim=2).log().to(xn)


def exact_model(**noising):
    embedding = TableEmbedding(3, 3)
    embedding.weight.data = torch.eye(3)
    parts = {"embedding": embedding, "denoiser": ExactDenoiser(3, 6, 0), "head": TiedHead(embedding, use_bias=False)}
    schedule = {"name": "cosine", "num_timesteps": 5}
    noising = {"name": "last-k", "k": 2, **noising}
    return DiffRec(list("abc"), schedule=schedule, process="absorbing", noising=noising, sampler="ddpm", **parts)


def test_it_keeps_the_contract_of_a_process():
    check_component(AbsorbingProcess, waive=["a_step_to_0_gives_the_prediction"])  # it draws an item there


def test_chains_of_an_exact_denoiser_land_on_the_exact_distribution():
    """The joint one, but for positions that open in the same step, independently of one another."""
    model = exact_model(ahead=True)
    drawn = model.sample([["a"]], seeds=4000)[0]
    assert bool((drawn.sort(-1).values == torch.tensor([0.0, 0.0, 1.0])).all())  # items and nothing between them
    pairs = (3 * drawn[:, 0].argmax(-1) + drawn[:, 1].argmax(-1)).bincount(minlength=9)
    independent = torch.outer(FIRST, SECOND)
    together = float(model.schedule.alpha_bar.diff().square().sum())
    expected = (1 - together) * JOINT + together * independent
    assert chisquare(pairs, 4000 * expected.flatten()).pvalue > 0.01
    assert chisquare(pairs, 4000 * independent.flatten()).pvalue < 1e-6


def test_known_items_among_the_corrupted_are_masked_as_in_training():
    drawn = exact_model().sample([["b", "c"]], sampler="one-step", seeds=1)[0, 0]
    assert torch.allclose(drawn[1], SECOND.log().float())  # at n = N, "c" is masked


def test_it_trains_and_ranks_in_a_pipeline():
    users = [[(start + step) % 8 for step in range(6)] for start in range(8)]
    rows = [(user, item, time) for user, items in enumerate(users) for time, item in enumerate(items)]
    sequences = Interactions.from_arrays(*zip(*rows, strict=True)).sequences()
    model = DiffRec(
        sequences.vocabulary,
        dim=16,
        max_length=6,
        schedule={"name": "cosine", "num_timesteps": 10},
        process="absorbing",
        embedding={"name": "table", "scale": "unit"},
        head="tied",
        denoiser={
            "name": "conditional-mlp",
            "encoder": {"name": "causal-transformer", "num_layers": 1, "num_heads": 1},
        },
    )
    config = TrainingConfig(epochs=40, examples="all-positions", batch_targets=40, learning_rate=1e-2)
    train(model, sequences, config=config, device="cpu")
    found = model.recommend([[3, 4], [6]], k=1)
    assert found.items == [[5], [7]]
    assert float(found.std.max()) == 0  # every chain starts from the same [mask]
    chained = model.recommend([[3, 4], [6]], k=1, sampler="ddpm", seeds=20)
    assert chained.items == found.items
    assert float(chained.std.max()) > 0
