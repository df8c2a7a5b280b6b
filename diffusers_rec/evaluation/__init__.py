"""Evaluation: full rankings, and the simple rankers that a model must beat."""

from diffusers_rec.evaluation.audit import Audit, audit
from diffusers_rec.evaluation.baselines import evaluate_item_to_item, evaluate_memory, evaluate_popularity
from diffusers_rec.evaluation.full_ranking import Report, evaluate
from diffusers_rec.evaluation.metrics import hit_rate, ndcg, ranking_metrics

__all__ = [
    "Audit",
    "Report",
    "audit",
    "evaluate",
    "evaluate_item_to_item",
    "evaluate_memory",
    "evaluate_popularity",
    "hit_rate",
    "ndcg",
    "ranking_metrics",
]
