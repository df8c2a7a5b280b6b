"""Learning rates, clipping, averaging, precision, and optimizers of the user."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_runs import CONFIG, build, end, fit, uninterrupted

from diffusers_rec import DiffRec
from diffusers_rec.training import Callback, TrainingConfig
from diffusers_rec.training.learner import Learner
from diffusers_rec.training.precision import has_fast_bf16, resolved


def test_rates():
    constant = TrainingConfig(epochs=10, learning_rate=0.5)
    assert [constant.rate(done) for done in (0, 3.3, 10)] == [0.5] * 3
    cosine = replace(constant, decay="cosine")
    assert [cosine.rate(done) for done in (0, 2.5, 5, 10)] == pytest.approx(
        [0.5, 0.25 * (1 + math.cos(math.pi / 4)), 0.25, 0]
    )
    step = replace(constant, decay="step")
    assert [step.rate(done) for done in (0, 1.9, 2, 4, 9.9, 10)] == pytest.approx([0.5, 0.5, 0.05, 5e-3, 5e-5, 5e-5])
    warm = replace(constant, warmup_epochs=2)
    assert [warm.rate(done) for done in (0, 0.5, 1, 2, 9)] == pytest.approx([0, 0.125, 0.25, 0.5, 0.5])
    both = replace(cosine, warmup_epochs=2)
    assert [both.rate(done) for done in (1, 5)] == pytest.approx([cosine.rate(1) / 2, 0.25])


def test_each_step_has_its_rate(monkeypatch):
    seen = []
    step = Learner.step

    def spy(learner, *args, **kwargs):
        loss = step(learner, *args, **kwargs)
        seen.append(learner.optimizer.param_groups[0]["lr"])
        return loss

    monkeypatch.setattr(Learner, "step", spy)
    _, result = fit(epochs=2, decay="cosine", warmup_epochs=1)
    config = replace(CONFIG, epochs=2, decay="cosine", warmup_epochs=1)
    steps = len(seen) // 2
    assert steps > 3
    assert seen == pytest.approx([config.rate(number / steps) for number in range(2 * steps)])
    assert [row["learning_rate"] for row in result.history] == [config.rate(1), config.rate(2)]


def test_each_step_of_each_epoch_draws_anew(monkeypatch):
    seeds = []
    forward = DiffRec.forward

    def spy(model, batch, generator):
        seeds.append(generator.initial_seed())
        return forward(model, batch, generator)

    monkeypatch.setattr(DiffRec, "forward", spy)
    for seed in (0, 1):
        fit(epochs=2, seed=seed)
    assert len(seeds) > 20
    assert len(set(seeds)) == len(seeds)


def test_clipping_bounds_every_gradient(monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def spy(optimizer, *args, **kwargs):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    fit(epochs=1)
    free = norms.copy()
    norms.clear()
    bound = 0.5 * min(free)
    fit(epochs=1, clip_norm=bound)
    assert len(norms) == len(free)
    assert norms == pytest.approx([bound] * len(norms), rel=1e-3)


def test_weight_decay_shrinks_weights():
    size = [
        sum(float(p.detach().norm()) for p in fit(epochs=1, weight_decay=decay)[0].parameters()) for decay in (0, 5)
    ]
    assert size[1] < size[0]


def test_averaged_weights_follow_the_models_and_are_what_is_kept(monkeypatch):
    seen, steps = [], []
    update = Learner._update_average

    def spy(self, step):
        update(self, step)
        seen.append([parameter.detach().clone() for parameter in self.model.parameters()])
        steps.append(step)

    monkeypatch.setattr(Learner, "_update_average", spy)
    model = build()
    expected = [parameter.detach().clone() for parameter in model.parameters()]
    fit(model=model, average_decay=0.7, epochs=1)
    assert steps == list(range(len(steps)))
    for step, weights in enumerate(seen):
        decay = min(0.7, (1 + step) / (10 + step))
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, weights, strict=True)]
    for e, parameter in zip(expected, model.parameters(), strict=True):
        torch.testing.assert_close(parameter, e)


def test_the_average_has_what_the_model_has_counted():
    class Steps(Callback):
        number = 0

        def on_batch(self, run, losses):
            self.number += 1

    steps, terms = Steps(), ["cross-entropy", {"name": "kl", "annealing_steps": 100}]
    parts = {"denoiser": {"name": "plain", "encoder": "variational"}, "objective": {"name": "weighted", "terms": terms}}
    model, _ = fit(epochs=1, average_decay=0.7, callbacks=[steps], **parts)
    assert int(model.updates) == steps.number > 0


def test_bf16_stays_close_to_fp32():
    exact, rough = uninterrupted(), uninterrupted("bf16")
    assert exact[0] != rough[0]
    for name in ("reconstruction", "recommendation"):
        assert [row[name] for row in rough[1]] == pytest.approx([row[name] for row in exact[1]], rel=0.02)
    model, _ = fit(precision="bf16", epochs=1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("fast", "precision"), [(False, "fp32"), (True, "bf16")])
def test_auto_is_bf16_where_the_device_has_units_for_it(fast, precision, monkeypatch):
    monkeypatch.setattr("diffusers_rec.training.precision.has_fast_bf16", lambda device: fast)
    assert resolved("auto", torch.device("cpu")) == precision
    assert end(*fit(precision="auto", epochs=1)) == end(*fit(precision=precision, epochs=1))


def test_a_device_without_known_units_has_no_fast_bf16():
    assert not has_fast_bf16(torch.device("meta"))
    assert isinstance(has_fast_bf16(torch.device("cpu")), bool)


# An optimizer of the user


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=CONFIG.learning_rate, weight_decay=0.0, fused=True)


def groups(parameters):
    first, *others = parameters
    return torch.optim.SGD([{"params": [first], "lr": 1.0}, {"params": others}], lr=0.1, momentum=0.9)


class Counting(torch.optim.SGD):
    """Keeps its state in numbers, and adapts a number of its group."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["scale"] = 0.9 * group["scale"] + 0.05
            for parameter in group["params"]:
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                state["nothing"] = None
                if parameter.grad is not None:
                    parameter.data.add_(parameter.grad, alpha=-group["lr"] * group["scale"] / state["count"])


def counting(parameters):
    optimizer = Counting(parameters, lr=0.5)
    optimizer.param_groups[0]["scale"] = 1.0
    return optimizer


class Half(torch.optim.SGD):
    """Keeps a state of another precision than the parameters'."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter, dtype=torch.float64))
                    mean.lerp_(parameter.grad.double(), 0.1)
                    parameter.data.add_(mean, alpha=-group["lr"])


FACTORIES = {
    "amsgrad": lambda parameters: torch.optim.Adam(parameters, lr=3e-3, amsgrad=True),
    "momentum, groups": groups,
    "no state": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "eager state": torch.optim.Adagrad,
    "factored": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3, centered=True, momentum=0.5),
    "numbers": counting,
    "another precision": lambda parameters: Half(parameters, lr=0.1),
}


def test_the_default_is_adamw():
    assert end(*fit(optimizer=adamw)) == uninterrupted()


@pytest.mark.parametrize("kind", FACTORIES)
def test_any_optimizer_resumes_bit_for_bit(kind, tmp_path):
    def interrupt(record):
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, optimizer=FACTORIES[kind], on_epoch=interrupt)
    resumed = end(*fit(tmp_path, optimizer=FACTORIES[kind]))
    alone = end(*fit(optimizer=FACTORIES[kind]))
    assert resumed == alone
    assert alone[0] != uninterrupted()[0]


def test_the_schedule_multiplies_each_groups_own_rate():
    seen = []

    class Rates:
        def on_batch(self, run, losses):
            seen.append([group["lr"] for group in run.optimizer.param_groups])

    _, result = fit(epochs=2, decay="cosine", warmup_epochs=1, optimizer=groups, callbacks=[Rates()])
    config = replace(CONFIG, epochs=2, decay="cosine", warmup_epochs=1, learning_rate=1.0)
    steps = len(seen) // 2
    expected = [[factor * config.rate(number / steps) for factor in (1.0, 0.1)] for number in range(2 * steps)]
    assert np.array(seen) == pytest.approx(np.array(expected))
    assert [row["learning_rate"] for row in result.history] == [config.rate(1), config.rate(2)]


@pytest.mark.parametrize(
    "other",
    [
        None,
        lambda p: torch.optim.SGD(p, lr=0.2),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, lr=0.1),
        lambda p: torch.optim.SGD([{"params": [each]} for each in p], lr=0.1),
    ],
)
def test_another_optimizer_is_another_run(other, tmp_path):
    fit(tmp_path, epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    with pytest.raises(ValueError, match="holds a run with other settings"):
        fit(tmp_path, epochs=1, optimizer=other)


class NoRate(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {})


@pytest.mark.parametrize(
    ("optimizer", "error", "message"),
    [
        (torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), TypeError,
         r"optimizer must be a function from parameters to an optimizer, got SGD\. Write optimizer=lambda"),
        (list, TypeError, r"optimizer\(parameters\) must be Optimizer, got list"),
        (torch.optim.LBFGS, ValueError, "LBFGS needs a closure at each step"),
        (NoRate, ValueError, "group 0 of NoRate has no 'lr'"),
        (lambda p: torch.optim.SGD([*p, torch.nn.Parameter(torch.ones(1))]), ValueError,
         "group 0 of SGD holds a parameter that is not the model's"),
    ],
)  # fmt: skip
def test_an_optimizer_that_does_not_fit_is_refused_before_anything_is_written(optimizer, error, message, tmp_path):
    with pytest.raises(error, match=message):
        fit(tmp_path / "run", optimizer=optimizer)
    assert not (tmp_path / "run").exists()


class Listing(torch.optim.SGD):
    def step(self, closure=None):
        self.state[self.param_groups[0]["params"][0]]["past"] = [1, 2]


class Shared(torch.optim.SGD):
    def step(self, closure=None):
        self.state["shared"]["count"] = 1


@pytest.mark.parametrize(
    ("optimizer", "why"), [(Listing, "'past' in its state is a list"), (Shared, "'shared' in its")]
)
def test_a_state_that_cannot_be_saved_is_reported_and_trains_without_a_directory(optimizer, why, tmp_path):
    with pytest.raises(ValueError, match=rf"state of {optimizer.__name__} cannot be saved: {why}.*directory=None"):
        fit(tmp_path, epochs=1, optimizer=optimizer)
    fit(epochs=1, optimizer=optimizer)
