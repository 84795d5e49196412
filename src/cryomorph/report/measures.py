"""Distances and angles that the user asked for, over particles."""

from typing import Any

import numpy as np

from cryomorph.analysis.result import Analysis
from cryomorph.report.encoding import rounded
from cryomorph.report.histograms import histogram

UNITS = {"distance": "Å", "angle": "°", "dihedral": "°"}
"""By the first word of a column's name."""
MOST = 12


def measures(analysis: Analysis) -> list[dict[str, Any]]:
    """Return a histogram of each measure, with `name`, `unit` and the median in each state, `states`."""
    number = np.asarray(analysis.columns["state"])
    found = []
    for column in analysis.columns:
        kind, _, residues = column.partition("_")
        if kind not in UNITS or not residues:
            continue
        values = np.asarray(analysis.columns[column], dtype=np.float64)
        medians = [np.median(values[number == state.number]) for state in analysis.states]
        name = f"{kind} {residues.replace('_', ' – ')}"
        found.append({"name": name, "unit": UNITS[kind], "states": rounded(medians, 4), **histogram(values)})
    return found[:MOST]
