"""Base of the Hugging Face `evaluate` modules in eval/metrics: columns that accumulate over batches and processes.

Shapes: N rows (documents or units), U units, Z latent size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Features, Value
from torch import Tensor

ROWS = {
    "string": "names, one for each row",
    "int64": "whole numbers from 0 on, one for each row",
    "float64": "finite numbers, one for each row",
    "vector": "finite numbers, [rows, latent size]",
}


class AccumulatedMetric(evaluate.Metric, ABC):
    """A metric of columns of names (`string`), counts (`int64`), numbers (`float64`) or vectors (sequences).

    `add_batch` takes lists, arrays or tensors and says at once what is wrong with them. The library gathers the
    rows in files, so a result is that of all rows whatever the batches and processes they came in. With several
    processes each must call `add_batch`, with empty columns if it has no rows: the first calls wait for each other.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # `MetricInfo` takes it for scalar columns alone, but vectors of one length become a matrix as well.
        self.info.format = "numpy"

    @abstractmethod
    def _compute(self, **columns: np.ndarray) -> dict[str, Any]:
        """All rows of every column -> results."""

    def add_batch(self, *, predictions: Any = None, references: Any = None, **columns: Any) -> None:
        """Add rows. Raises ValueError naming the column that is missing, unknown or not as it should be."""
        given = {"predictions": predictions, "references": references} | columns
        given = {name: values for name, values in given.items() if values is not None}
        if given.keys() != self.features.keys():
            raise ValueError(f"{self.name} takes {', '.join(self.features)}; given were {', '.join(given) or 'none'}")
        rows = {name: _rows(name, values, self.features) for name, values in given.items()}
        if len({len(values) for values in rows.values()}) > 1:
            counts = ", ".join(f"{name} {len(values)}" for name, values in rows.items())
            raise ValueError(f"{self.name} needs equally many rows in all columns; given were {counts}")
        if len({values.shape[1:] for values in rows.values() if values.ndim == 2}) > 1:
            sizes = ", ".join(f"{name} {values.shape[1]}" for name, values in rows.items() if values.ndim == 2)
            raise ValueError(f"{self.name} needs one latent size in all columns; given were {sizes}")
        super().add_batch(**{name: values.tolist() for name, values in rows.items()})

    def add(self, *, prediction: Any = None, reference: Any = None, **row: Any) -> None:
        """One row; see `add_batch`."""
        row = {"predictions": prediction, "references": reference} | row
        self.add_batch(**{name: None if value is None else _array(value)[None] for name, value in row.items()})

    def compute(self, **columns: Any) -> dict[str, Any] | None:
        """The result of all rows so far, and of `columns`, if given; None in all processes but the first."""
        if columns:
            self.add_batch(**columns)
        return super().compute()


def matrix(name: str, rows: np.ndarray) -> Tensor:
    """The gathered vectors of column `name`, [U, Z]. Raises ValueError where there are none or of several sizes."""
    if not len(rows):
        raise ValueError(f"no unit was added: {name} is empty in all batches of all processes")
    if rows.ndim != 2:
        sizes = sorted({len(row) for row in rows})
        raise ValueError(f"{name} has vectors of {sizes} dimensions: use one metric, and experiment_id, for each level")
    return torch.from_numpy(rows)


def _rows(name: str, values: Any, features: Features) -> np.ndarray:
    feature = features[name]
    kind = feature.dtype if isinstance(feature, Value) else "vector"
    try:
        array = _array(values)
    except (ValueError, TypeError):
        raise ValueError(f"{name} must be {ROWS[kind]}; its rows differ in length") from None
    if not array.size:
        return array.reshape(0)
    if kind == "string":
        fits = array.ndim == 1 and array.dtype.kind in "Uiu"
        array = array.astype(str)
    elif kind == "int64":
        fits = array.ndim == 1 and array.dtype.kind in "iu" and bool((array >= 0).all())
    else:
        fits = (
            array.ndim == (2 if kind == "vector" else 1)
            and array.dtype.kind in "iuf"
            and bool(np.isfinite(array).all())
        )
    if not fits:
        shape = f"{array.dtype} of shape {list(array.shape)}, such as {array.flat[0]}"
        raise ValueError(f"{name} must be {ROWS[kind]}; given was {shape}")
    return array


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    return np.asarray(values)
