"""How far a mean over documents may be off, where sections of one source are not independent."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence


def ratio_error(amounts: Sequence[float], sizes: Sequence[float], sources: Sequence[Hashable]) -> float | None:
    """Standard error of sum(amounts) / sum(sizes) over documents, clustered by their `sources`.

    Documents of one source may depend on each other in any way, so what departs from the common ratio is summed
    within a source before it is squared (the linearised ratio estimator, Cochran 1977, eq. 2.39, over clusters; Liang
    & Zeger 1986), with the correction G / (G - 1) for G sources. Where every document is a source of its own and all
    `sizes` are 1, it is the usual error of a mean. None for a single source, whose error cannot be known.
    """
    total = math.fsum(sizes)
    ratio = math.fsum(amounts) / total
    residuals: defaultdict[Hashable, float] = defaultdict(float)
    for amount, size, source in zip(amounts, sizes, sources, strict=True):
        residuals[source] += amount - ratio * size
    count = len(residuals)
    if count < 2:
        return None
    return math.sqrt(count / (count - 1) * math.fsum(r * r for r in residuals.values())) / total
