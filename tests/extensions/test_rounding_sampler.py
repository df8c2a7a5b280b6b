"""Rounding the prediction to the nearest item at every step: as a sampler that knows the items, and as a callback."""

from __future__ import annotations

import pytest
import torch

from diffusers_rec import DDIMSampler, DiffRec, SyntheticWorld
from diffusers_rec.testing import check_component

SEQUENCES = SyntheticWorld(20).sample(20).sequences()
HISTORIES = [SEQUENCES.vocabulary.ids[:3], SEQUENCES.vocabulary.ids[5:6]]


def nearest(latents, table):
    """The row of the table that is nearest to each latent."""
    return table[(latents @ table.T - table.square().sum(-1) / 2).argmax(-1)]


class RoundingSampler(DDIMSampler, name="rounding"):
    """DDIM from one item to the next: every prediction is rounded to the nearest item's latent."""

    requires = frozenset({"embedding"})

    def __init__(self, embedding, *, num_steps=None):
        super().__init__(num_steps=num_steps)
        self.embedding = embedding

    def sample(self, denoise, process, start, generator, *, callback=None):
        def rounded(xn, timesteps):
            return nearest(denoise(xn, timesteps), self.embedding.table().to(xn.dtype))

        return super().sample(rounded, process, start, generator, callback=callback)


def build(**settings):
    """A model whose predictions are no items."""
    embedding = {"name": "table", "init_std": 1.0}
    settings = {
        "sampler": "rounding",
        "denoiser": "conditional-mlp",
        "schedule": {"name": "sqrt", "num_timesteps": 20},
        "seeds": 5,
    } | settings
    return DiffRec(SEQUENCES.vocabulary, dim=6, max_length=8, embedding=embedding, **settings).eval()


def distance(model, latents):
    """How far each latent is from an item."""
    return torch.cdist(latents, model.embedding.table()).amin(-1)


def test_keeps_the_contract_except_that_predictions_are_not_the_denoisers():
    other_ends = "the_sample_is_the_last_prediction", "a_chain_over_every_step_lands_on_gaussian_data"
    check_component(RoundingSampler, num_steps=2, waive=["the_callback_sees_the_predictions", *other_ends])


def test_every_prediction_of_the_chain_and_its_end_are_items():
    model, predictions = build(), []
    sample = model.sample(HISTORIES, callback=lambda step: predictions.append(step.prediction))
    assert len(predictions) == model.schedule.num_timesteps
    assert max(distance(model, each).max() for each in [*predictions, sample]) < 1e-5
    assert distance(model, model.sample(HISTORIES, sampler="ddim")).min() > 0.1  # unless rounded, it is no item


def test_is_found_by_name_wherever_a_sampler_is_given():
    model, plain = build(), build(sampler="ddim")
    expected = model.sample(HISTORIES)
    torch.testing.assert_close(plain.sample(HISTORIES, sampler="rounding"), expected)
    torch.testing.assert_close(plain.replace(sampler="rounding").sample(HISTORIES), expected)
    again = DiffRec.from_config(model.vocabulary, model.config())
    assert again.sampler.embedding is again.embedding
    torch.testing.assert_close(again.eval().sample(HISTORIES), expected)


def test_refuses_latents_that_are_relative_to_a_centre():
    with pytest.raises(ValueError, match="the sampler 'rounding' compares latents with items, but from the source"):
        build(source="history")


@pytest.mark.parametrize("source", ["zero", "history"])
def test_a_callback_rounds_as_well(source):
    model = build(source=source, sampler={"name": "ddim", "num_steps": 10})
    table, signal, seen = model.embedding.table(), model.schedule.signal.float(), []

    def to_items(step):
        """The same step to m from the nearest item: the noise in xn stays, whatever it is centred on."""
        item = nearest(step.prediction, table)
        step.xn = step.xn + signal[step.previous] * (item - step.prediction)
        seen.append(distance(model, step.prediction).max())

    sample = model.sample(HISTORIES, callback=to_items)
    assert len(seen) == 10
    assert min(seen) > 0.1
    assert distance(model, sample).max() < 1e-5
