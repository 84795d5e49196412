"""The backbone graph: covalent bonds between neighbouring residues and backbone hydrogen bonds."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryomorph.structure.model import Template

COUPLING = 0.084 * 332.0  # kcal Å / mol
ENERGY_LIMIT = -0.5  # kcal / mol
CALPHA_REACH = 9.0  # Å; no backbone hydrogen bond joins residues whose Cα are further apart
NO_AMIDE_HYDROGEN = ("PRO", "HYP", "DPR")


def peptide_bonds(template: Template) -> NDArray[np.int64]:
    """Residue pairs (e, 2), i < j, that are covalently linked neighbours."""
    first = np.flatnonzero(template.bonded)
    return np.stack([first, first + 1], axis=1)


def hydrogen_bonds(template: Template) -> NDArray[np.int64]:
    """Backbone hydrogen bonds by the electrostatic criterion of Kabsch and Sander (1983).

    `E = 0.084 · 332 (1/r_ON + 1/r_CH - 1/r_OH - 1/r_CN)` kcal/mol must lie below -0.5. Amide hydrogens that the
    template lacks are placed 1 Å from N, opposite to the carbonyl of the residue before. Nucleotides take no part.

    Returns
    -------
    array (e, 2)
        Donor residue (N-H) and acceptor residue (C=O), sorted.
    """
    nitrogen = template.named_atoms("N")
    hydrogen = _amide_hydrogens(template, nitrogen)
    carbon, oxygen = template.named_atoms("C"), template.named_atoms("O", "OT1", "OC1", "O1")
    protein = ~template.is_nucleotide
    donors = np.flatnonzero(protein & np.isfinite(hydrogen).all(1))
    acceptors = np.flatnonzero(protein & np.isfinite(carbon).all(1) & np.isfinite(oxygen).all(1))
    if not len(donors) or not len(acceptors):
        return np.empty((0, 2), dtype=np.int64)
    near = cKDTree(template.coordinates[donors]).sparse_distance_matrix(
        cKDTree(template.coordinates[acceptors]), CALPHA_REACH, output_type="coo_matrix"
    )
    i, j = donors[near.row], acceptors[near.col]
    apart = (np.abs(i - j) >= 2) | (template.chain[i] != template.chain[j])
    i, j = i[apart], j[apart]

    def inverse_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(1.0 / np.maximum(np.linalg.norm(a - b, axis=1), 0.5))

    energy = COUPLING * (
        inverse_distance(oxygen[j], nitrogen[i])
        + inverse_distance(carbon[j], hydrogen[i])
        - inverse_distance(oxygen[j], hydrogen[i])
        - inverse_distance(carbon[j], nitrogen[i])
    )
    bonds = np.stack([i, j], axis=1)[energy < ENERGY_LIMIT]
    return np.asarray(bonds[np.lexsort((bonds[:, 1], bonds[:, 0]))], dtype=np.int64)


def backbone_graph(template: Template) -> NDArray[np.int64]:
    """Edges (e, 2), i < j, each once: covalent neighbours and backbone hydrogen bonds."""
    edges = np.concatenate([peptide_bonds(template), np.sort(hydrogen_bonds(template), axis=1)])
    return np.asarray(np.unique(edges, axis=0), dtype=np.int64)


def _amide_hydrogens(template: Template, nitrogen: NDArray[np.float64]) -> NDArray[np.float64]:
    """Amide hydrogens (n, 3) of residues bonded to the one before; NaN for the others and for proline."""
    recorded = template.named_atoms("H", "HN", "D", "DN")
    carbon, oxygen = template.named_atoms("C"), template.named_atoms("O")
    carbonyl = carbon[:-1] - oxygen[:-1]
    placed = nitrogen.copy()
    placed[1:] += carbonyl / np.linalg.norm(carbonyl, axis=1, keepdims=True)
    hydrogen = np.where(np.isfinite(recorded), recorded, placed)
    donates = np.concatenate([[False], template.bonded])
    donates &= np.isfinite(nitrogen).all(1) & ~np.isin(template.residue_names, NO_AMIDE_HYDROGEN)
    hydrogen[~donates] = np.nan
    return hydrogen
