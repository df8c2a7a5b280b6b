"""``python -m tests.fuzz --seconds 60 --seed 0``: run the campaigns, print what came of them, exit 1 on a failure."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter

from . import calls, checkpoints, kills, states, threads, writers
from .harness import CLEAR, CRASH, EQUAL, FAILURES, OVER, SILENT, Trial, run

MODULES = (checkpoints, states, kills, writers, calls, threads)
CAMPAIGNS = {module.CAMPAIGN.name: module.CAMPAIGN for module in MODULES}


def main() -> int:
    """Run and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="time of each campaign")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=CAMPAIGNS, nargs="+", default=list(CAMPAIGNS))
    parser.add_argument("--trial", type=int, help="run this trial alone, of a campaign named by --only")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = {}
    for name in options.only:
        alone = {} if options.trial is None else {"first": options.trial, "count": 1}
        found[name] = run(CAMPAIGNS[name], options.seed, options.seconds, **alone)
        for trial in found[name]:
            if trial.failed or alone:
                print(f"{name} --seed {options.seed} --trial {trial.number}: {trial.mutation}")
                print(f"    {trial.outcome}: {trial.detail}", flush=True)
    print(table(found))
    return int(any(trial.failed for trials in found.values() for trial in trials))


def table(found: dict[str, list[Trial]]) -> str:
    """Counts of outcomes, one row a campaign."""
    other = sorted({name for campaign in CAMPAIGNS.values() for name in campaign.allowed})
    columns = [CLEAR, EQUAL, *other, SILENT, CRASH, OVER]
    lines = ["campaign     trials  " + "  ".join(columns)]
    for name, trials in found.items():
        counts = Counter(trial.outcome for trial in trials)
        cells = "  ".join(str(counts[column]).rjust(len(column)) for column in columns)
        lines.append(f"{name:<11}  {len(trials):>6}  {cells}")
    failed = sum(trial.failed for trials in found.values() for trial in trials)
    return "\n".join([*lines, f"{failed} failed ({', '.join(FAILURES)})"])


if __name__ == "__main__":
    sys.exit(main())
