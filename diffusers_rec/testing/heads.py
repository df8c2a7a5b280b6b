"""The contract of an item head: scores are inner products, and the loss is their cross-entropy."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from diffusers_rec.items.heads import ItemHead
from diffusers_rec.items.negatives import NegativeSample
from diffusers_rec.testing.contract import (
    Case,
    Maker,
    Suite,
    expect,
    expect_all_learn,
    expect_close,
    expect_equal,
    expect_finite,
    expect_finite_gradients,
)
from diffusers_rec.testing.inputs import gaussian, perturbed, strided

SHAPES = [(1,), (5,), (2, 3), (2, 1, 3)]


def logits_are_an_inner_product(head: ItemHead) -> None:
    """Logits are the inner product of queries and keys plus the bias, so that ranking works in chunks."""
    keys, bias = head.keys(), head.bias()
    for shape in SHAPES:
        x = latents(head, *shape)
        expected = torch.einsum("...d,vd->...v", head.queries(x), keys) + (0 if bias is None else bias)
        expect_close(f"logits of latents {tuple(x.shape)}", head.logits(x), expected, rtol=1e-8, atol=1e-8)


def latents_are_independent(head: ItemHead) -> None:
    """A latent has the same logits alone, in a batch, and in any memory layout."""
    x = latents(head, 5)
    whole = head.logits(x)
    for row in range(len(x)):
        expect_close(f"logits of row {row} alone", head.logits(x[row]), whole[row])
    expect_close("logits of strided latents", head.logits(strided(x)), whole)


def the_loss_is_minus_the_mean_log_softmax_of_the_logits(head: ItemHead) -> None:
    """The loss is the mean cross-entropy over all items, for latents of any shape."""
    for shape in SHAPES:
        x, target = latents(head, *shape), targets(head, *shape)
        chosen = head.logits(x).log_softmax(-1).gather(-1, target[..., None])
        loss = head.loss(x, target)
        expect_close(f"the loss of latents {tuple(x.shape)}", loss, -chosen.mean(), rtol=1e-8, atol=1e-8)
        expect_close("the loss of strided latents", head.loss(strided(x), strided(target)), loss)


def with_every_item_drawn_once_the_sampled_loss_is_the_full_one(head: ItemHead) -> None:
    """If every item is drawn once, the log-Q corrected loss equals the full loss."""
    x, target, items = latents(head, 6), targets(head, 6), len(head.keys())
    every = NegativeSample(torch.arange(items), torch.zeros(items))
    expect_close("the sampled loss", head.loss(x, target, every), head.loss(x, target), rtol=1e-6, atol=1e-6)


def keys_and_bias_of_some_items_are_those_of_all(head: ItemHead) -> None:
    """Keys and bias of any items equal those of all items up to rounding, in any order and with repetitions."""
    items = len(head.keys())
    for chosen in ([], [items - 1], [2, 0, 2, 1]):
        index = torch.tensor(chosen, dtype=torch.int64)
        for what, some, every in zip(("keys", "bias"), head.scoring_keys(index), head.scoring_keys(), strict=True):
            expect((some is None) == (every is None), f"a {what} of some items where all have one", some)
            if some is not None and every is not None:
                expect_close(f"the {what} of items {chosen}", some, every[index])


def permuting_item_ids_permutes_the_scores_and_nothing_else(head: ItemHead) -> None:
    """If all tensors with one row per item are permuted, the scores are permuted."""
    head, items = copy.deepcopy(head), len(head.keys())
    order, x, target = torch.arange(items).flip(0).roll(2), latents(head, 4), targets(head, 4)
    before, loss = head.logits(x), head.loss(x, order[target])
    with torch.no_grad():
        for part in (head, *_shared(head)):
            for tensor in (*part.parameters(), *part.buffers()):
                if tensor.ndim and len(tensor) == items:
                    tensor.copy_(tensor[order].clone())
    expect_close("logits after the items changed places", head.logits(x), before[:, order])
    expect_close("the loss after the items changed places", head.loss(x, target), loss)


def scores_keep_their_precision(head: ItemHead) -> None:
    """Scores are float64 for float64 weights and float32 otherwise, also under autocast."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        cast = copy.deepcopy(head)
        for part in (cast, *_shared(cast)):
            part.to(dtype)
        expected = torch.promote_types(dtype, torch.float32)
        x, target = latents(head, 4).to(dtype), targets(head, 4)
        plain, loss = cast.logits(x), cast.loss(x, target)
        expect(plain.dtype == expected, f"logits in {expected} for weights in {dtype}", plain.dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expect_equal("logits under autocast", cast.logits(x), plain)
            expect_equal("the loss under autocast", cast.loss(x, target), loss)


def a_latent_of_zeros_has_finite_scores(head: ItemHead) -> None:
    """Scores, loss and gradients are finite for a latent of zeros."""
    x = torch.zeros_like(latents(head, 2)).requires_grad_()
    expect_finite("logits of zeros", head.logits(x))
    expect_finite_gradients(" at zeros", head.loss(x, targets(head, 2)), {"the latent": x})


def the_loss_has_gradients_for_latents_and_items(head: ItemHead) -> None:
    """Every weight has a gradient, including those of a shared embedding."""
    x = latents(head, 4).requires_grad_()
    learning = {"the latents": x, **dict(head.named_parameters())}
    learning |= {f"the shared {name}": p for part in _shared(head) for name, p in part.named_parameters()}
    expect_all_learn(head.loss(x, targets(head, 4)), learning)
    expect(len(learning) > 1, "weights that learn which item is which", "none")


def a_shared_embedding_is_saved_by_its_owner_alone(head: ItemHead) -> None:
    """A shared embedding is not in the modules, parameters or state of the head."""
    own = {id(tensor) for tensor in (*head.parameters(), *head.buffers())}
    for part in _shared(head):
        twice = [name for name, tensor in part.named_parameters() if id(tensor) in own]
        expect(not twice, "a shared part outside the head's module tree", f"{twice} in it")


CLAUSES = (
    a_shared_embedding_is_saved_by_its_owner_alone,
    logits_are_an_inner_product,
    latents_are_independent,
    the_loss_is_minus_the_mean_log_softmax_of_the_logits,
    with_every_item_drawn_once_the_sampled_loss_is_the_full_one,
    keys_and_bias_of_some_items_are_those_of_all,
    permuting_item_ids_permutes_the_scores_and_nothing_else,
    scores_keep_their_precision,
    a_latent_of_zeros_has_finite_scores,
    the_loss_has_gradients_for_latents_and_items,
)


def latents(head: ItemHead, *shape: int) -> Tensor:
    """Fixed latents ``(*shape, D)`` in the dtype of the keys."""
    keys = head.keys()
    owner = getattr(head, "embedding", head)
    return gaussian(*shape, getattr(owner, "dim", keys.shape[-1]), seed=3).to(keys.dtype)


def targets(head: ItemHead, *shape: int) -> Tensor:
    """Fixed item indices."""
    return torch.arange(torch.Size(shape).numel()).view(shape) * 3 % len(head.keys())


def _shared(head: ItemHead) -> list[torch.nn.Module]:
    parts = [getattr(head, key) for key in head.requires]
    return [part for part in parts if isinstance(part, torch.nn.Module)]


def _cases(maker: Maker) -> Iterator[Case]:
    for seed in (0, 1):
        yield Case(f"perturbed with seed {seed}", (perturbed(maker(dtype=torch.float64), seed),))


def _outputs(head: ItemHead) -> list[Tensor]:
    return [head.logits(latents(head, 3)).detach(), head.loss(latents(head, 3), targets(head, 3)).detach()]


SUITE = Suite(ItemHead, _cases, CLAUSES, _outputs)
