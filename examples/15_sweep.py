"""Sweep: Optuna chooses parts and settings on validation.

You learn to search over history encoders, the noise level and training settings with Optuna (`pip install optuna`). A
trial is a short training. A trial that falls behind after an epoch is stopped there. The test set is not read: evaluate
the model that you choose once, at the end.
"""

from _options import parse

from diffusers_rec import SyntheticWorld
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

try:
    import optuna
except ModuleNotFoundError:
    print("This example needs Optuna, which is not installed: pip install optuna")
    raise SystemExit from None

options = parse(__doc__)
trials, epochs, users = (3, 2, 200) if options.quick else (10, 4, 800)
split = SyntheticWorld(num_items=200).sample(num_users=users).sequences().leave_one_out()


def objective(trial):
    """Validation NDCG@10 of one training; the seed is the same in all."""
    encoder = {
        "name": trial.suggest_categorical("encoder", ["causal-transformer", "gru", "filter"]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
    }
    model = best(split.train.vocabulary, dim=32, max_length=20).replace(
        denoiser={"encoder": encoder},
        schedule={"log_snr_shift": trial.suggest_float("log_snr_shift", -4.0, 0.0)},
    )
    config = TrainingConfig(
        epochs=epochs,
        examples="all-positions",
        learning_rate=trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
    )

    def report(record):
        trial.report(record["validation_ndcg@10"], record["epoch"])
        if trial.should_prune():
            raise optuna.TrialPruned

    return train(model, split.train, split.validation, config, device="cpu", on_epoch=report).best_score


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(
    direction="maximize",
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
)
study.optimize(objective, n_trials=trials)

finished = sorted((trial for trial in study.trials if trial.state.name == "COMPLETE"), key=lambda trial: -trial.value)
print(f"{len(study.trials)} trials, {len(study.trials) - len(finished)} of them stopped early\n")
print(f"{'encoder':<20}{'shift':>8}{'dropout':>10}{'rate':>10}{'NDCG@10':>10}")
for trial in finished[:5]:
    chosen = trial.params
    print(
        f"{chosen['encoder']:<20}{chosen['log_snr_shift']:>8.2f}{chosen['dropout']:>10.2f}"
        f"{chosen['learning_rate']:>10.1e}{trial.value:>10.3f}"
    )
