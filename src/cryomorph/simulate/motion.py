"""Molecules of which each moves in its own way: chains that deform along their normal modes and turn.

Koo et al., CryoChains, section 3.1, simulate their images so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gemmi
import numpy as np
import roma
import torch
from numpy.typing import NDArray

from cryomorph.simulate.settings import Motion
from cryomorph.structure.domains import Domain, read_domains
from cryomorph.structure.model import Template
from cryomorph.structure.modes import Modes, displaced, template_modes
from cryomorph.structure.trajectory import Ensemble

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

_STREAM = 1  # of an image's random numbers; those without a number are its noise


@dataclass(frozen=True)
class MovingDomains:
    """K conformations of m atoms, each made from one of an ensemble by moving its D domains; computed when asked for.

    A domain of r residues at `x_0` first deforms along its k normal modes `U`, `x_0 + sqrt(r / k) Σ_j d_j U_j`, all
    atoms of a residue with its representative one; then it turns about its centre of mass.

    Attributes
    ----------
    ensemble : Ensemble
        Where the motions start.
    start : array (K,)
        Which conformation of the ensemble that is.
    domains : D domains
        Of the ensemble's template.
    modes : tuple of tuples
        Normal modes of each domain in each conformation of the ensemble, as if it were alone.
    weights : array (K, D, k)
        `d` in Å.
    rotation : array (K, D, 3, 3)
        Turns of the map frame.
    """

    ensemble: Ensemble
    start: Rows
    domains: tuple[Domain, ...]
    modes: tuple[tuple[Modes, ...], ...]
    weights: Array
    rotation: Array

    @property
    def template(self) -> Template:
        """The first conformation of the ensemble."""
        return self.ensemble.template

    def __len__(self) -> int:
        """Return the number of conformations."""
        return len(self.start)

    def atoms(self, rows: Rows) -> NDArray[np.float32]:
        """Return all atoms of some conformations in Å: rows (b,) to (b, m, 3)."""
        return self._positions(rows, np.arange(len(self.template.elements))).astype(np.float32)

    def residues(self, rows: Rows) -> Array:
        """Return representative atoms of some conformations in Å: rows (b,) to (b, n, 3)."""
        return self._positions(rows, self.template.representative_atoms)

    def drawn(self) -> Mapping[str, NDArray[Any]]:
        """Return what makes the conformations, by the names that it has in a truth file."""
        return {
            "domains": np.array([domain.name for domain in self.domains]),
            "mode_weights": self.weights,
            "domain_rotation": self.rotation,
        }

    def _positions(self, rows: Rows, atoms: Rows) -> Array:
        """Positions (b, a, 3) of some atoms (a,): `R (x_0 + Δ - c) + c`; Δ is the residue's, R and c the domain's."""
        start = self.start[rows]
        displacement = self._displacement(rows)
        offset = np.empty_like(displacement)  # of what is turned, by residue
        residue = self.template.atom_residue[atoms]
        positions = np.empty((len(rows), len(atoms), 3))
        for number, domain in enumerate(self.domains):
            turn = np.swapaxes(self.rotation[rows, number], -1, -2)
            moved = displacement[:, domain.rows]
            centre = self._centre[start, number] + np.einsum("r,bri->bi", self._residue_share[domain.rows], moved)
            offset[:, domain.rows] = (moved - centre[:, None]) @ turn + centre[:, None]
            inside = np.flatnonzero(np.isin(residue, domain.rows))
            positions[:, inside] = self.ensemble.atom_coordinates[start[:, None], atoms[inside]] @ turn
        positions += offset.take(residue, axis=1)
        return positions

    def _displacement(self, rows: Rows) -> Array:
        """Displacements (b, n, 3) of the residues along the normal modes in Å."""
        start = self.start[rows]
        displacement = np.zeros((len(rows), len(self.template), 3))
        for conformation in np.unique(start):
            same = np.flatnonzero(start == conformation)
            for number, (domain, modes) in enumerate(zip(self.domains, self.modes[conformation], strict=True)):
                amplitudes = self.weights[rows[same], number] / np.sqrt(self.weights.shape[-1])
                moved = displaced(np.zeros((len(domain.rows), 3)), modes, amplitudes)
                displacement[same[:, None], domain.rows] = moved
        return displacement

    @cached_property
    def _mass(self) -> Array:
        weight = {element: gemmi.Element(element).weight for element in set(self.template.elements)}
        return np.array([weight[element] for element in self.template.elements])

    @cached_property
    def _residue_share(self) -> Array:
        """Share (n,) that each residue has in the mass of its domain."""
        share = np.zeros(len(self.template))
        np.add.at(share, self.template.atom_residue, self._mass)
        for domain in self.domains:
            share[domain.rows] /= share[domain.rows].sum()
        return share

    @cached_property
    def _centre(self) -> Array:
        """Centre of mass of every domain in every conformation of the ensemble in Å, shape (conformations, D, 3)."""
        centre = np.empty((len(self.ensemble), len(self.domains), 3))
        for number, domain in enumerate(self.domains):
            inside = np.isin(self.template.atom_residue, domain.rows)
            centre[:, number] = np.average(self.ensemble.atom_coordinates[:, inside], 1, self._mass[inside])
        return centre


def set_in_motion(ensemble: Ensemble, motion: Motion, start: Rows, seed: int) -> MovingDomains:
    """Draw a motion for every image.

    Every image has a random stream of its own, so that its motion does not depend on how many there are.

    Parameters
    ----------
    ensemble
        Where the motions start.
    motion
        What is drawn: weights from a mixture, and for each domain angles about x, y and z, uniformly. The domain turns
        about the first of these axes of the map first, about the last one last.
    start
        Conformation of the ensemble that each image starts from, shape (M,).
    seed
        Of the random streams.

    Raises
    ------
    InputError
        If the groups are no domains of the molecule, or a domain does not have that many normal modes.
    """
    domains = read_domains(ensemble.template, motion.groups)
    modes = tuple(
        tuple(_modes(ensemble.conformation(row), motion.modes, domain) for domain in domains)
        for row in range(len(ensemble))
    )
    angles = np.empty((len(start), len(domains), 3))
    weights = np.empty((len(start), len(domains), motion.modes))
    for image in range(len(start)):
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(image, _STREAM)))
        angles[image] = generator.uniform(-motion.rotation, motion.rotation, angles.shape[1:])
        if motion.mixture is not None:
            mean = generator.choice(motion.mixture.means, weights.shape[1:])
            weights[image] = mean + motion.mixture.deviation * generator.standard_normal(mean.shape)
    rotation = roma.euler_to_rotmat("xyz", torch.from_numpy(angles), degrees=True).numpy()
    return MovingDomains(ensemble, start, domains, modes, weights, rotation)


def _modes(template: Template, count: int, domain: Domain) -> Modes:
    if count == 0:
        return Modes(np.zeros(0), np.zeros((0, len(domain.rows), 3)))
    return template_modes(template, count, rows=domain.rows)
