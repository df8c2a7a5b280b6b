"""Models of this library in RecBole, which trains, evaluates and saves them as its own sequential models.

RecBole's item i has index i - 1 here, because RecBole's item 0 is the padding. The model's ids are RecBole's tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.errors import check_class, require_extra
from diffusers_rec.data import Batch, History, Interactions, Sequences, Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec

SequentialRecommender: Any = require_extra("recbole.model.abstract_recommender", "recbole").SequentialRecommender
InputType: Any = require_extra("recbole.utils", "recbole").InputType


class RecBoleModel(SequentialRecommender):  # type: ignore[misc]  # RecBole has no types
    """A sequential model of RecBole around a :class:`~diffusers_rec.DiffRec`. A subclass defines :meth:`build`.

    RecBole's examples are all prefixes of the training sequences, each with its next item. What the model counts in the
    training data, such as its memory, comes from the same sequences. RecBole's settings ``train_neg_sample_args: ~``
    and ``MAX_ITEM_LIST_LENGTH`` apply.

    Args:
        config: Configuration of RecBole; ``seed`` is also that of the noise.
        dataset: Training data of RecBole.

    Attributes:
        recommender: The model. Its ``recommend`` and ``save_pretrained`` work outside RecBole, too.
    """

    input_type = InputType.POINTWISE  # no sampled negatives

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        items = Vocabulary(dataset.field2id_token[self.ITEM_ID][1:].tolist())
        self.recommender = check_class("The result of build(items)", self.build(items), DiffRec)
        self.recommender.prepare(self._sequences(dataset))
        self.generator = torch.Generator().manual_seed(config["seed"])

    def build(self, items: Vocabulary) -> DiffRec:
        """Build the model. ``self.max_seq_length`` is the largest number of items that RecBole shows.

        Args:
            items: RecBole's items, without the padding.
        """
        raise NotImplementedError(f"{type(self).__name__} must define build(items), which returns a DiffRec.")

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Loss of a batch of RecBole."""
        history = History.of_items(interaction[self.ITEM_SEQ] - 1, padding=-1).last(self.recommender.history_length)
        batch = Batch.next_item(history, interaction[self.POS_ITEM_ID] - 1)
        return self.recommender.loss(batch, self.generator).total

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Log-probabilities of RecBole's items, ``(B, 1 + V)``; minus infinity for the padding."""
        return F.pad(self.recommender.scores(interaction[self.ITEM_SEQ] - 1, padding=-1), (1, 0), value=-torch.inf)

    def predict(self, interaction: Any) -> Tensor:
        """Log-probability of one item for each history, ``(B,)``."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    def _sequences(self, dataset: Any) -> Sequences:
        """The training sequences: the targets of all rows, behind the one item of each user's first row."""
        rows = dataset.inter_feat  # oldest first
        first = rows[self.ITEM_SEQ_LEN] == 1
        users = torch.cat([rows[self.USER_ID][first], rows[self.USER_ID]])
        items = torch.cat([rows[self.ITEM_SEQ][first, 0], rows[self.ITEM_ID]])
        return Interactions.from_arrays(users, dataset.field2id_token[self.ITEM_ID][items.numpy()].tolist()).sequences()
