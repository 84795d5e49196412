"""RELION star files: 3.0 (one table) and 3.1 to 5 (a table of optics groups and one of particles)."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

import numpy as np
from gemmi import cif
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import atomic_path
from cryomorph.geometry import relion_to_matrix
from cryomorph.particles.table import (
    Floats,
    Integers,
    ParticleTable,
    check_finite,
    check_unchanged,
    check_units,
    group_by_values,
    read_bytes,
)

_log = logging.getLogger(__name__)

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_CTF = {
    "defocus_u": "rlnDefocusU",
    "defocus_v": "rlnDefocusV",
    "astigmatism_angle": "rlnDefocusAngle",
    "voltage": "rlnVoltage",
    "spherical_aberration": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
}
_NOT_MODELLED = ("rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike", "rlnMagMat00")
_NUMBERED = re.compile(r"(\d{1,18})@(.+)", re.DOTALL)


def read_star(path: Path, pixel_size: float | None = None) -> ParticleTable:
    """Read the particles of a RELION star file.

    Parameters
    ----------
    path
        The star file.
    pixel_size
        Å per pixel of the images; overrides what the file says.

    Raises
    ------
    InputError
        If the file is not such a file, lacks a column, holds a value that is not a number or is out of range, or
        comes from tomography.
    """
    document, digest = _parse(path)
    _refuse_tomography(document, path)
    particles = _Columns(path, "particles table", *_particle_table(document, path))
    groups = _optics_columns(document, path)
    optics = _Optics(particles, groups)
    _refuse_premultiplied(optics)
    _require_ctf(optics)
    return _assemble(particles, optics, pixel_size, StarOrigin(path, digest))


@dataclass(frozen=True)
class StarOrigin:
    """A star file on disk, read again when rows of it are written.

    Attributes
    ----------
    path
        The star file.
    digest
        SHA-256 of its content when it was opened.
    """

    path: Path
    digest: str

    def write(self, path: Path, rows: Integers) -> None:
        """Write some particles with all their columns, and every other table as it was; values keep their spelling.

        Raises
        ------
        InputError
            If the original is gone or has changed, or `path` cannot be written.
        """
        document, digest = _parse(self.path)
        check_unchanged(self.path, digest, self.digest)
        particles, tags = _particle_table(document, self.path)
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
            for block in document:
                out.write(f"\ndata_{block.name.strip()}\n\n")
                for item in block:
                    if (pair := _pair(item)) is not None:
                        out.write(f"{pair[0]} {_spelled(pair[1])}\n")
                    elif item.loop is not None:
                        own = block.name == particles.name and item.loop.tags == tags
                        wanted = rows if own else range(item.loop.length())
                        _write_loop(out, block.find(item.loop.tags), item.loop.tags, wanted)


def _write_loop(out: TextIO, table: cif.Table, tags: list[str], rows: Integers | range) -> None:
    out.write("loop_\n")
    out.writelines(f"{tag} #{number}\n" for number, tag in enumerate(tags, start=1))
    for row in rows:
        out.write(" ".join(_spelled(value) for value in table[int(row)]) + "\n")
    out.write("\n")


def _spelled(value: str) -> str:
    """Spell a raw value as it goes into the file; a text field must begin at the start of a line."""
    return f"\n{value}\n" if value.startswith(";") else value


def _parse(path: Path) -> tuple[cif.Document, str]:
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


def _pair(item: cif.Item) -> list[str] | None:
    """Tag and value of an item outside any table, None of other items."""
    return cast("list[str] | None", item.pair)


def _loops(document: cif.Document) -> Iterator[tuple[cif.Block, list[str]]]:
    """Every table of a document: its block and its tags."""
    for block in document:
        for item in block:
            if item.loop is not None:
                yield block, item.loop.tags


def _particle_table(document: cif.Document, path: Path) -> tuple[cif.Block, list[str]]:
    loops = list(_loops(document))
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


class _Columns:
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


def _optics_columns(document: cif.Document, path: Path) -> _Columns | None:
    loops = [loop for loop in _loops(document) if loop[0].name == "optics"]
    if not loops:
        return None
    block, tags = loops[0]
    if "_rlnOpticsGroup" not in tags or len(block.find(tags)) == 0:
        raise InputError(f"{path}: data_optics has no rlnOpticsGroup or no rows; write the file with RELION again")
    return _Columns(path, "optics table", block, tags)


class _Optics:
    """Looks a column up in the optics table first and in the particles table second, one value a particle."""

    def __init__(self, particles: _Columns, groups: _Columns | None) -> None:
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


def _group_rows(particles: _Columns, groups: _Columns) -> Integers:
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


def _refuse_tomography(document: cif.Document, path: Path) -> None:
    tags = [tag for _, loop_tags in _loops(document) for tag in loop_tags]
    tags += [pair[0] for block in document for item in block if (pair := _pair(item)) is not None]
    tomography = [tag for tag in tags if tag.startswith("_rlnTomo")]
    if tomography:
        raise InputError(
            f"{path}: has {tomography[0][1:]}, so it describes tomography; only single-particle images are supported"
        )


def _refuse_premultiplied(optics: _Optics) -> None:
    source = optics.particles.source
    if "rlnImageDimensionality" in optics and (optics.numbers("rlnImageDimensionality") != 2).any():
        raise InputError(
            f"{source}: rlnImageDimensionality is not 2 (subtomograms?); only single-particle images are supported"
        )
    for name in ("rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped"):
        if optics.numbers_or_zero(name).any():
            raise InputError(f"{source}: {name} is set; extract the particles again without changing them by the CTF")
    unused = [name for name in _NOT_MODELLED if name in optics]
    if unused:
        _log.info("%s: %s not modelled; the images are used as they are", source, ", ".join(unused))


def _require_ctf(optics: _Optics) -> None:
    source = optics.particles.source
    if "rlnImageName" not in optics.particles:
        raise InputError(f"{source}: the particles table has no rlnImageName; it must say where each image is")
    missing = [name for name in _CTF.values() if name not in optics]
    if missing:
        raise InputError(f"{source}: missing CTF columns {', '.join(missing)}; estimate the CTF and add them")


def _assemble(particles: _Columns, optics: _Optics, pixel_size: float | None, origin: StarOrigin) -> ParticleTable:
    pixels, pixel_column = _pixel_sizes(optics, pixel_size)
    ctf = {field: optics.numbers(name) for field, name in _CTF.items()}
    ctf["astigmatism_angle"] = np.deg2rad(ctf["astigmatism_angle"])
    groups = optics.group_rows
    if groups is None:
        groups = group_by_values(*(ctf[name] for name in _CTF if not name.startswith(("defocus", "astig"))), pixels)
    names, frames = _image_names(particles)
    table = ParticleTable(
        source=particles.source,
        image_name=names,
        frame=frames,
        pixel_size=pixels,
        image_size=optics.numbers_or_zero("rlnImageSize").astype(np.int64),
        phase_shift=np.deg2rad(optics.numbers_or_zero("rlnPhaseShift")),
        b_factor=optics.numbers_or_zero("rlnCtfBfactor"),
        optics_group=groups,
        rotation=_rotations(particles),
        shift=-_origins(particles, optics, pixels),
        half_set=_half_sets(particles),
        sign=np.ones(particles.length),
        origin=origin,
        **ctf,
    )
    check_units(table, {**_CTF, "pixel_size": pixel_column})
    return table


def _pixel_sizes(optics: _Optics, given: float | None) -> tuple[Floats, str]:
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


def _image_names(particles: _Columns) -> tuple[NDArray[np.str_], Integers]:
    names, frames = [], []
    for row, text in enumerate(particles.text("rlnImageName"), start=1):
        numbered = _NUMBERED.fullmatch(text)
        number, name = (int(numbered[1]), numbered[2]) if numbered else (1, text)
        if number < 1 or not name:
            raise InputError(
                f"{particles.source}: row {row}: rlnImageName is {text!r}, expected 000001@file, counted from 1"
            )
        names.append(name)
        frames.append(number - 1)
    return np.array(names, dtype=np.str_), np.array(frames, dtype=np.int64)


def _rotations(particles: _Columns) -> Floats | None:
    if not _all_or_none(particles, _ANGLES):
        return None
    rot, tilt, psi = (particles.numbers(name) for name in _ANGLES)
    return relion_to_matrix(rot, tilt, psi)


def _origins(particles: _Columns, optics: _Optics, pixel_size: Floats) -> Floats:
    """Origins (m, 2) in Å; 3.1 writes Å, 3.0 pixels. Å of a wrong pixel size are mended along with it."""
    if _all_or_none(particles, ("rlnOriginXAngst", "rlnOriginYAngst")):
        origins = np.stack([particles.numbers("rlnOriginXAngst"), particles.numbers("rlnOriginYAngst")], axis=1)
        if "rlnImagePixelSize" in optics:
            stored = optics.numbers("rlnImagePixelSize")
            origins *= np.divide(pixel_size, stored, out=np.ones_like(stored), where=stored > 0)[:, None]
        return origins
    if _all_or_none(particles, ("rlnOriginX", "rlnOriginY")):
        pixels = np.stack([particles.numbers("rlnOriginX"), particles.numbers("rlnOriginY")], axis=1)
        return pixels * pixel_size[:, None]
    return np.zeros((particles.length, 2))


def _all_or_none(particles: _Columns, names: tuple[str, ...]) -> bool:
    missing = [name for name in names if name not in particles]
    if missing and len(missing) < len(names):
        present = [name for name in names if name in particles]
        raise InputError(
            f"{particles.source}: has {', '.join(present)} but not {', '.join(missing)}; poses need them all"
        )
    return not missing


def _half_sets(particles: _Columns) -> Integers | None:
    if "rlnRandomSubset" not in particles:
        return None
    half_set = particles.integers("rlnRandomSubset")
    if not np.isin(half_set, (1, 2)).all():
        _log.info("%s: rlnRandomSubset has values other than 1 and 2; half sets are ignored", particles.source)
        return None
    return half_set
