"""A path from one conformation to another on which chains keep their form as far as both ends agree on it."""

from dataclasses import replace

import numpy as np
import roma
import torch

from cryomorph.errors import InputError
from cryomorph.geometry import superpose
from cryomorph.structure.domains import read_domains
from cryomorph.structure.model import Template
from cryomorph.structure.trajectory import Ensemble


def morph(first: Template, last: Template, count: int, groups: str | None = None) -> Ensemble:
    """Conformations at equal steps from one model to another, both ends included.

    The last model is superposed on the first, by its residues. Then each chain turns about its centre, around one axis
    and by the smaller angle, at a constant rate, and its centre moves along a straight line. What the chain changes
    besides is added in proportion, in the frame that moves with it. At the share s of the way, with centres c,

        x(s) = R(s) (x_0 - c_0 + s d) + (1 - s) c_0 + s c_1,   d = R(1)ᵀ (x_1 - c_1) - (x_0 - c_0).

    Parameters
    ----------
    first, last
        Models of the same atoms; conformations are in the frame of the first.
    count
        How many conformations.
    groups
        Rigid domains in place of chains, as `read_domains` reads them.

    Raises
    ------
    InputError
        If the atoms of the two are not the same, or the groups are no domains.
    """
    for name in ("chain_names", "residue_ids", "residue_names", "atom_names"):
        if getattr(first, name) != getattr(last, name):
            what = name.replace("_", " ").replace("ids", "numbers")
            raise InputError(
                f"{first.source} and {last.source}: {what} differ; a morph needs two models of one molecule"
            )
    last = last.transformed(*superpose(last.coordinates, first.coordinates))
    place = np.linspace(0, 1, count)
    atoms = np.empty((count, len(first.atom_names), 3))
    for domain in read_domains(first, groups):
        rows = np.isin(first.atom_residue, domain.rows)
        start, end = first.atom_coordinates[rows], last.atom_coordinates[rows]
        turn, _ = superpose(first.coordinates[domain.rows], last.coordinates[domain.rows])
        vector = roma.rotmat_to_rotvec(torch.from_numpy(turn)).numpy()
        turns = roma.rotvec_to_rotmat(torch.from_numpy(place[:, None] * vector)).numpy()
        centres = np.stack([x.coordinates[domain.rows].mean(0) for x in (first, last)])
        change = (end - centres[1]) @ turn - (start - centres[0])
        inside = start - centres[0] + place[:, None, None] * change
        along = centres[0] + place[:, None] * (centres[1] - centres[0])
        atoms[:, rows] = inside @ np.swapaxes(turns, 1, 2) + along[:, None]
    return Ensemble(replace(first, source="morph"), atoms.astype(np.float32))
