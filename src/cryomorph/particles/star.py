"""RELION star files: 3.0 (one table) and 3.1 to 5 (a table of optics groups and one of particles)."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from gemmi import cif
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import atomic_path
from cryomorph.particles._star_document import (
    Columns,
    Optics,
    loops_of,
    optics_columns,
    pair_of,
    parse,
    particle_table,
    pixel_sizes,
)
from cryomorph.particles._star_poses import measure_columns, origins, pose_columns, rotations
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.table import Floats, Integers, ParticleTable, check_unchanged, check_units, group_by_values

_log = logging.getLogger(__name__)

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
    document, digest = parse(path)
    _refuse_tomography(document, path)
    optics = _optics(document, path)
    _refuse_premultiplied(optics)
    _require_ctf(optics)
    return _assemble(optics.particles, optics, pixel_size, StarOrigin(path, digest, pixel_size))


@dataclass(frozen=True)
class StarOrigin:
    """A star file on disk, read again when rows of it are written.

    Attributes
    ----------
    path
        The star file.
    digest
        SHA-256 of its content when it was opened.
    pixel_size
        Å; overrides the file's.
    """

    path: Path
    digest: str
    pixel_size: float | None = None

    def write(
        self, path: Path, rows: Integers, poses: FoundPoses | None = None, measures: Mapping[str, Floats] | None = None
    ) -> None:
        """Write some particles with all their columns, and every other table as it was; values keep their spelling.

        Parameters
        ----------
        path
            The star file to write.
        rows
            Of the original file, from 0, shape (k,).
        poses
            Poses of these k particles; columns that the file has not got are added. Default: the file's own.
        measures
            Further numbers of these k particles, by names such as `junk`, which becomes `cryomorphJunk`.

        Raises
        ------
        InputError
            If the original is gone or has changed, or `path` cannot be written.
        """
        document, digest = parse(self.path)
        check_unchanged(self.path, digest, self.digest)
        particles, tags = particle_table(document, self.path)
        found = {} if poses is None else self._pose_columns(document, rows, poses)
        found |= {f"_{name}": values for name, values in measure_columns(measures or {}).items()}
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
            for block in document:
                out.write(f"\ndata_{block.name.strip()}\n\n")
                for item in block:
                    if (pair := pair_of(item)) is not None:
                        out.write(f"{pair[0]} {_spelled(pair[1])}\n")
                    elif item.loop is not None:
                        own = block.name == particles.name and item.loop.tags == tags
                        table, every = block.find(item.loop.tags), range(item.loop.length())
                        _write_loop(out, table, item.loop.tags, *((rows, found) if own else (every, {})))

    def _pose_columns(self, document: cif.Document, rows: Integers, poses: FoundPoses) -> dict[str, list[str]]:
        """Columns of the rows that are written, by tag."""
        optics = _optics(document, self.path)
        pixels, _ = pixel_sizes(optics, self.pixel_size)
        return {f"_{name}": values for name, values in pose_columns(optics, pixels, rows, poses).items()}


def _write_loop(
    out: TextIO, table: cif.Table, tags: list[str], rows: Iterable[int], columns: Mapping[str, list[str]]
) -> None:
    """Write rows of a table, with values in `columns` (one a row that is written) instead of or beside its own."""
    tags = [*tags, *(tag for tag in columns if tag not in tags)]
    replaced = [(tags.index(tag), values) for tag, values in columns.items()]
    blank = [""] * (len(tags) - table.width())
    out.write("loop_\n")
    out.writelines(f"{tag} #{number}\n" for number, tag in enumerate(tags, start=1))
    for number, row in enumerate(rows):
        values = [*table[int(row)], *blank]
        for place, column in replaced:
            values[place] = column[number]
        out.write(" ".join(map(_spelled, values)) + "\n")
    out.write("\n")


def _spelled(value: str) -> str:
    """Spell a raw value as it goes into the file; a text field must begin at the start of a line."""
    return f"\n{value}\n" if value.startswith(";") else value


def _optics(document: cif.Document, path: Path) -> Optics:
    """All columns of the particles, those of their optics groups among them."""
    particles = Columns(path, "particles table", *particle_table(document, path))
    return Optics(particles, optics_columns(document, path))


def _refuse_tomography(document: cif.Document, path: Path) -> None:
    tags = [tag for _, loop_tags in loops_of(document) for tag in loop_tags]
    tags += [pair[0] for block in document for item in block if (pair := pair_of(item)) is not None]
    tomography = [tag for tag in tags if tag.startswith("_rlnTomo")]
    if tomography:
        raise InputError(
            f"{path}: has {tomography[0][1:]}, so it describes tomography; only single-particle images are supported"
        )


def _refuse_premultiplied(optics: Optics) -> None:
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


def _require_ctf(optics: Optics) -> None:
    source = optics.particles.source
    if "rlnImageName" not in optics.particles:
        raise InputError(f"{source}: the particles table has no rlnImageName; it must say where each image is")
    missing = [name for name in _CTF.values() if name not in optics]
    if missing:
        raise InputError(f"{source}: missing CTF columns {', '.join(missing)}; estimate the CTF and add them")


def _assemble(particles: Columns, optics: Optics, pixel_size: float | None, origin: StarOrigin) -> ParticleTable:
    pixels, pixel_column = pixel_sizes(optics, pixel_size)
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
        rotation=rotations(particles),
        shift=-origins(optics, pixels),
        half_set=_half_sets(particles),
        sign=np.ones(particles.length),
        origin=origin,
        **ctf,
    )
    check_units(table, {**_CTF, "pixel_size": pixel_column})
    return table


def _image_names(particles: Columns) -> tuple[NDArray[np.str_], Integers]:
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


def _half_sets(particles: Columns) -> Integers | None:
    if "rlnRandomSubset" not in particles:
        return None
    half_set = particles.integers("rlnRandomSubset")
    if not np.isin(half_set, (1, 2)).all():
        _log.info("%s: rlnRandomSubset has values other than 1 and 2; half sets are ignored", particles.source)
        return None
    return half_set
