"""The model as one module of tensors, traced by ``torch.export`` and ``torch.compile``."""

from __future__ import annotations

import pytest
import torch
from strategies import gaussian, perturbed, seeded
from test_denoisers import SPECS, made, named
from torch import nn
from torch.torch_version import TorchVersion

from diffusers_rec import Calibration, DiffRec
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.encoders import HistoryEncoder
from diffusers_rec.integrations.onnx import export_onnx
from diffusers_rec.samplers import Sampler
from diffusers_rec.testing.queries import random_input

NUM_ITEMS, K = 30, 6
SHAPES = [(1, 1), (1, 7), (2, 3), (3, 5), (5, 9), (8, 2)]
DRAWS_NOISE = "ddpm", "unmask"
"""Samplers whose steps draw noise or items; a module without a generator cannot run them."""


def model_of(denoiser, **settings):
    """A small model, with no weight at zero, whose memory knows the synthetic world."""
    name = denoiser if isinstance(denoiser, str) else denoiser["name"]
    latents = Denoiser.named(name).prediction != "items" and name not in ("attribute", "function")
    size = {"dim": 16, "max_length": 10, "schedule": {"name": "sqrt", "num_timesteps": 20}, "seeds": 3}
    objective = {} if latents else {"objective": {"name": "weighted", "terms": ["cross-entropy"]}}
    return perturbed(DiffRec(range(NUM_ITEMS), denoiser=denoiser, **size, **objective, **settings)).eval()


def histories(batch, length):
    """Items with padding behind them that is no item, and lengths; the first row is full."""
    generator = seeded(batch * 10 + length)
    lengths = torch.randint(1, length + 1, (batch,), generator=generator)
    lengths[0] = length
    items = torch.randint(NUM_ITEMS, (batch, length), generator=generator)
    return items.where(torch.arange(length) < lengths[:, None], -1), lengths


def assert_ranks_as_the_model(run, model, module, **options):
    for batch, length in SHAPES:
        items, lengths = histories(batch, length)
        expected = model.top_k(items, lengths, K, **options)
        if not module.any_length:
            items = torch.nn.functional.pad(items, (0, module.history_length - length), value=-1)
        found, scores = run(items, lengths, module.noise(batch), torch.full((batch, 1), -1))
        assert torch.equal(found, expected.items), (batch, length)
        torch.testing.assert_close(scores, expected.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_further_items_are_left_out(exclude_seen):
    model = model_of("conditional-mlp")
    module = model.one_step(K, exclude_seen=exclude_seen)
    items, lengths = histories(3, 4)
    before, _ = module(items, lengths, module.noise(3))
    excluded = torch.tensor([[-1, -1], [int(before[1, 0]), -1], [int(before[2, 1]), int(before[2, 3])]])
    found, scores = module(items, lengths, module.noise(3), excluded)
    given = [row[:length].tolist() for row, length in zip(items, lengths, strict=True)]
    left_out = [[each for each in row if each >= 0] for row in excluded.tolist()]
    expected = model.recommend(given, K, exclude_seen=exclude_seen, exclude=left_out)
    assert found.tolist() == expected.items
    torch.testing.assert_close(scores, expected.scores, atol=1e-5, rtol=0)


def exported(module):
    return torch.export.export(module, module.example(), dynamic_shapes=module.dynamic_shapes(), strict=False)


@pytest.mark.parametrize("name", Denoiser.names())
def test_the_module_ranks_as_the_model(name):
    model = model_of(name)
    module = model.one_step(K)
    assert_ranks_as_the_model(module, model, module, sampler="one-step")


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("source", ["zero", "last-item", "encoder"])
def test_what_the_model_adds_to_its_network_is_in_the_module(exclude_seen, source):
    model = model_of("conditional-mlp", memory={"name": "transitions", "window": 4, "neighbours": 5}, source=source)
    model.memory.counts.copy_(gaussian(NUM_ITEMS, 5).abs())
    model.memory.items.copy_(torch.randint(NUM_ITEMS, (NUM_ITEMS, 5), generator=seeded(1)))
    module = model.one_step(K, exclude_seen=exclude_seen)
    assert_ranks_as_the_model(module, model, module, exclude_seen=exclude_seen)
    alone = model.without_memory()
    assert_ranks_as_the_model(alone.one_step(K, exclude_seen=exclude_seen), alone, module, exclude_seen=exclude_seen)


CALIBRATION = {"temperature": 1.3, "memory": 0.4, "popularity": 0.1, "seen": 0.02}


def calibrated(**memory):
    model = model_of("conditional-mlp", **memory)
    model.calibration = Calibration(**CALIBRATION)
    model.popularity.copy_(torch.arange(NUM_ITEMS))
    return model


@pytest.mark.parametrize("memory", [{}, {"memory": {"name": "transitions", "window": 4, "neighbours": 5}}])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_a_calibrated_model_gives_calibrated_probabilities(memory, exclude_seen):
    model = calibrated(**memory)
    if memory:
        model.memory.counts.copy_(gaussian(NUM_ITEMS, 5).abs())
        model.memory.items.copy_(torch.randint(NUM_ITEMS, (NUM_ITEMS, 5), generator=seeded(1)))
    module = model.one_step(K, exclude_seen=exclude_seen)
    assert_ranks_as_the_model(module, model, module, exclude_seen=exclude_seen)


@pytest.mark.parametrize("item", [0, NUM_ITEMS - 1])
def test_an_unlikely_item_does_not_disturb_the_calibrated_probabilities(item):
    model = model_of("conditional-mlp", head="linear")
    model.calibration = Calibration(temperature=1.3, popularity=0.1)
    with torch.no_grad():
        model.head.offset[item] = -1e7
    module = model.one_step(K)
    assert_ranks_as_the_model(module, model, module)


def test_fewer_items_than_k_end_in_no_item():
    model = model_of("plain", noising="target")
    items, lengths = torch.arange(9)[None], torch.tensor([9])
    module = model.one_step(NUM_ITEMS)
    found, scores = module(items, lengths, module.noise())
    expected = model.top_k(items, lengths, NUM_ITEMS)
    assert torch.equal(found, expected.items)
    assert found[0, -9:].tolist() == [-1] * 9
    assert not scores[0, -9:].any()


def test_the_module_serves_while_the_model_trains_on():
    model = model_of("conditional-mlp")
    module = model.one_step(K)
    arguments = (*histories(2, 3), module.noise(2))
    before = module(*arguments)[1]
    model.train()
    module.train()
    assert not any(part.training for part in module.modules())
    assert torch.equal(module(*arguments)[1], before)
    assert not before.requires_grad
    assert all(weight.requires_grad for weight in model.parameters())
    with torch.no_grad():
        model.embedding.weight.add_(1)  # shared
    assert not torch.equal(module(*arguments)[1], before)


def test_noise_is_that_of_the_seeds():
    module = model_of("conditional-mlp").one_step(K)
    assert module.noise(2).shape == (2, 3, 16)
    assert torch.equal(module.noise(2)[1], module.noise(1)[0])
    assert torch.equal(module.noise(1, [1])[:, 0], module.noise(1)[:, 1])


@pytest.mark.parametrize("name", Sampler.names())
def test_every_sampler_that_draws_no_noise_gives_a_module(name):
    sampler = {"name": name, **({"eta": 0.0} if "eta" in Sampler.named(name).settings() else {})}
    model = model_of("joint", process="mixed") if name == "unmask" else model_of("conditional-mlp")
    if name in DRAWS_NOISE:
        with pytest.raises(ValueError, match=f"the sampler '{name}' draws noise"):
            model.one_step(K, sampler=sampler)
        return
    module = model.one_step(K, sampler=sampler)
    assert_ranks_as_the_model(module, model, module, sampler=sampler)
    own = model.replace(sampler=sampler)
    assert_ranks_as_the_model(own.one_step(K), own, module)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"noising": {"name": "last-k", "k": 2}}, {}, "noise of one position, but the noising 'last-k' noises 2"),
        ({}, {"k": NUM_ITEMS + 1}, r"k must lie in 1..30, the number of items, got 31"),
        ({}, {"sampler": "ddpm"}, "sampler 'ddpm' draws noise"),
    ],
)
def test_what_no_module_can_compute_is_refused(settings, options, message):
    with pytest.raises(ValueError, match=message):
        model_of("conditional-mlp", **settings).one_step(**options)


def test_a_program_of_torch_export_takes_any_shape():
    model = model_of("conditional-mlp")
    module = model.one_step(K)
    assert_ranks_as_the_model(exported(module).module(), model, module)


@pytest.mark.slow
def test_a_calibrated_model_is_traced():
    model = calibrated()
    module = model.one_step(K)
    for traced in (exported(module).module(), torch.compile(module, fullgraph=True)):
        assert_ranks_as_the_model(traced, model, module)


@pytest.mark.slow
@pytest.mark.parametrize("name", Denoiser.names())
def test_every_denoiser_exports(name):
    model = model_of(name)
    module = model.one_step(K)
    assert_ranks_as_the_model(exported(module).module(), model, module, sampler="one-step")


@pytest.mark.slow
@pytest.mark.parametrize("name", HistoryEncoder.names())
def test_every_encoder_exports(name):
    model = model_of({"name": "plain", "encoder": name})
    module = model.one_step(K)
    program = exported(module)
    assert_ranks_as_the_model(program.module(), model, module)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(Sampler.names()) - set(DRAWS_NOISE)))
def test_every_chain_exports(name):
    sampler = {"name": name, **({"eta": 0.0} if "eta" in Sampler.named(name).settings() else {})}
    sampler |= {"num_steps": 3} if "num_steps" in Sampler.named(name).settings() else {}
    model = model_of("conditional-mlp")
    module = model.one_step(K, sampler=sampler)
    assert_ranks_as_the_model(exported(module).module(), model, module, sampler=sampler)


ENCODERS = [{"name": "plain", "encoder": name} for name in HistoryEncoder.names()]


@pytest.mark.slow
@pytest.mark.parametrize("spec", [*SPECS, *ENCODERS], ids=named)
def test_every_denoiser_and_encoder_compiles_into_one_graph(spec):
    denoiser = made(spec)
    given = random_input(denoiser, rows=2, queries=1, width=1, length=4, own_steps=False, seed=0)
    torch.compiler.reset()

    def predict(history, queries, xn, timesteps):
        return denoiser(xn, timesteps, denoiser.condition(denoiser.encode(history), queries))

    def step(xn, timesteps):
        return denoiser(xn, timesteps, condition)

    recurrent = torch._dynamo.config.patch(allow_rnn=any(isinstance(part, nn.GRU) for part in denoiser.modules()))
    with torch.no_grad(), recurrent:
        condition = denoiser.condition(denoiser.encode(given.history), given.queries)
        expected = step(given.xn, given.timesteps)
        for function, arguments in ((step, ()), (predict, (given.history, given.queries))):
            compiled = torch.compile(function, fullgraph=True, backend="eager")
            torch.testing.assert_close(compiled(*arguments, given.xn, given.timesteps), expected)


def test_an_older_pytorch_is_refused_before_a_file_is_written(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.8.1"))
    with pytest.raises(ValueError, match=r"expected PyTorch 2\.9 or later, got 2\.8\.1\. Upgrade PyTorch"):
        export_onnx(model_of("transformer"), tmp_path / "best.onnx", K)
    assert not list(tmp_path.iterdir())
