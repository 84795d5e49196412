"""Residues in words, for messages."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cryomorph.structure.model import Template

Rows = NDArray[np.int64]

STRETCHES_NAMED = 6
CHAINS_NAMED = 6


def name_residues(template: Template, rows: Rows) -> str:
    """Name residues, a sorted array of rows, by chain: "residues 3 to 9, 12 of chain A"."""
    pieces = []
    chains = np.unique(template.chain[rows])
    for index in chains[:CHAINS_NAMED]:
        inside = rows[template.chain[rows] == index]
        pieces.append(f"{stretches(inside, template.residue_ids.__getitem__)} of chain {template.chain_names[index]}")
    if len(chains) > CHAINS_NAMED:
        pieces.append(f"and those of {len(chains) - CHAINS_NAMED} more chains")
    return f"residue{'s' if len(rows) > 1 else ''} {'; '.join(pieces)}"


def stretches(rows: Rows, name: Callable[[int], str]) -> str:
    """Name sorted rows by the first and the last of each stretch: "3 to 9, 12"."""
    ends = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    names = [name(end[0]) if len(end) == 1 else f"{name(end[0])} to {name(end[-1])}" for end in ends]
    more = f" and {len(names) - STRETCHES_NAMED} more stretches" if len(names) > STRETCHES_NAMED else ""
    return ", ".join(names[:STRETCHES_NAMED]) + more
