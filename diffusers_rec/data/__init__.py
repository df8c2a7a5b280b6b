"""Data: interactions in, sequences and batches out."""

from diffusers_rec.data.batching import Batch, TrainingBatches, pad
from diffusers_rec.data.history import History
from diffusers_rec.data.interactions import Interactions
from diffusers_rec.data.readers import from_frame, read_interactions
from diffusers_rec.data.sequences import Holdout, Sequences, Split
from diffusers_rec.data.statistics import Statistics
from diffusers_rec.data.synthetic import SyntheticWorld
from diffusers_rec.data.vocabulary import Vocabulary

__all__ = [
    "Batch",
    "History",
    "Holdout",
    "Interactions",
    "Sequences",
    "Split",
    "Statistics",
    "SyntheticWorld",
    "TrainingBatches",
    "Vocabulary",
    "from_frame",
    "pad",
    "read_interactions",
]
