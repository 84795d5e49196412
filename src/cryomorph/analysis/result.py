"""What an analysis holds; `cryomorph.analysis.store` keeps it in the run folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of the conformations of all particles.

    Attributes
    ----------
    mean : array (n, 3)
        Mean coordinates in Å.
    modes : array (k, n, 3)
        Orthonormal over all 3n coordinates; each mode's sign is that of its largest coordinate.
    variance : array (k,)
        Of the particles along each, as the mean square displacement of a residue, Å²; descending.
    total : float
        Mean square displacement of a residue over all components, Å².
    """

    mean: Array
    modes: Array
    variance: Array
    total: float

    @property
    def share(self) -> Array:
        """Of all variance along each, shape (k,)."""
        return np.asarray(self.variance / max(self.total, 1e-12))


@dataclass(frozen=True, eq=False)
class State:
    """A group of particles with similar conformations.

    Attributes
    ----------
    number : int
        From 1, most populated first; the column `state` has it.
    population : int
        Particles in it.
    particle : int
        Row of the particle nearest to its centre, which stands for it.
    latents : array (d,)
        Of that particle.
    coordinates : array (n, 3)
        Of that particle, in Å.
    """

    number: int
    population: int
    particle: int
    latents: Array
    coordinates: Array


@dataclass(frozen=True, eq=False)
class Motion:
    """A path through conformations, to play.

    Attributes
    ----------
    name : str
        E.g. "pc1", or "path" for the one along the particles' density.
    place : array (s,)
        Of each step along the component, or along the path from 0 to 1.
    latents : array (s, d)
    coordinates : array (s, n, 3)
        In Å.
    """

    name: str
    place: Array
    latents: Array
    coordinates: Array


@dataclass(frozen=True, eq=False)
class Landscape:
    """Where particles are in two dimensions.

    Attributes
    ----------
    names : two strings
        Columns along x and y.
    x, y : arrays (a + 1,) and (b + 1,)
        Edges of the bins.
    energy : array (a, b)
        `-log` of the particles' smoothed density, in kT above the lowest; NaN where there are none.
    """

    names: tuple[str, str]
    x: Array
    y: Array
    energy: Array


@dataclass(frozen=True, eq=False)
class BodyMotion:
    """Residues that move as one body along a motion, relative to the largest such body.

    Attributes
    ----------
    residues : array of int
        Rows of the template.
    rotation : float
        Degrees from one end of the motion to the other, right-handed about the axis; less than half a degree is 0.
    translation : float
        Å along the axis, in its direction.
    shift : float
        Å that its centre moves.
    axis : array (3,)
        Direction of the rotation, where the motion begins; of the shift if there is no rotation.
    point : array (3,)
        On the axis, nearest to the body's centre, Å.
    """

    residues: NDArray[np.integer]
    rotation: float
    translation: float
    shift: float
    axis: Array
    point: Array


@dataclass(frozen=True, eq=False)
class Analysis:
    """All that `cryomorph analyze` finds.

    Attributes
    ----------
    columns : mapping of name to array (m,)
        What there is of each particle: `pc1` … (Å, root mean square over residues, along `components`), `z1` … (latent
        coordinates), `latent_pc1` … or, where latents have blocks, `rotation_A_pc1` …, `state`, `umap1`, `umap2`,
        distances and angles that were asked for, and of the posterior `deviation`, `information`, `explained`, `junk`,
        `elsewhere`, `choices`.
    components : Components
    states : tuple of State
    motions : tuple of Motion
    landscape : Landscape
    rmsf : array (n,)
        Root mean square fluctuation of each residue over particles, Å.
    bodies : mapping of motion name to tuple of BodyMotion
        The first is the one that the others move against.
    """

    columns: Mapping[str, NDArray[Any]]
    components: Components
    states: tuple[State, ...]
    motions: tuple[Motion, ...]
    landscape: Landscape
    rmsf: Array
    bodies: Mapping[str, tuple[BodyMotion, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of particles."""
        return len(self.columns["state"])
