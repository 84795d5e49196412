"""The frame of simulated images: the ensemble is put into it, and a template is docked in it."""

from dataclasses import replace

import numpy as np

from cryomorph.errors import InputError
from cryomorph.geometry import superpose
from cryomorph.simulate.molecules import Molecules, mean_residues
from cryomorph.structure.model import Template
from cryomorph.structure.trajectory import Ensemble


def map_frame(ensemble: Ensemble, *, align: bool = False) -> Ensemble:
    """Put an ensemble in the frame of its images: the mean of all heavy atoms of all conformations is the origin.

    One translation moves all conformations, so that they keep their places relative to each other.

    Parameters
    ----------
    ensemble
        K conformations.
    align
        First superpose each conformation on the first, by its residues (rotation and translation).
    """
    coordinates = ensemble.atom_coordinates.astype(np.float64)
    if align:
        residues = ensemble.residue_coordinates.astype(np.float64)
        rotation, translation = superpose(residues, residues[0])
        coordinates = coordinates @ np.swapaxes(rotation, -1, -2) + translation[:, None]
    heavy = ~np.isin(np.array(ensemble.template.elements), ("H", "D"))
    coordinates -= coordinates[:, heavy].mean((0, 1))
    return replace(ensemble, atom_coordinates=coordinates.astype(np.float32))


def dock(template: Template, molecules: Molecules) -> Template:
    """Place a template in the map frame: rigidly superposed, by its residues, on the mean of simulated conformations.

    Parameters
    ----------
    template
        A model with n residues.
    molecules
        The conformations, in the map frame.

    Raises
    ------
    InputError
        If the numbers of residues differ.
    """
    mobile = template.coordinates
    if len(mobile) != len(molecules.template):
        raise InputError(
            f"the template has {len(mobile)} residues and the conformations have {len(molecules.template)}; "
            "select the same residues of both"
        )
    return template.transformed(*superpose(mobile, mean_residues(molecules)))
