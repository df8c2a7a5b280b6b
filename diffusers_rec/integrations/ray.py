"""Recommendations for a dataset of Ray Data, by models on several machines (``pip install 'diffusers-rec[ray]'``)."""

from __future__ import annotations

import inspect
from os import PathLike
from pathlib import Path
from typing import Any

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_int, require_extra
from diffusers_rec.recommenders.loading import load_pretrained
from diffusers_rec.recommenders.tables import recommend_frame
from diffusers_rec.recommenders.user_calls import BATCHES_A_PART


@explained
def score(
    dataset: Any,
    path: str | PathLike[str],
    k: int | None = None,
    *,
    history: str = "history",
    batch_size: int = 256,
    concurrency: int | tuple[int, int] = 1,
    num_gpus: float = 0,
    **options: Any,
) -> Any:
    """The k likeliest next items of each user, bit for bit those of :func:`~diffusers_rec.recommend_frame`.

    Each actor loads the model once. Users are divided into the batches of ``recommend_frame``, because the last digits
    of a score depend on the batch. They also depend on the number of threads and the kind of processor.

    Args:
        dataset: ``ray.data.Dataset`` with a row for each user, whose items are in a list. Its context is set to keep
            the order of rows, on which the batches depend.
        path: Folder of the model, which all machines can read.
        k: See :func:`~diffusers_rec.recommend_frame`.
        history: See there.
        batch_size: See there.
        concurrency: Number of actors, or their least and greatest number.
        num_gpus: GPUs of each actor, or a share of one; the models are on the CPU if 0.
        options: Further options of :func:`~diffusers_rec.recommend_frame`, such as ``user`` and ``exclude``.

    Returns:
        Dataset with the columns of :func:`~diffusers_rec.recommend_frame`, computed when it is read.

    Raises:
        ValueError: The dataset has no column of histories.
        TypeError: Not a dataset, or an unknown option.
        ImportError: The extra ``ray`` is not installed.
    """
    data = require_extra("ray.data", "ray")
    if not isinstance(dataset, data.Dataset):
        raise TypeError(
            f"score: expected a ray.data.Dataset, got {type(dataset).__name__}. Use ray.data.from_pandas(frame) "
            "or ray.data.read_parquet(folder)."
        )
    options = {**options, "k": k, "history": history, "batch_size": check_int("batch_size", batch_size, minimum=1)}
    inspect.signature(recommend_frame).bind(None, None, **options)
    if history not in dataset.columns():
        raise ValueError(
            f"score: expected a row for each user with the items in the column {history!r}, but the dataset has "
            f"{dataset.columns()}. Name the column by history=; group a log with dataset.groupby(user).map_groups(...)."
        )
    scored = dataset.repartition(target_num_rows_per_block=batch_size * BATCHES_A_PART, strict=True).map_batches(
        _Scorer, fn_constructor_args=(Path(path).resolve(), num_gpus > 0, options), batch_size=None,
        batch_format="pyarrow", concurrency=concurrency, num_gpus=num_gpus,
    )  # fmt: skip
    scored.context.execution_options.preserve_order = True  # the context is shared with the given dataset
    return scored


class _Scorer:
    """A model in an actor."""

    def __init__(self, path: Path, on_gpu: bool, options: dict[str, Any]) -> None:
        self.model, self.options = load_pretrained(path).to("cuda" if on_gpu else "cpu"), options

    def __call__(self, table: Any) -> Any:
        return recommend_frame(self.model, table, **self.options)
