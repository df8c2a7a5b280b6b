"""Encoders with random latents, and penalties in the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffusers_rec import Batch, DiffRec, History, SyntheticWorld, TrainingBatches, VariationalEncoder, load_pretrained
from diffusers_rec.encoders.adversarial import AdversarialEncoder
from diffusers_rec.encoders.variational import divergence
from diffusers_rec.objectives import CrossEntropyTerm, KLTerm
from diffusers_rec.presets import control
from diffusers_rec.testing.inputs import gaussian, perturbed
from diffusers_rec.training import TrainingConfig, train

SPLIT = SyntheticWorld(30, num_groups=3).sample(40).sequences().leave_one_out()
ITEMS = SPLIT.train.vocabulary
PLAIN = {"noising": "target", "sampler": "one-step", "seeds": 1, "timesteps": "uniform"}
KL = {"name": "kl", "weight": 0.5, "annealing_steps": 10}


def made(encoder="variational", terms=("cross-entropy", KL), denoiser="plain", **settings):
    return DiffRec(
        ITEMS, dim=8, max_length=8, denoiser={"name": denoiser, "encoder": encoder},
        objective={"name": "weighted", "terms": list(terms)}, **PLAIN, **settings,
    )  # fmt: skip


def first_batch(**settings):
    return next(iter(TrainingBatches(SPLIT.train, examples="all-positions", max_length=8, **settings).epoch(0)))


def history(latents):
    return History.of_latents(latents, torch.full((len(latents),), latents.shape[1]))


# The encoder ``variational``


def test_the_divergence_is_that_of_torch():
    mean, log_variance = gaussian(5, 3, seed=1), gaussian(5, 3, seed=2)
    of_torch = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(divergence(mean, log_variance), of_torch)
    assert not divergence(torch.zeros(2, 3), torch.zeros(2, 3)).any()


def test_the_divergence_is_the_mean_of_the_log_ratio():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.tensor([0.3, -1.0]).double(), torch.tensor([0.5, -0.7]).double()
    q, p = Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)
    z = mean + (log_variance / 2).exp() * torch.randn(200_000, 2, generator=generator, dtype=torch.float64)
    ratio = (q.log_prob(z) - p.log_prob(z)).sum(-1)
    assert abs(ratio.mean() - divergence(mean, log_variance)) < 4 * ratio.std() / math.sqrt(len(z))


def attended(block, x):
    """A block of one head, place by place, in plain loops."""
    attention, length, dim = block.attention, len(x), x.shape[1]
    query = attention.query(x)
    key, value = attention.key_value(x).split(dim, dim=1)
    rows = []
    for i in range(length):
        scores = torch.stack([query[i] @ key[j] / math.sqrt(dim) for j in range(i + 1)])
        shares = scores.exp() / scores.exp().sum()
        rows.append(sum(shares[j] * value[j] for j in range(i + 1)))
    x = block.attention_norm(x + attention.out(torch.stack(rows)))
    first, _, _, last = block.feed_forward
    return block.feed_forward_norm(x + last(first(x).relu()))


@pytest.mark.parametrize("training", [False, True])
def test_states_and_divergence_are_those_of_a_plain_loop(training, monkeypatch):
    encoder = perturbed(VariationalEncoder(8, 6, num_layers=2, generation_layers=2, dropout=0.0).double()).train(
        training
    )
    latents, noise = gaussian(2, 5, 8, seed=3), gaussian(2, 5, 8, seed=4)
    monkeypatch.setattr(torch, "randn_like", lambda like: noise)
    context = encoder.encode(history(latents))
    for row in range(2):
        x = latents[row] + encoder.place.weight[:5]
        for block in encoder.inference:
            x = attended(block, x)
        mean, std = encoder.mean(x), (0.5 * encoder.log_variance(x)).exp()
        z = mean + std * noise[row] if training else mean
        for block in encoder.generation:
            z = attended(block, z)
        torch.testing.assert_close(encoder.states(context, torch.arange(1, 6).expand(2, -1))[row], z)
        expected = sum(0.5 * (m**2 + s**2 - 1 - (s**2).log()) for m, s in zip(mean.T, std.T, strict=True))
        penalties = encoder.penalties(context, torch.tensor([[2, 5], [2, 5]]))
        torch.testing.assert_close(penalties["kl"][row], expected[[1, 4]])


def test_latents_are_drawn_in_training_and_are_means_in_serving():
    model = made()
    histories = [ITEMS.ids[:3]]
    assert torch.equal(model.eval().sample(histories), model.sample(histories))
    batch = first_batch()
    model.train()
    one, same, other = (model.loss(batch, torch.Generator().manual_seed(s)).named["cross-entropy"] for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert one != other


# The bound


@pytest.mark.parametrize("denoiser", ["plain", "conditional-mlp", "joint", "state-mlp"])
def test_the_loss_is_the_bound(denoiser):
    model = made(terms=["cross-entropy", {"name": "kl", "weight": 0.3}], denoiser=denoiser).eval()
    batch = first_batch()
    loss = model.loss(batch, torch.Generator().manual_seed(0))
    queried = batch.positions >= 1
    latents = History.with_latents(batch.history, model.embedding(batch.items))
    encoder = model.denoiser.encoder
    kl = encoder.encode(latents).divergence.gather(1, (batch.positions - 1).clamp(min=0))[queried].mean()
    torch.testing.assert_close(loss.named["kl"], kl)
    torch.testing.assert_close(loss.total, loss.named["cross-entropy"] + 0.3 * kl)
    assert loss.named["kl"] > 0


def test_a_query_without_history_has_no_penalty():
    model = made(terms=["cross-entropy", "kl"]).eval()
    items = torch.tensor([[3], [4]])
    batch = Batch(History(items, torch.ones(2, dtype=torch.int64)), torch.zeros(2, 1, dtype=torch.int64))
    loss = model.loss(batch, torch.Generator().manual_seed(0))
    assert loss.named["kl"] == 0


def test_a_guided_denoiser_has_the_penalties_of_its_base():
    config = {"name": "classifier-free", "base": {"name": "conditional-mlp", "encoder": "variational"}}
    model = made(terms=["squared", "kl"]).replace(denoiser=config)
    assert model.denoiser.penalised == ("kl",)
    assert model.loss(first_batch(), torch.Generator().manual_seed(0)).named["kl"] > 0
    plain = control(model)
    assert [term["name"] for term in plain.objective.config()["terms"]] == ["squared", "kl"]


@pytest.mark.parametrize(("encoder", "term"), [("gru", "kl"), ("variational", "discriminator")])
def test_a_penalty_that_no_encoder_has_is_refused(encoder, term):
    with pytest.raises(ValueError, match=f"reads the penalty '{term}', but the encoder of the denoiser 'plain' has"):
        made(encoder, ["cross-entropy", term])


def test_penalties_that_no_term_reads_are_named():
    with pytest.warns(UserWarning, match="No term of the objective reads 'discriminator', 'information', penalties"):
        made("adversarial", ["cross-entropy", "kl"])


def test_a_source_takes_no_encoder_with_penalties():
    with pytest.raises(ValueError, match=r"EncoderSource: the encoder 'variational' has the penalties kl"):
        made("gru", ["cross-entropy"], "conditional-mlp", source={"name": "encoder", "encoder": "variational"})


def test_a_step_without_a_penalty_says_so():
    model = made(terms=["cross-entropy"])
    model.objective.terms.append(KLTerm())
    model.objective._named["kl"] = model.objective.terms[-1]
    with pytest.raises(ValueError, match="This step has no penalty 'kl', only none at all"):
        model.loss(first_batch(), torch.Generator().manual_seed(0))


# Annealing


def beta(model):
    loss = model.loss(first_batch(), torch.Generator().manual_seed(0))
    return float((loss.total.detach() - loss.named["cross-entropy"]) / loss.named["kl"])


def test_beta_grows_by_the_steps_of_the_training_and_then_stays():
    model = made(terms=[CrossEntropyTerm(), KLTerm(0.5, annealing_steps=4)])
    found = [beta(model) for _ in range(7)]
    assert found == pytest.approx([0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5], abs=1e-4)
    model.eval()
    assert [beta(model) for _ in range(2)] == pytest.approx([0.5, 0.5], abs=1e-4)
    assert int(model.updates) == 7, "evaluation counts nothing"


def test_the_count_is_saved_with_the_model(tmp_path):
    model = made()
    for _ in range(3):
        model.loss(first_batch(), torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path)
    assert int(load_pretrained(tmp_path).updates) == 3
    assert int(model.replace(seeds=2).updates) == 3
    assert int(model.extend(["new"]).updates) == 3
    assert not hasattr(made(terms=["cross-entropy", "kl"]), "updates"), "a constant beta counts nothing"


def test_a_resumed_training_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path):
    config = TrainingConfig(epochs=4, examples="all-positions", batch_targets=40)

    class Killed(Exception):
        pass

    def kill(record):
        if record["epoch"] == 2:
            raise Killed

    whole, resumed = made(), made()
    train(whole, SPLIT.train, SPLIT.validation, config, directory=tmp_path / "whole", device="cpu")
    with pytest.raises(Killed):
        train(made(), SPLIT.train, SPLIT.validation, config, directory=tmp_path / "cut", device="cpu", on_epoch=kill)
    result = train(resumed, SPLIT.train, SPLIT.validation, config, directory=tmp_path / "cut", device="cpu")
    assert len(result.history) == 4
    assert int(whole.updates) > 2
    theirs = resumed.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in whole.state_dict().items())


def test_an_objective_that_counts_is_not_put_into_a_model_that_does_not():
    model = made(terms=["cross-entropy"])
    model.objective = made().objective
    with pytest.raises(ValueError, match=r"counts training steps.*model.replace"):
        model.check_fit()
    assert made(terms=["cross-entropy"]).replace(objective=made().objective.config()).updates == 0


# The encoder ``adversarial``


def judged(seed=0):
    encoder = perturbed(AdversarialEncoder(8, 6, hidden_dim=5, latent_dim=4, judge_dim=3, dropout=0.0).double())
    latents = gaussian(3, 5, 8, seed=seed).requires_grad_()
    return encoder, latents, encoder.encode(history(latents)), torch.arange(1, 6).expand(3, -1)


def reached(encoder, scalar, latents):
    scalar.backward()
    found = {name.partition(".")[0] for name, weight in encoder.named_parameters() if weight.grad is not None}
    return found, latents.grad is not None


def test_each_adversary_learns_from_its_own_loss_alone():
    encoder, latents, context, visible = judged()
    found, items = reached(encoder, encoder.penalties(context, visible)["discriminator"].sum(), latents)
    assert (found, items) == ({"discriminator"}, False)
    encoder, latents, context, visible = judged()
    found, items = reached(encoder, encoder.penalties(context, visible)["kl"].sum(), latents)
    assert "discriminator" not in found
    assert {"units", "noise", "latent"} <= found
    assert items
    encoder, latents, context, visible = judged()
    found, items = reached(encoder, encoder.penalties(context, visible)["information"].sum(), latents)
    assert {"units", "latent", "critic"} <= found
    assert "discriminator" not in found


def test_the_noise_of_serving_is_the_mean_of_that_of_training():
    encoder = perturbed(AdversarialEncoder(4, 6, hidden_dim=3, latent_dim=2, judge_dim=2).double())
    x, noise = torch.zeros(1, 1, 3).double(), encoder.noise
    served = noise.eval()(x)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = noise.train()(x.expand(200_000, 1, 3))
    assert ((drawn.mean(0) - served[0]).abs() < 5 * drawn.std(0) / math.sqrt(len(drawn))).all()


def test_the_best_discriminator_is_the_log_ratio():
    """For a fixed Gaussian q, the loss of the discriminator is least at log q - log p."""
    generator = torch.Generator().manual_seed(0)
    q, p = Normal(0.7, 0.6), Normal(0.0, 1.0)
    z = 0.7 + 0.6 * torch.randn(100_000, generator=generator, dtype=torch.float64)
    prior = torch.randn(100_000, generator=generator, dtype=torch.float64)

    def loss(of_ratio):
        return (torch.nn.functional.softplus(-of_ratio(z)) + torch.nn.functional.softplus(of_ratio(prior))).mean()

    best = loss(lambda z: q.log_prob(z) - p.log_prob(z))
    for off in (-0.3, 0.3):
        assert loss(lambda z, off=off: q.log_prob(z) - p.log_prob(z) + off) > best
        assert loss(lambda z, off=off: (1 + off) * (q.log_prob(z) - p.log_prob(z))) > best


def test_the_critic_compares_with_the_next_history_at_the_same_place_or_its_last():
    encoder, _, context, _ = judged()
    context = context._replace(lengths=torch.tensor([5, 2, 3]))
    z = context.latents
    expected = torch.stack([z[1, [0, 1, 1, 1, 1]], z[2, [0, 1, 2, 2, 2]], z[0]])
    torch.testing.assert_close(encoder._of_next(context), expected)


def test_a_history_without_items_is_no_other_history():
    encoder, _, context, _ = judged()
    z = context.latents
    some = encoder._of_next(context._replace(lengths=torch.tensor([5, 0, 3])))
    torch.testing.assert_close(some[[0, 2]], torch.stack([z[2, [0, 1, 2, 2, 2]], z[0]]))


def test_a_history_alone_in_its_batch_has_no_information():
    encoder, _, context, visible = judged()
    found = encoder.penalties(context._replace(lengths=torch.tensor([0, 3, 0])), visible)
    assert not found["information"].any()
    assert found["kl"].any()
    _, critic = found["information"].sum().backward(), encoder.critic
    assert all(weight.grad is not None for weight in critic.parameters()), "several processes can train together"
