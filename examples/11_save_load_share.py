"""Save, load, share: the files of a saved model, and the errors of a damaged one.

You learn that a saved model is three plain files, JSON and safetensors, that contain no code and can be read without
this library. A loaded model gives the same bits as the saved one. Damage is detected from the content, and raises an
error.
"""

import json
import shutil

import torch
from _options import parse
from safetensors.torch import load_file

from diffusers_rec import DiffRec, SyntheticWorld
from diffusers_rec.evaluation import evaluate
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)
world = SyntheticWorld(num_items=200)
split = world.sample(num_users=300 if options.quick else 2000).sequences().leave_one_out()
items = split.train.vocabulary
model = best(items, dim=32, dropout=0.2)
recipe = TrainingConfig(
    epochs=1 if options.quick else 5, examples="all-positions", batch_targets=400, learning_rate=2e-3, decay="cosine"
)
train(model, split.train, split.validation, recipe)

folder = options.out / "11_save_load_share"
model.save_pretrained(folder)
loaded = DiffRec.from_pretrained(folder)

histories = [items.decode(split.test.histories[user]) for user in range(10)]
same = torch.equal(model.predict_proba(histories), loaded.predict_proba(histories))
print(f"the loaded model gives the same bits: {same}")
ndcg, optimum = evaluate(loaded, split.test).metrics()["ndcg@10"], world.best_metrics(split.test)["ndcg@10"]
print(f"its test NDCG@10 is {ndcg:.3f}, best possible {optimum:.3f}\n")

# Any program can read the files. The names of the other two carry the start of their SHA-256, and config.json names
# them: it is written last, so a folder never holds half a new model and half an old one.
saved = json.loads((folder / "config.json").read_text())
print("config.json:", ", ".join(saved))
weights = load_file(next(folder.glob("*.safetensors")))
print(f"weights: {len(weights)} tensors, among them embedding.weight {tuple(weights['embedding.weight'].shape)}")
print(f"items: {json.loads(next(folder.glob('items-*.json')).read_text())[:3]}, ...\n")

# Damage that a download can do to a folder, and the error that it raises.
damaged = options.out / "11_damaged"


def flip(path):
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path):
    """Somebody tried another head."""
    path.write_text(path.read_text().replace('"tied"', '"linear"'))


for what, damage, pattern in (
    ("one bit of the weights flipped", flip, "*.safetensors"),
    ("the config edited by hand", edit, "config.json"),
    ("the items missing", lambda path: path.unlink(), "items-*.json"),
    ("no config", lambda path: path.unlink(), "config.json"),
):
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(folder, damaged)
    damage(next(damaged.glob(pattern)))
    try:
        DiffRec.from_pretrained(damaged)
    except (ValueError, FileNotFoundError) as error:
        print(f"{what}:\n  {type(error).__name__}: {error}")
shutil.rmtree(damaged)

# To share the model, share the folder. This is all of it:
print(f"\n{'file':<36}{'bytes':>10}  what it is")
meaning = {"config.json": "every part and its settings", "items": "raw ids in the model's order", "model": "weights"}
for path in sorted(folder.iterdir()):
    print(f"{path.name:<36}{path.stat().st_size:>10,}  {meaning[path.name.split('-')[0]]}")
