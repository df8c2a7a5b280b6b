"""Figure 7: NDCG@10 and HR@10 by the number of seeds averaged, 1 to 20, of one trained model per data set.

Reverse chains, in which the draws differ, are shown beside the paper's one step: the probabilities at their ends are
averaged in the same way. The model's memory is left out, because its counts would raise all lines alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks import plots
from benchmarks.harness import argument_parser, at_least, command
from benchmarks.paper.options import add_run_options, parse_trials, results_of, sequences_of
from benchmarks.paper.rows import published, rows_of
from benchmarks.paper.serving import add_model_options, servings, trained_model
from benchmarks.paper.settings import DATASETS
from benchmarks.paper.variants import add_figure_options, ratio_name
from diffusers_rec import DiffRec, Holdout, ItemHead, Sampler
from diffusers_rec.data import pad
from diffusers_rec.evaluation import Report, ranking_metrics
from diffusers_rec.evaluation.full_ranking import user_chunks
from diffusers_rec.recommenders.head_scores import score_chunks
from diffusers_rec.recommenders.ranking import Scores, target_ranks

DEFAULT = 10
"""Seeds in the paper, Sec. 4.5.2."""

draw = partial(plots.score_figure, label="seeds averaged", numbers=True, by="model")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_run_options(parser)
    add_figure_options(parser, "best")
    add_model_options(parser)
    parser.add_argument("--datasets", "--dataset", nargs="+", default=DATASETS, choices=DATASETS)
    parser.add_argument("--most", type=at_least(1), default=20, help="maximum number of seeds")
    parser.add_argument("--users", type=at_least(1), help="maximum number of test users; all by default")
    options = parse_trials(parser, argv)
    results = results_of("figure7", options, "best")
    for dataset in options.datasets:
        split = sequences_of(dataset, options).leave_one_out()
        model, record = trained_model(dataset, split, options)
        test = split.test if options.users is None else split.test.sample(options.users, options.seed)
        for row in published(dataset, "DiffRec"):
            results.add({"setting": DEFAULT, **row})
        for name, (served_model, sampler) in servings(model, options).items():
            found = reports(served_model, test, options.most, sampler)
            for seeds, report in enumerate(found, start=1):
                for row in rows_of(report, dataset, name):
                    results.add({"setting": seeds, "users": len(test), **row, **record})
            first, last = (report.metrics()["ndcg@10"] for report in (found[0], found[-1]))
            if first:
                results.ratio(ratio_name(f"{dataset} {name} {options.most} seeds vs 1 ndcg10"), last / first)
            results.write(draw)  # after each way, so that finished ones are recorded


def reports(model: DiffRec, holdout: Holdout, most: int, sampler: Sampler, *, batch_size: int = 256) -> list[Report]:
    """The reports of ``evaluate`` on the network alone with 1, 2, ..., ``most`` seeds, from one pass over the draws."""
    ranks, masked = [], []
    for rows in user_chunks(holdout, batch_size):
        histories = holdout.histories.take(rows)
        history = pad(histories, model.history_length).to(model.device)
        latents = model.next_item_latents(history, seeds=most, sampler=sampler)
        targets = torch.from_numpy(holdout.targets[rows]).to(model.device)
        seen = pad(histories, fill=-1).items.to(model.device)
        with torch.no_grad():
            of_all, of_unseen = ranks_by_draws(model.head, latents, targets, seen)
        ranks.append(of_all)
        masked.append(of_unseen)
    return [
        Report(ranking_metrics(unseen), ranking_metrics(every), len(holdout))
        for every, unseen in zip(torch.cat(ranks, dim=1), torch.cat(masked, dim=1), strict=True)
    ]


def ranks_by_draws(head: ItemHead, latents: Tensor, targets: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The targets' ranks among all items and among the unseen, after each of S more draws, ``(S, B)`` both."""
    total = torch.zeros(len(latents), len(head.keys()), device=latents.device)
    users, every = slice(0, len(total)), slice(0, total.shape[1])
    found = []
    for count, draw in enumerate(latents.unbind(1), start=1):
        for chunk, log_probabilities in score_chunks(head, draw[:, None]):
            total[:, chunk] += log_probabilities[:, 0].exp()
        found.append(target_ranks([Scores(users, every, total / count)], targets, excluded=seen))
    ranks, masked = zip(*found, strict=True)
    return torch.stack(ranks).cpu(), torch.stack(masked).cpu()


if __name__ == "__main__":
    command(main)
