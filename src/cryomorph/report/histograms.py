"""Distributions of particles, as counts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.report.encoding import rounded

MOST_BINS = 60


def histogram(
    values: NDArray[np.floating], *, bins: int = MOST_BINS, limits: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Count values (m,); those outside of the limits, by default the 0.1 and 99.9 percentiles, count in the end bins.

    Returns
    -------
    dict
        `edges`, `counts`, `median` and, if any, how many values are not `finite`.
    """
    finite = values[np.isfinite(values)]
    low, high = limits or (tuple(np.percentile(finite, [0.1, 99.9])) if len(finite) else (0.0, 1.0))
    if not high > low:
        low, high = low - 0.5, low + 0.5
    number = min(bins, max(8, int(2 * len(finite) ** (1 / 3))))
    counts, edges = np.histogram(np.clip(finite, low, high), bins=number, range=(low, high))
    return {
        "edges": rounded(edges),
        "counts": counts.tolist(),
        "median": rounded([np.median(finite)])[0] if len(finite) else None,
        "missing": len(values) - len(finite),
    }
