"""Every history encoder twice: as a plain model, and within a diffusion model.

You learn that a plain model is a composition, too: an encoder, the denoiser `plain` and a cross-entropy. With
`model.replace(denoiser="conditional-mlp", ...)` the same encoder is that of a diffusion model, and the difference
between the two is what diffusion adds to the next item.
"""

from math import sqrt

from _options import parse
from _style import GREY, STYLE
from matplotlib import rc_context
from matplotlib.figure import Figure

from diffusers_rec import DiffRec, HistoryEncoder, SyntheticWorld
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)
world = SyntheticWorld(num_items=100)
split = world.sample(num_users=200 if options.quick else 800).sequences().leave_one_out()
recipe = TrainingConfig(
    epochs=1 if options.quick else 6, batch_targets=400, learning_rate=4e-3, decay="cosine", calibrate=False
)


def penalties(encoder):
    """Terms of what an encoder adds to a loss, such as the divergence of its latents; most add nothing."""
    return [{"name": name, "weight": 0.01} for name in encoder.penalised]


def plain(encoder):
    """A plain next-item model: the state of the encoder is trained to score the next item."""
    return DiffRec(
        split.train.vocabulary,
        dim=32,
        max_length=20,
        embedding={"name": "table", "scale": "unit", "init_std": 0.02},
        denoiser={"name": "plain", "encoder": {"name": encoder, "dropout": 0.1}},
        head="tied",
        objective={"name": "weighted", "terms": ["cross-entropy", *penalties(HistoryEncoder.named(encoder))]},
        sampler="one-step",
        seeds=1,
    )


def diffusion(model):
    """The same encoder, whose state a perceptron denoises; trained from pure noise and at a sampled step."""
    terms = [{"name": "cross-entropy", "at": "final"}, {"name": "cosine", "weight": 0.1}]
    objective = {"name": "weighted", "terms": [*terms, *penalties(model.denoiser.encoder)]}
    return model.replace(denoiser="conditional-mlp", objective=objective, seeds=5)


def hit_rate(model):
    """HR@10 on the test items after training."""
    train(model, split.train, split.validation, recipe)
    return evaluate(model, split.test).metrics()["hr@10"]


rates = {}
print(f"A standard error is {0.5 / sqrt(len(split.test)):.3f} at most: differences below two of them mean little.\n")
print(f"{'HR@10 of the encoder':<28}{'plain':>8}{'with diffusion':>16}")
for name in HistoryEncoder.names():
    rates[name] = hit_rate(plain(name)), hit_rate(diffusion(plain(name)))
    print(f"{name:<28}{rates[name][0]:>8.3f}{rates[name][1]:>16.3f}", flush=True)
limits = {
    "popularity": evaluate_popularity(split.test.histories, split.test).metrics()["hr@10"],
    "best possible": world.best_metrics(split.test)["hr@10"],
}
for name, limit in limits.items():
    print(f"{name:<28}{limit:>8.3f}")

with rc_context(STYLE):
    figure = Figure(figsize=(8, 1.4 + 0.34 * len(rates)), layout="constrained")
    axis = figure.subplots()
    for column, (label, marker) in enumerate((("plain", "s"), ("with diffusion", "o"))):
        axis.plot([pair[column] for pair in rates.values()], range(len(rates)), marker, label=label)
    axis.hlines(range(len(rates)), *zip(*map(sorted, rates.values()), strict=True), color=GREY, lw=0.8, zorder=0)
    for name, limit in limits.items():
        axis.axvline(limit, color=GREY, ls=":")
        axis.annotate(
            name, (limit, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center"
        )
    axis.set_yticks(range(len(rates)), list(rates))
    axis.set(xlim=(0, None), ylim=(len(rates) - 0.5, -0.5), xlabel="HR@10 on the test items")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=2)
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "14_encoders.png")
