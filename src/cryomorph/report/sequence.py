"""What there is of each residue: how far it moves, how sure that is, and what it is part of."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.report.encoding import packed
from cryomorph.report.secondary import secondary_structure
from cryomorph.structure.model import Template


def sequence(
    template: Template, rmsf: NDArray[np.floating], uncertainty: NDArray[np.floating] | None
) -> dict[str, Any]:
    """Return residues in the order of the template.

    Parameters
    ----------
    template
        Of n residues.
    rmsf
        Å, shape (n,).
    uncertainty
        Å by which each may be off in a particle, shape (n,); None if unknown.

    Returns
    -------
    dict
        `chains` with name, first residue and end; `names` and `ids`; `secondary`, a letter each; `linked`, 1 where a
        residue is bonded to the next; `rmsf` and `uncertainty`.
    """
    starts = np.flatnonzero(np.diff(template.chain, prepend=-1))
    stops = [*starts[1:], len(template)]
    return {
        "chains": [
            {"name": template.chain_names[template.chain[start]], "start": int(start), "stop": int(stop)}
            for start, stop in zip(starts, stops, strict=True)
        ],
        "names": list(template.residue_names),
        "ids": list(template.residue_ids),
        "secondary": secondary_structure(template),
        "nucleotide": "".join("1" if is_one else "0" for is_one in template.is_nucleotide),
        "linked": "".join("1" if bonded else "0" for bonded in template.bonded) + "0",
        "rmsf": packed(rmsf),
        "uncertainty": None if uncertainty is None else packed(uncertainty),
    }
