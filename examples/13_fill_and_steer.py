"""Fill and steer: gaps in a film list, filled in five ways, and slates with as much comedy as you want.

You learn what the preset `joint` adds to a ranking: `complete` fills gaps between known items, `slate` proposes several
items together, and a guide steers a call without training. The world of the films is known, so the true probability of
every answer is printed beside the model's.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from _films import film_world
from _options import parse
from _style import GREY, STYLE

from diffusers_rec import GAP, Interactions
from diffusers_rec.presets import joint
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)
world, titles, genre_of = film_world()
log = world.sample(200 if options.quick else 3000)
films = np.array(titles, dtype=object)[world.items.encode(log.item_vocabulary.ids)][log.items]
sequences = Interactions.from_arrays(log.user_vocabulary.decode(log.users), films, log.times).sequences()
split = sequences.leave_one_out()
model = joint(split.train.vocabulary, dim=32, k=5, dropout=0.0, low_pass=0.0, per_row=4)
recipe = TrainingConfig(
    epochs=1 if options.quick else 14, examples="all-positions", batch_targets=500, learning_rate=5e-3, decay="cosine"
)
train(model, split.train, split.validation, recipe)
index = {title: place for place, title in enumerate(titles)}


def true_log_likelihoods(histories, continuations):
    """Logarithm of the true probability of each continuation, item after item."""
    total, so_far = 0.0, [[index[film] for film in history] for history in histories]
    for films in zip(*continuations, strict=True):
        following = [index[film] for film in films]
        total = total + np.log(world.next_item_probabilities(so_far)[range(len(so_far)), following])
        so_far = [[*history, film] for history, film in zip(so_far, following, strict=True)]
    return total


# Two gaps: five ways to fill them, and what all pairs of films would be worth.
user = next(row for row in split.test.histories if len(row) == 7)
watched = split.test.histories.vocabulary.decode(user)
listed = [film if place not in (3, 5) else GAP for place, film in enumerate(watched)]
filled = model.complete([listed], samples=5)
pairs = [pair for pair in itertools.permutations(titles, 2) if not {*pair} & {*listed}]
windows = [[one, listed[4], other, listed[6]] for one, other in pairs]
truth = true_log_likelihoods([listed[:3]] * len(pairs), windows)
chance = dict(zip(pairs, np.exp(truth) / np.exp(truth).sum(), strict=True))
print("  ".join("?" if film is GAP else f"{film} ({genre_of[film]})" for film in listed[:4]))
print("  ".join("?" if film is GAP else f"{film} ({genre_of[film]})" for film in listed[4:]), "\n")
print(f"{'first gap':<30}{'second gap':<30}{'model':>9}{'truth':>9}")
for sample, log_likelihood in zip(filled[0], filled.log_likelihood[0].exp(), strict=True):
    names = [f"{sample[place]} ({genre_of[sample[place]]})" for place in (3, 5)]
    print(f"{names[0]:<30}{names[1]:<30}{log_likelihood:>9.4f}{chance[sample[3], sample[5]]:>9.4f}")
print(f"Of the {len(pairs):,} pairs, an average one has a probability of {1 / len(pairs):.5f}.\n")

# The dial: slates of five films, tilted towards comedy, or with a wanted number of comedies.
comedy = {title: 1 for title in titles if genre_of[title] == "comedy"}
everyone = [split.test.histories.vocabulary.decode(row) for row in split.test.histories]
few_seen = [history for history in everyone if len(comedy.keys() & set(history)) <= 3]  # there are ten comedies
histories = few_seen[: 30 if options.quick else 200]


def steered(guidance):
    """Comedies in each slate, and by how much it is likelier when steered than in truth, in nats an item."""
    slates = model.slate(histories, 5, samples=5, guidance=guidance)
    drawn = [(history, slate) for history, row in zip(histories, slates.items, strict=True) for slate in row]
    numbers = np.array([sum(film in comedy for film in slate) for _, slate in drawn])
    return numbers, (slates.log_likelihood.mean().item() - true_log_likelihoods(*zip(*drawn, strict=True)).mean()) / 5


tilt = {"name": "attribute", "values": comedy}
by_scale = {scale: steered({**tilt, "scale": scale}) for scale in (-3.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0)}
by_count = {count: steered({**tilt, "count": count}) for count in range(6)}

plt.style.use(STYLE)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", width_ratios=(3, 2))
for name, dial, marker, above in (("scale", by_scale, "o-", -13), ("count", by_count, "D-", 6)):
    left.plot(*np.array([(numbers.mean() / 5, cost) for numbers, cost in dial.values()]).T, marker, label=name)
    for value, (numbers, cost) in dial.items():
        left.annotate(
            f"{value:g}", (numbers.mean() / 5, cost), (0, above), textcoords="offset points", ha="center", size=8
        )
left.plot(by_scale[0.0][0].mean() / 5, by_scale[0.0][1], "o", ms=10, mfc="none", color=GREY, label="not steered")
left.set(
    title="The dial", xlabel="share of comedies in a slate", ylabel="cost: at most so far from the truth, nats an item"
)
left.set_ylim(0)
left.legend()
nearest = min(by_scale, key=lambda scale: abs(by_scale[scale][0].mean() - 3))
for shift, (label, numbers) in enumerate(
    {f"scale {nearest:g}": by_scale[nearest][0], "count 3": by_count[3][0]}.items()
):
    right.bar(np.arange(6) + 0.4 * shift - 0.2, np.bincount(numbers, minlength=6) / len(numbers), 0.4, label=label)
right.set(title="Three of five", xlabel="comedies in a slate", ylabel="share of slates")
right.legend()
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "13_fill_and_steer.png")

print("A scale sets the mean, a count every slate, which costs more. The cost bounds the divergence")
print("(Kullback-Leibler) from what follows in truth; without guidance it is the model's own error.\n")
print(f"{'guidance':<14}{'comedies of five':>20}{'deviation':>12}{'cost, nats an item':>21}")
rows = {"none": by_scale[0.0], f"scale {nearest:g}": by_scale[nearest]}
for name, (numbers, cost) in {**rows, **{f"count {count}": by_count[count] for count in (0, 1, 3, 5)}}.items():
    print(f"{name:<14}{numbers.mean():>20.2f}{numbers.std():>12.2f}{cost:>21.2f}")
