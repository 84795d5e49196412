"""Rigid domains: the parts of a molecule that move against each other, its chains unless the user says otherwise."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.structure.model import Template
from cryomorph.structure.naming import name_residues

RESIDUE = r"(-?\d+)([A-Za-z]?)"
RANGE = re.compile(rf"{RESIDUE}(?:-{RESIDUE})?")
SMALLEST = 3  # residues; fewer have no orientation


@dataclass(frozen=True)
class Domain:
    """Residues that move together.

    Attributes
    ----------
    name
        As the user wrote it, or that of the chain.
    rows : array (r,)
        Its residues, ascending.
    """

    name: str
    rows: NDArray[np.int64]


def read_domains(template: Template, groups: str | None = None) -> tuple[Domain, ...]:
    """Divide the residues of a template into domains.

    Parameters
    ----------
    template
        The molecule.
    groups
        Domains separated by commas, each of one or several pieces joined by `+`; a piece is a chain, `B`, or residues
        of one by their numbers, `A:1-120` (with insertion codes if need be, `A:52A-60`). One domain for each chain
        when None.

    Returns
    -------
    tuple
        Every residue is in one of them.

    Raises
    ------
    InputError
        If the text is malformed or names what is not there, if a residue is in none of the domains or in two, or if a
        domain has fewer than three residues.
    """
    texts = list(template.chain_names) if groups is None else [text.strip() for text in groups.split(",")]
    domains = []
    owner = np.full(len(template), -1, dtype=np.int64)
    for number, text in enumerate(texts):
        pieces = [text] if groups is None else text.split("+")
        inside = np.zeros(len(template), dtype=np.bool_)
        for piece in pieces:
            inside |= _piece(template, piece.strip(), "--groups", whole=groups is None)
        taken = np.flatnonzero(inside & (owner >= 0))
        if len(taken):
            other = texts[owner[taken[0]]]
            raise InputError(f"--groups: both {other!r} and {text!r} have {name_residues(template, taken)}; choose one")
        owner[inside] = number
        if inside.sum() < SMALLEST:
            raise InputError(
                f"{template.source}: {text!r} has {inside.sum()} residues; a domain needs at least {SMALLEST}: join it "
                f"with another in --groups, such as {_other(template, inside)}+{text}, or leave it out by --chains"
            )
        domains.append(Domain(text, np.flatnonzero(inside)))
    missing = np.flatnonzero(owner < 0)
    if len(missing):
        raise InputError(f"--groups: none of them has {name_residues(template, missing)}; put every residue in one")
    return tuple(domains)


def residues_of(template: Template, text: str, option: str) -> NDArray[np.bool_]:
    """Tell which residues (n,) pieces such as `B` or `A:1-120`, joined by `+`, name; errors begin with the option.

    Raises
    ------
    InputError
        If a piece is malformed or names what is not there.
    """
    pieces = [_piece(template, piece.strip(), option, whole=False) for piece in text.split("+")]
    inside: NDArray[np.bool_] = np.logical_or.reduce(pieces)
    return inside


def _other(template: Template, inside: NDArray[np.bool_]) -> str:
    """Name the largest chain, as far as it is not among these residues."""
    return template.chain_names[int(np.bincount(template.chain[~inside]).argmax())]


def _piece(template: Template, text: str, option: str, *, whole: bool) -> NDArray[np.bool_]:
    """Tell which residues `B` or `A:1-120` means; when `whole`, the text is the name of a chain whatever is in it."""
    chain, colon, numbers = (text, "", "") if whole else text.partition(":")
    if chain not in template.chain_names:
        known = ", ".join(template.chain_names)
        raise InputError(f"{option}: {text!r}: {template.source} has no chain {chain!r}; there are {known}")
    inside: NDArray[np.bool_] = template.chain == template.chain_names.index(chain)
    if not colon:
        return inside
    match = RANGE.fullmatch(numbers)
    if match is None:
        raise InputError(f"{option}: {text!r}: expected a chain and residue numbers such as A:1-120")
    first = (int(match[1]), match[2])
    last = first if match[3] is None else (int(match[3]), match[4])
    inside &= np.array([first <= _number(identifier) <= last for identifier in template.residue_ids])
    if not inside.any():
        raise InputError(f"{option}: {text!r}: {template.source} has no such residues in chain {chain}")
    return inside


def _number(identifier: str) -> tuple[int, str]:
    """Split "52A" into number and insertion code."""
    match = re.match(RESIDUE, identifier)
    assert match is not None
    return int(match[1]), match[2]
