"""A search confined to some documents: by label, title, id or source.

Shapes: U units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow
import pyarrow.compute

FIELDS = ("label", "title", "document", "source_id")
"""What a search can be confined by: label, title and id of a document, and the id of the source it is a section of."""

EXAMPLES = 8
"""Values of a field that an error names."""

Only = Mapping[str, Sequence[str]]
"""By field, the values that are sought: one of them, for every field that is named."""


def left_by(only: Only | None, units: pyarrow.Table, index: str) -> np.ndarray | None:
    """[U] whether `only` leaves a unit; None where it leaves all.

    `index`: what errors call the index. Raises ValueError for a field that is none of `FIELDS`, and where nothing is
    left.
    """
    left = None
    for field, values in (only or {}).items():
        if field not in FIELDS:
            raise ValueError(f"nothing can be confined by '{field}': choose one of {', '.join(FIELDS)}")
        column = units.column(field)
        fits = pyarrow.compute.is_in(column, pyarrow.array(values, pyarrow.string())).to_numpy()
        if not fits.any():
            known = ", ".join(f"'{value}'" for value in column.unique().drop_null().to_pylist()[:EXAMPLES])
            sought = " or ".join(f"'{value}'" for value in values)
            raise ValueError(
                f"no document in '{index}' has {field} {sought}"
                + (f"; some have {known}" if known else f": none has a {field}")
            )
        left = fits if left is None else left & fits
    if left is not None and not left.any():
        raise ValueError(f"no document in '{index}' fits {dict(only or {})}, though each of them fits some")
    return left
