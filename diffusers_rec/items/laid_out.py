"""A head with its keys laid out for serving."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_rec.items.heads import ItemHead


class LaidOutHead(ItemHead):
    """A head whose keys and biases are computed once, in the dtype of the scores. It does not follow later training.

    Keys that the head computes are laid out dimension by dimension, which a product with few queries reads fastest.
    Keys that it stores are used as they are, without a copy.

    Args:
        head: Head to lay out.
    """

    def __init__(self, head: ItemHead) -> None:
        super().__init__()
        self._held = (head,)
        with torch.no_grad(), torch.inference_mode(False):  # the keys outlive the call
            keys, self._bias = head.scoring_keys()
            stored = keys.data_ptr() == head.scoring_keys()[0].data_ptr()
            self._keys = keys if stored else keys.T.contiguous().T

    @property
    def head(self) -> ItemHead:
        """The head itself."""
        return self._held[0]

    def queries(self, latent: Tensor) -> Tensor:
        return self.head.queries(latent)

    def keys(self, items: Tensor | None = None) -> Tensor:
        return self._keys if items is None else self._keys.index_select(0, items)

    def bias(self, items: Tensor | None = None) -> Tensor | None:
        return self._bias if self._bias is None or items is None else self._bias.index_select(0, items)
