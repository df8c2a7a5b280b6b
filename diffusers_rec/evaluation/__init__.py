"""Evaluation: full rankings, recommended lists, tests of significance, and rankers that a model must beat."""

from diffusers_rec.evaluation.audit import Audit, audit
from diffusers_rec.evaluation.baselines import evaluate_item_to_item, evaluate_memory, evaluate_popularity
from diffusers_rec.evaluation.calibration import ProbabilityReport, expected_calibration_error
from diffusers_rec.evaluation.full_ranking import Report, evaluate
from diffusers_rec.evaluation.joint import GapReport, evaluate_gap, evaluate_joint
from diffusers_rec.evaluation.lists import coverage, diversity, evaluate_lists, gini, novelty
from diffusers_rec.evaluation.metrics import (
    hit_rate,
    metric_by_user,
    mrr,
    ndcg,
    precision,
    ranking_metrics,
    recall,
)
from diffusers_rec.evaluation.ranks import UserRanks
from diffusers_rec.evaluation.significance import PairedDifference, paired_bootstrap

__all__ = [
    "Audit",
    "GapReport",
    "PairedDifference",
    "ProbabilityReport",
    "Report",
    "UserRanks",
    "audit",
    "coverage",
    "diversity",
    "evaluate",
    "evaluate_gap",
    "evaluate_item_to_item",
    "evaluate_joint",
    "evaluate_lists",
    "evaluate_memory",
    "evaluate_popularity",
    "expected_calibration_error",
    "gini",
    "hit_rate",
    "metric_by_user",
    "mrr",
    "ndcg",
    "novelty",
    "paired_bootstrap",
    "precision",
    "ranking_metrics",
    "recall",
]
