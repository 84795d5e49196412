"""What real images show beside one molecule in even ice: contrast that varies, gradients, a belt, neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, field_validator
from scipy.spatial import cKDTree

from cryomorph.components import Settings
from cryomorph.errors import InputError
from cryomorph.geometry import random_rotations
from cryomorph.simulate.molecules import Molecules
from cryomorph.structure.domains import residues_of
from cryomorph.structure.model import Template

Array = NDArray[np.float64]

_IMAGE_STREAM = 3  # of an image's random numbers; those of its noise and its motion have others
_COMMON_STREAM = (0, 4)
WAVES = 32
"""Plane waves that make a background."""
BELT_HEIGHT, BELT_GAP, BELT_THICKNESS, BLOBS, BLOB_WIDTH = 15.0, 4.0, 14.0, 12, 5.0
"""Å above and below z = 0, from the nearest atom, from there outwards; number of blobs and their deviation in Å."""
CONFORMATIONS = 8
"""Whose atoms the belt keeps away from."""
NEAREST, FURTHEST = 1.1, 1.8
"""Distance of neighbours' centres, as a share of the molecule's reach: they overlap what its window holds."""


class Nuisances(Settings):
    """What disturbs simulated images beyond noise; by default nothing."""

    model_config = ConfigDict(allow_inf_nan=False)

    contrast: float = Field(
        0.0, ge=0, le=2, description="standard deviation of images' contrast as a share of its mean, log-normal"
    )
    group_contrast: tuple[float, ...] = Field(
        (1.0,), min_length=1, description="contrast of each optics group; images are dealt to the groups in turn"
    )
    background: float = Field(
        0.0, ge=0, description="deviation of a smooth field added to each image, standard deviations of a pixel's noise"
    )
    background_length: float = Field(60.0, gt=0, description="over which that field changes, Å")
    belt: float = Field(0.0, ge=0, description="carbon atoms of a belt about the molecule, for each of its own atoms")
    neighbours: float = Field(0.0, ge=0, le=1, description="share of images that also show a part of another molecule")
    faint: str | None = Field(None, description="residues that scatter less, such as A:120-160")
    occupancy: float = Field(0.3, ge=0, le=1, description="share of their scattering that those have")
    blurred: str | None = Field(None, description="residues that are blurred, such as A:120-160")
    blur: float = Field(200.0, ge=0, description="B-factor of those in Å², beyond that of all others")

    @field_validator("group_contrast", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """Take `1,0.5` for the contrasts 1 and 0.5."""
        return value.split(",") if isinstance(value, str) else value

    @field_validator("group_contrast")
    @classmethod
    def _is_positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0:
            raise ValueError("the contrast of a group must be more than 0")
        return value


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Another molecule in some of M images.

    Attributes
    ----------
    present : array (M,)
        Which images show one.
    conformation : array (M,)
        Of the neighbour.
    rotation : array (M, 3, 3)
        Of the neighbour, map frame to image frame.
    shift : array (M, 2)
        Å, of the neighbour's origin from that of the image.
    """

    present: NDArray[np.bool_]
    conformation: NDArray[np.int64]
    rotation: Array
    shift: Array


@dataclass(frozen=True, eq=False)
class Disturbances:
    """The nuisances of M images of one kind of molecule, as drawn.

    Attributes
    ----------
    settings : Nuisances
    seed : int
        Of the simulation.
    scale : array (M,)
        Contrast of each image.
    group : array (M,)
        Its optics group, from 0.
    belt : array (k, 3)
        Carbon atoms in the map frame that do not move, Å.
    neighbours : Neighbours
    occupancy, b_factor : array (m,)
        Of the molecule's atoms, the latter in Å².
    """

    settings: Nuisances
    seed: int
    scale: Array
    group: NDArray[np.int64]
    belt: NDArray[np.float32]
    neighbours: Neighbours
    occupancy: Array
    b_factor: Array

    def background(self, image: int, box: int, pixel_size: float) -> NDArray[np.float32] | None:
        """Return the smooth field of an image, shape (D, D), in standard deviations of the noise; None without."""
        if self.settings.background == 0:
            return None
        generator = _of_image(self.seed, image, 1)
        waves = generator.standard_normal((WAVES, 2)) * (pixel_size / self.settings.background_length)
        phase = generator.uniform(0, 2 * np.pi, WAVES)
        at = np.arange(box) - box // 2
        # cos(x + y) of all pixels is a product of what depends on x and on y.
        along_x = np.exp(1j * (waves[:, :1] * at + phase[:, None]))
        along_y = np.exp(1j * waves[:, 1:] * at)
        field = np.einsum("wy,wx->yx", along_y, along_x).real
        return np.asarray(self.settings.background * np.sqrt(2 / WAVES) * field, dtype=np.float32)

    def reach(self, molecule: float) -> float:
        """Return how far anything in the images reaches from their origin in Å, given the molecule's own reach."""
        furthest = max(molecule, float(np.linalg.norm(self.belt, axis=1).max(initial=0.0)))
        if self.neighbours.present.any():
            furthest = max(furthest, float(np.linalg.norm(self.neighbours.shift, axis=1).max()) + molecule)
        return furthest

    def drawn(self) -> Mapping[str, NDArray[Any]]:
        """Return what there is, by the names that it has in a truth file."""
        drawn: dict[str, NDArray[Any]] = {}
        if self.settings.contrast > 0 or len(self.settings.group_contrast) > 1:
            drawn |= {"contrast": self.scale}
        if len(self.belt):
            drawn |= {"belt": self.belt}
        if self.neighbours.present.any():
            drawn |= {"neighbour": self.neighbours.present}
        return drawn


def draw_nuisances(settings: Nuisances, molecules: Molecules, images: int, extent: float, seed: int) -> Disturbances:
    """Draw the nuisances of all images; an image has the same ones however many there are.

    Parameters
    ----------
    settings
        How much of which.
    molecules
        In the map frame.
    images
        M.
    extent
        Å, the `reach` of the molecules.
    seed
        Of the simulation.

    Raises
    ------
    InputError
        If the molecule has no such residues as are to be faint or blurred.
    """
    # Of a log-normal distribution of mean 1 and the deviation asked for.
    variance = np.log1p(settings.contrast**2)
    scale = np.ones(images)
    present = np.zeros(images, dtype=np.bool_)
    conformation = np.zeros(images, dtype=np.int64)
    rotation, shift = np.zeros((images, 3, 3)), np.zeros((images, 2))
    for image in range(images if settings.contrast or settings.neighbours else 0):
        generator = _of_image(seed, image, 0)
        scale[image] = np.exp(np.sqrt(variance) * generator.standard_normal() - variance / 2)
        present[image] = generator.uniform() < settings.neighbours
        conformation[image] = generator.integers(len(molecules))
        rotation[image] = random_rotations(1, generator)[0]
        angle, distance = generator.uniform(0, 2 * np.pi), extent * generator.uniform(NEAREST, FURTHEST)
        shift[image] = distance * np.cos(angle), distance * np.sin(angle)
    faint = _atoms_of(settings.faint, molecules.template, "--faint")
    blurred = _atoms_of(settings.blurred, molecules.template, "--blurred")
    group = np.arange(images) % len(settings.group_contrast)
    return Disturbances(
        settings=settings,
        seed=seed,
        scale=scale * np.array(settings.group_contrast)[group],
        group=group,
        belt=_belt(settings.belt, molecules, seed),
        neighbours=Neighbours(present, conformation, rotation, shift),
        occupancy=np.where(faint, settings.occupancy, 1.0),
        b_factor=np.where(blurred, settings.blur, 0.0),
    )


def _of_image(seed: int, image: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(image, _IMAGE_STREAM, purpose)))


def _atoms_of(residues: str | None, template: Template, option: str) -> NDArray[np.bool_]:
    """Return which atoms are those of the residues that an option names, shape (m,); none if it is not given."""
    if residues is None:
        return np.zeros(len(template.elements), dtype=np.bool_)
    return residues_of(template, residues, option)[template.atom_residue]


def _belt(share: float, molecules: Molecules, seed: int) -> NDArray[np.float32]:
    """Place atoms (k, 3) in blobs within a ring about the molecule, clear of all it does, like detergent or lipid."""
    wanted = round(share * len(molecules.template.elements))
    if wanted == 0:
        return np.zeros((0, 3), dtype=np.float32)
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_COMMON_STREAM))
    some = np.unique(np.linspace(0, len(molecules) - 1, CONFORMATIONS).astype(np.int64))
    atoms = molecules.atoms(some).reshape(-1, 3).astype(np.float64)
    tree = cKDTree(atoms)
    reach = np.abs(atoms).max() + BELT_GAP + BELT_THICKNESS

    def allowed(points: Array) -> Array:
        distance, _ = tree.query(points)
        inside = (np.abs(points[:, 2]) < BELT_HEIGHT) & (distance > BELT_GAP)
        return points[inside & (distance < BELT_GAP + BELT_THICKNESS)]

    blobs = _first(lambda: allowed(generator.uniform(-reach, reach, (4096, 3))), BLOBS)
    placed = _first(
        lambda: allowed(blobs[generator.integers(BLOBS, size=4096)] + BLOB_WIDTH * generator.normal(size=(4096, 3))),
        wanted,
    )
    return placed.astype(np.float32)


def _first(draw: Any, count: int) -> Array:
    """Draw points again and again until there are so many."""
    parts: Sequence[Array] = []
    while sum(map(len, parts)) < count:
        parts = [*parts, draw()]
        if len(parts) > 10_000:
            raise InputError("belt: there is no room for it about the molecule within 15 Å of z = 0")
    return np.concatenate(parts)[:count]
