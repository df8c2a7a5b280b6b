r"""A plain model with judges: discriminators that read one factor of the items of a sequence each, in training alone.

A factor maps each item to a vector: one of its own, one of its popularity class, or one of its attributes. Judge f
reads the factor of a history of i items and of an item y after it, with learned places, and takes the output of one
bidirectional block at y:

.. math:: J_f(y) = w_f \cdot \mathrm{Block}_f\big( f(x_1), \dots, f(x_i), f(y) \big)_{i+1} + b_f.

Only this output is read, so that keys and values of the history serve every y. For the longest history of a row, the
true item v after it, the k other items that the model ranks first, :math:`y_1, \dots, y_k`, and the item that it ranks
first of all, :math:`\hat y`, the penalties are

.. math:: \mathtt{discriminator} = \sum_f \Big( \frac{-1}{1 + k} \Big[ \log \sigma\big( J_f(v) \big)
          + \sum_j \log \sigma\big( -J_f(y_j) \big) \Big] + \frac\lambda2 \big( \|w_f\|^2 + b_f^2 \big) \Big), \qquad
          \mathtt{reward} = \frac1m \sum_f \sigma\big( J_f(\hat y) \big),

the same for all queries of the row. Items are discrete: no gradient leads from a judge to the model. The reward is a
number, which the term ``rewarded-bce`` reads. Thus one optimizer trains both sides.

Ren et al. 2020, *Sequential Recommendation with Self-Attentive Multi-Adversarial Network* (MFGAN), SIGIR, in the form
of its code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.errors import check_float, check_int, check_same
from diffusers_rec.core.randomness import isolated_rng, weight_seed
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.plain import PlainDenoiser
from diffusers_rec.encoders import EncoderSpec
from diffusers_rec.items.embeddings import ItemEmbedding, TableEmbedding
from diffusers_rec.items.feature_embeddings import AttributeEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.nn.attention import TransformerBlock, check_architecture
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.processes.noising import Queries


class _Context(NamedTuple):
    """Context of the encoder, and the history that the judges read."""

    encoded: Any
    history: History


class JudgedDenoiser(PlainDenoiser, name="judged"):
    """The denoiser ``plain`` with the penalties ``discriminator`` and ``reward``; predictions are those of ``plain``.

    The judges read the items' own vectors, their popularity classes, and each further factor. Popularity classes are
    quantiles of how often items occur in the training sequences, which :meth:`fit` learns.

    Args:
        dim: Latent width D, which is also that of the first two judges.
        max_length: Largest number of positions in a sequence, including noised ones.
        embedding: Item embedding, shared and not owned, for the number of items.
        head: Item head that ranks the items, shared and not owned.
        encoder: History encoder.
        factors: Further factors, as item embeddings or their configs: ``AttributeEmbedding.from_features(bags, dim)``
            for categories, or ``FeatureEmbedding`` for vectors. Each has a judge of its own width.
        classes: Number of popularity classes.
        fakes: Number k of items that the model generates, at most all other items.
        judge_heads: Number of attention heads of a judge.
        judge_dropout: Dropout rate of the judges.
        judge_decay: Weight lambda of the squared weights of their output layers.
        seed: Seed of the initial weights.
    """

    requires = frozenset({"embedding", "head"})

    def __init__(
        self,
        dim: int = 256,
        max_length: int = 50,
        *,
        embedding: ItemEmbedding,
        head: ItemHead,
        encoder: EncoderSpec = "causal-transformer",
        factors: Sequence[ItemEmbedding | str | Mapping[str, Any]] = (),
        classes: int = 10,
        fakes: int = 10,
        judge_heads: int = 2,
        judge_dropout: float = 0.25,
        judge_decay: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, encoder=encoder, seed=seed)
        if "discriminator" in self.encoder.penalised:
            raise ValueError(
                f"The parts do not fit: the encoder {self.encoder.registered_name!r} has a discriminator of its own. "
                "Use denoiser='plain', or another encoder."
            )
        self.classes = check_int("classes", classes, minimum=1)
        self.fakes = check_int("fakes", fakes, minimum=1)
        self.judge_heads = check_int("judge_heads", judge_heads, minimum=1)
        self.judge_dropout = check_float("judge_dropout", judge_dropout, minimum=0, below=1)
        self.judge_decay = check_float("judge_decay", judge_decay, minimum=0)
        self._shared = (embedding, head)  # outside the module tree, because their owner trains and saves them
        items, seeds = embedding.num_items, {name: weight_seed(self.seed, name) for name in ("items", "classes")}
        self.factors = [ItemEmbedding.build_with({"num_items": items, "dim": dim}, factor) for factor in factors]
        for factor in self.factors:
            check_same("items of a factor", factor.num_items, "items of the embedding", items)
        popularity = AttributeEmbedding(items, dim, num_attributes=self.classes, seed=seeds["classes"])
        popularity.features.zero_()  # one class until they are counted
        read = (TableEmbedding(items, dim, seed=seeds["items"]), popularity, *self.factors)
        with isolated_rng(weight_seed(self.seed, "judges")):
            self.judges = nn.ModuleList(_Judge(each, max_length, judge_heads, self.judge_dropout) for each in read)

    @property
    def embedding(self) -> ItemEmbedding:
        return self._shared[0]

    @property
    def head(self) -> ItemHead:
        return self._shared[1]

    @property
    def popularity(self) -> AttributeEmbedding:
        """Factor of the popularity classes."""
        found: AttributeEmbedding = self.judges[1].factor  # type: ignore[assignment]
        return found

    @property
    def penalised(self) -> tuple[str, ...]:
        return (*super().penalised, "discriminator", "reward")

    def given(self) -> dict[str, Tensor]:
        factors = enumerate(self.factors)
        return {f"factor {number} {name}": each for number, own in factors for name, each in own.named_buffers()}

    def fit(self, counts: Tensor) -> None:
        rarer = torch.searchsorted(counts.sort().values, counts)
        self.popularity.set_features((rarer * self.classes // len(counts))[:, None])

    def encode(self, history: History) -> _Context:
        return _Context(super().encode(history), history)

    def condition(self, context: _Context, queries: Queries, *, null: bool | Tensor = False) -> Tensor:
        return super().condition(context.encoded, queries, null=null)

    def penalties(self, context: _Context, queries: Queries, items: Tensor) -> dict[str, Tensor]:
        found = super().penalties(context.encoded, queries, items)
        longest = queries.visible.masked_fill(queries.count == 0, -1).argmax(1, keepdim=True)
        visible, true = queries.visible.gather(1, longest), items[..., 0].gather(1, longest)
        with torch.no_grad():
            scores = self.head.logits(self.encoder.after(context.encoded, visible, self.empty)[:, 0])
            first = scores.argmax(1, keepdim=True)
            others = scores.scatter(1, true, -math.inf).topk(min(self.fakes, scores.shape[1] - 1)).indices
        ends = torch.cat([true, first, others], dim=1)
        by_judge = [judge(context.history, visible[:, 0], ends) for judge in self.judges]
        logits, squares = (torch.stack(part) for part in zip(*by_judge, strict=True))
        reward = logits[..., 1].detach().sigmoid().mean(0)
        told_apart = F.softplus(-logits[..., 0]) + F.softplus(logits[..., 2:]).sum(-1)
        loss = (told_apart / (1 + others.shape[1])).sum(0) + self.judge_decay / 2 * squares.sum()
        judged = {"discriminator": loss, "reward": reward}
        return found | {name: value[:, None].expand(queries.visible.shape) for name, value in judged.items()}


class _Judge(nn.Module):
    """Scores by one factor whether the last item of a sequence is true or generated."""

    def __init__(self, factor: ItemEmbedding, max_length: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        check_architecture(factor.dim, 1, num_heads, dropout)
        self.factor = factor
        self.places = nn.Embedding(max_length, factor.dim)
        nn.init.normal_(self.places.weight, std=0.02)
        self.block = TransformerBlock(factor.dim, num_heads, dropout, norm_first=False)
        self.out = nn.Linear(factor.dim, 1)
        self.drop = Dropout(dropout)

    def forward(self, history: History, lengths: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, Q)`` of items after the first ``lengths`` ``(B,)`` ones, and the squared output layer."""
        place = torch.arange(history.items.shape[1], device=lengths.device)
        past = self.drop(self.factor(history.items) + self.places(place))
        last = self.drop(self.factor(ends) + self.places(lengths)[:, None])
        key, value = self.block.attention.project_key_value(past)
        unseen = (place >= lengths[:, None])[:, None, None, None]
        over_history = past.new_zeros(unseen.shape).masked_fill(unseen, -math.inf)
        read = self.block.beside(last[:, :, None], key, value, over_history, past.new_zeros(1))
        return self.out(read)[..., 0, 0], self.out.weight.square().sum() + self.out.bias.square().sum()
