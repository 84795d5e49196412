"""Star files as documents: tables, columns, and where a value is looked up, in every dialect."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
from gemmi import cif

from cryomorph.errors import InputError
from cryomorph.particles.table import Floats, Integers, check_finite, read_bytes


def parse(path: Path) -> tuple[cif.Document, str]:
    """Return a star file's content and its SHA-256 digest."""
    content, digest = read_bytes(path)
    try:
        document = cif.read_string(content.decode("utf-8"))
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        hint = "" if content.isascii() else "; STAR files hold ASCII characters only"
        raise InputError(f"{path}: not a readable STAR file ({reason}){hint}; it may be truncated") from error
    if any(item.frame is not None for block in document for item in block):
        raise InputError(f"{path}: has save_ frames, which RELION star files do not; write it with RELION again")
    return document, digest


def pair_of(item: cif.Item) -> list[str] | None:
    """Tag and value of an item outside any table, None of other items."""
    return cast("list[str] | None", item.pair)


def loops_of(document: cif.Document) -> Iterator[tuple[cif.Block, list[str]]]:
    """Every table of a document: its block and its tags."""
    for block in document:
        for item in block:
            if item.loop is not None:
                yield block, item.loop.tags


def particle_table(document: cif.Document, path: Path) -> tuple[cif.Block, list[str]]:
    """Return the block and the tags of the one table of particles."""
    loops = list(loops_of(document))
    named = [loop for loop in loops if loop[0].name == "particles"]
    found = named or [loop for loop in loops if "_rlnImageName" in loop[1]]
    if not found:
        raise InputError(
            f"{path}: has no table of particles (data_particles, or one with rlnImageName); choose another"
        )
    if len(found) > 1:
        raise InputError(f"{path}: has {len(found)} tables of particles, expected one; split the file")
    block, tags = found[0]
    if len(block.find(tags)) == 0:
        raise InputError(f"{path}: its table of particles has no rows; it may be truncated")
    return block, tags


class Columns:
    """The columns of one table, by name without the leading underscore."""

    def __init__(self, source: Path, label: str, block: cif.Block, tags: list[str]) -> None:
        self.source, self.label = source, label
        self.length = len(block.find(tags))
        self._block, self._names = block, {tag.removeprefix("_") for tag in tags}

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def text(self, name: str) -> list[str]:
        return [cif.as_string(value) for value in self._block.find_loop(f"_{name}")]

    def numbers(self, name: str) -> Floats:
        text = self.text(name)
        try:
            values = np.array(text, dtype=np.str_).astype(np.float64)
        except ValueError:
            row = next(index for index, value in enumerate(text) if not _is_number(value))
            raise InputError(
                f"{self.source}: row {row + 1} of the {self.label}: {name} is {text[row]!r}, expected a number"
            ) from None
        check_finite(self.source, name, values)
        return np.asarray(values)

    def integers(self, name: str) -> Integers:
        values = self.numbers(name)
        wrong = np.flatnonzero((values != np.rint(values)) | (np.abs(values) > 2**53))
        if len(wrong):
            raise InputError(
                f"{self.source}: row {wrong[0] + 1} of the {self.label}: {name} is {values[wrong[0]]:g}, "
                f"expected a whole number"
            )
        return values.astype(np.int64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def optics_columns(document: cif.Document, path: Path) -> Columns | None:
    """Return the table of optics groups; None if there is none, as in 3.0."""
    loops = [loop for loop in loops_of(document) if loop[0].name == "optics"]
    if not loops:
        return None
    block, tags = loops[0]
    if "_rlnOpticsGroup" not in tags or len(block.find(tags)) == 0:
        raise InputError(f"{path}: data_optics has no rlnOpticsGroup or no rows; write the file with RELION again")
    return Columns(path, "optics table", block, tags)


class Optics:
    """Looks a column up in the optics table first and in the particles table second, one value a particle."""

    def __init__(self, particles: Columns, groups: Columns | None) -> None:
        self.particles, self.groups = particles, groups
        self.group_rows = None if groups is None else _group_rows(particles, groups)

    def __contains__(self, name: str) -> bool:
        return name in self.particles or (self.groups is not None and name in self.groups)

    def numbers(self, name: str) -> Floats:
        if self.groups is not None and self.group_rows is not None and name in self.groups:
            return np.asarray(self.groups.numbers(name)[self.group_rows])
        return self.particles.numbers(name)

    def numbers_or_zero(self, name: str) -> Floats:
        return self.numbers(name) if name in self else np.zeros(self.particles.length)


def _group_rows(particles: Columns, groups: Columns) -> Integers:
    """Row of the optics table for each particle."""
    known = groups.integers("rlnOpticsGroup")
    if len(np.unique(known)) < len(known):
        raise InputError(f"{groups.source}: an rlnOpticsGroup is defined twice in data_optics; number them apart")
    if "rlnOpticsGroup" not in particles:
        if len(known) == 1:
            return np.zeros(particles.length, dtype=np.int64)
        raise InputError(f"{groups.source}: data_particles has no rlnOpticsGroup, but data_optics has {len(known)}")
    wanted = particles.integers("rlnOpticsGroup")
    order = np.argsort(known)
    place = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    missing = np.flatnonzero(known[order][place] != wanted)
    if len(missing):
        raise InputError(
            f"{groups.source}: row {missing[0] + 1}: rlnOpticsGroup is {wanted[missing[0]]}, which data_optics "
            f"does not define; add it there"
        )
    return np.asarray(order[place], dtype=np.int64)


def pixel_sizes(optics: Optics, given: float | None) -> tuple[Floats, str]:
    """Pixel sizes (m,) in Å and where they are from."""
    if given is not None:
        return np.full(optics.particles.length, given), "the given pixel size"
    for name in ("rlnImagePixelSize", "rlnPixelSize"):
        if name in optics:
            return optics.numbers(name), name
    if "rlnDetectorPixelSize" in optics and "rlnMagnification" in optics:
        magnification = optics.numbers("rlnMagnification")
        wrong = np.flatnonzero(magnification <= 0)
        if len(wrong):
            raise InputError(
                f"{optics.particles.source}: row {wrong[0] + 1}: rlnMagnification is {magnification[wrong[0]]:g}, "
                f"expected a positive number"
            )
        return optics.numbers("rlnDetectorPixelSize") * 1e4 / magnification, "rlnDetectorPixelSize / rlnMagnification"
    raise InputError(
        f"{optics.particles.source}: has no pixel size (rlnImagePixelSize, or rlnDetectorPixelSize and "
        f"rlnMagnification); give it with --pixel-size"
    )
