"""Distances and angles between residues that the user asks for."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.structure.model import Template

Array = NDArray[np.floating]

RESIDUE = re.compile(r"-?\d+[A-Za-z]?")


@dataclass(frozen=True, eq=False)
class Request:
    """A number to find of each conformation.

    Attributes
    ----------
    name : str
        Of its column, such as `distance_A55_A169`.
    rows : array (2,), (3,) or (4,)
        Residues between whose representative atoms (Cα, C1') it is.
    """

    name: str
    rows: NDArray[np.int64]

    def measure(self, coordinates: Array) -> Array:
        """Return a distance in Å, an angle (0 to 180) or a dihedral (-180 to 180) in degrees, of each (b, n, 3)."""
        return MEASURES[len(self.rows)](*np.moveaxis(coordinates[:, self.rows], 1, 0))


def distance(a: Array, b: Array) -> Array:
    """Distance between points (b, 3)."""
    return np.asarray(np.linalg.norm(b - a, axis=-1))


def angle(a: Array, b: Array, c: Array) -> Array:
    """Angle at `b` in degrees."""
    u, v = a - b, c - b
    return np.asarray(np.rad2deg(np.arctan2(np.linalg.norm(np.cross(u, v), axis=-1), (u * v).sum(-1))))


def dihedral(a: Array, b: Array, c: Array, d: Array) -> Array:
    """Angle about the line from `b` to `c` in degrees, positive clockwise when looking along it (IUPAC)."""
    first, axis, last = b - a, c - b, d - c
    before, after = np.cross(first, axis), np.cross(axis, last)
    sine = np.linalg.norm(axis, axis=-1) * (first * after).sum(-1)
    return np.asarray(np.rad2deg(np.arctan2(sine, (before * after).sum(-1))))


KINDS = {"distance": 2, "angle": 3, "dihedral": 4}
MEASURES: dict[int, Callable[..., Array]] = {2: distance, 3: angle, 4: dihedral}


def read_requests(
    template: Template, distances: Sequence[str] = (), angles: Sequence[str] = (), dihedrals: Sequence[str] = ()
) -> tuple[Request, ...]:
    """Read what is asked for, each such as "A:55,A:169" (chain and residue as in the file, "52A" with insertion code).

    Raises
    ------
    InputError
        If one is malformed, or names a residue that is not there or the same twice.
    """
    asked = {"distance": distances, "angle": angles, "dihedral": dihedrals}
    return tuple(_read(template, kind, text) for kind, texts in asked.items() for text in dict.fromkeys(texts))


def _read(template: Template, kind: str, text: str) -> Request:
    pieces = [piece.strip() for piece in text.split(",")]
    if len(pieces) != KINDS[kind]:
        raise InputError(f"--{kind} {text!r}: expected {KINDS[kind]} residues such as A:55, separated by commas")
    rows = np.array([_residue(template, piece, f"--{kind} {text!r}") for piece in pieces])
    if len(np.unique(rows)) < len(rows):
        raise InputError(f"--{kind} {text!r}: names a residue twice; give {len(rows)} different ones")
    names = (f"{template.chain_names[template.chain[row]]}{template.residue_ids[row]}" for row in rows)
    return Request("_".join([kind, *(re.sub(r"\W", "_", name) for name in names)]), rows)


def _residue(template: Template, text: str, option: str) -> int:
    chain, colon, number = text.rpartition(":")
    if not colon or not RESIDUE.fullmatch(number):
        raise InputError(f"{option}: {text!r}: expected a chain and a residue such as A:55 or A:52B")
    if chain not in template.chain_names:
        raise InputError(
            f"{option}: {template.source} has no chain {chain!r}; there are {', '.join(template.chain_names)}"
        )
    inside = np.flatnonzero(template.chain == template.chain_names.index(chain))
    found = [row for row in inside if template.residue_ids[row] == number]
    if not found:
        first, last = template.residue_ids[inside[0]], template.residue_ids[inside[-1]]
        raise InputError(
            f"{option}: {template.source} has no residue {text}; chain {chain} goes from {first} to {last}"
        )
    return int(found[0])
