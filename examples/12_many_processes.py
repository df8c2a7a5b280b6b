"""Many processes: the same training, divided among several.

You learn that a training script needs no change: `train` joins the processes that it was launched in. Each takes its
share of the batches, and one of them prints the validation and saves. This script launches itself, as you would by

    torchrun --nproc-per-node 2 12_many_processes.py

`accelerate launch --multi_gpu --num_processes 2 12_many_processes.py` does the same, on CPUs as well. With `--cpu` in
place of `--multi_gpu`, accelerate starts one process only.
"""

import os
import subprocess
import sys

from _options import parse

from diffusers_rec import SyntheticWorld
from diffusers_rec.evaluation import evaluate
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)
processes = int(os.environ.get("WORLD_SIZE", "1"))  # both launchers set it, and RANK
is_main = os.environ.get("RANK", "0") == "0"

world = SyntheticWorld(num_items=200)
split = world.sample(num_users=300 if options.quick else 3000).sequences().leave_one_out()
model = best(split.train.vocabulary, dim=32, dropout=0.2)
recipe = TrainingConfig(
    epochs=1 if options.quick else 5,
    examples="all-positions",
    batch_targets=400 // processes,  # a step takes so many from each process: 400 in all, however many there are
    learning_rate=2e-3,
    decay="cosine",
)
# device="cpu" because this machine may have fewer GPUs than processes; without it each process takes a GPU.
result = train(model, split.train, split.validation, recipe, device="cpu")

if is_main:  # all processes end with the same weights; one is enough to print
    if processes == 1:
        print("For so small a model two processes on two busy cores are slower than one: the")
        print("exchange of gradients costs more than it saves. Speeds vary with the other load.\n")
        print(f"{'processes':<16}{'batch of each':>16}{'targets/s':>12}{'test NDCG@10':>16}", flush=True)
    speed, score = result.history[-1]["targets_per_second"], evaluate(model, split.test).metrics()["ndcg@10"]
    print(f"{processes:<16}{recipe.batch_targets:>16}{speed:>12,.0f}{score:>16.3f}", flush=True)

if processes == 1:
    # Now the same in two.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launch, *sys.argv], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    print(f"{'best possible':<16}{'':>16}{'':>12}{world.best_metrics(split.test)['ndcg@10']:>16.3f}")
