"""An analysis on disk: everything in one archive, and a summary that people and scripts can read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.analysis.result import Analysis, BodyMotion, Components, Landscape, Motion, State
from cryomorph.analysis.summary import summarise
from cryomorph.errors import InputError
from cryomorph.files import atomic_path, read_arrays, write_text
from cryomorph.structure.model import Template

ARCHIVE, SUMMARY = "analysis.npz", "summary.json"
FORMAT = 1
"""Of the archive; one that a later version writes differently has a higher number."""

INDEX = ("format", "column_names", "motion_names", "body_motion")
STATES = ("number", "population", "particle", "latents", "coordinates")
BODIES = ("rotation", "translation", "shift", "axis", "point")

Arrays = dict[str, NDArray[Any]]


def save_analysis(analysis: Analysis, template: Template, folder: Path) -> None:
    """Write `analysis.npz` and `summary.json` into a folder, which is made if need be.

    Parameters
    ----------
    analysis
        What was found.
    template
        Whose residues the summary names.
    folder
        Of the analysis, in the run folder.
    """
    with atomic_path(folder / ARCHIVE) as temporary:
        np.savez(temporary, **_pack(analysis))
    write_text(folder / SUMMARY, json.dumps(summarise(analysis, template), indent=1, ensure_ascii=False) + "\n")


def load_analysis(folder: Path) -> Analysis:
    """Read what `save_analysis` wrote into a folder.

    Raises
    ------
    InputError
        If there is nothing, or it is damaged or was written by another version.
    """
    path = folder / ARCHIVE
    if not path.is_file():
        raise InputError(f"{path}: not there; run cryomorph analyze first")
    index = read_arrays(path, *INDEX)
    if index["format"].shape != () or int(index["format"]) != FORMAT:
        raise InputError(f"{path}: written by another version; run cryomorph analyze again")
    columns, motions = ([str(name) for name in index[f"{kind}_names"]] for kind in ("column", "motion"))
    names = [f"column_{name}" for name in columns]
    names += [f"motion_{name}_{part}" for name in motions for part in ("place", "latents", "coordinates")]
    names += [f"state_{part}" for part in STATES] + [f"body_{part}" for part in ("size", "residues", *BODIES)]
    names += ["mean", "modes", "variance", "total", "landscape_names", "x", "y", "energy", "rmsf"]
    arrays = read_arrays(path, *names)
    try:
        analysis = _unpack(arrays | index, columns, motions)
        _check(analysis)
    except (ValueError, IndexError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); run cryomorph analyze again") from error
    return analysis


def _pack(analysis: Analysis) -> dict[str, Any]:
    components, landscape = analysis.components, analysis.landscape
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "column_names": _words(list(analysis.columns)),
        "mean": components.mean,
        "modes": components.modes,
        "variance": components.variance,
        "total": np.array(components.total),
        "motion_names": _words([motion.name for motion in analysis.motions]),
        "landscape_names": _words(landscape.names),
        "x": landscape.x,
        "y": landscape.y,
        "energy": landscape.energy,
        "rmsf": analysis.rmsf,
    }
    arrays |= {f"column_{name}": column for name, column in analysis.columns.items()}
    arrays |= {f"state_{part}": np.array([getattr(state, part) for state in analysis.states]) for part in STATES}
    for motion in analysis.motions:
        for part in ("place", "latents", "coordinates"):
            arrays[f"motion_{motion.name}_{part}"] = getattr(motion, part)
    moving = [(name, body) for name, bodies in analysis.bodies.items() for body in bodies]
    arrays["body_motion"] = _words([name for name, _ in moving])
    arrays["body_size"] = np.array([len(body.residues) for _, body in moving], dtype=np.int64)
    arrays["body_residues"] = np.concatenate([np.empty(0, np.int64), *(body.residues for _, body in moving)])
    return arrays | {f"body_{part}": np.array([getattr(body, part) for _, body in moving]) for part in BODIES}


def _unpack(arrays: Arrays, columns: Sequence[str], motions: Sequence[str]) -> Analysis:
    first, second = arrays["landscape_names"]
    owners = [str(name) for name in arrays["body_motion"]]
    residues = np.split(arrays["body_residues"], np.cumsum(arrays["body_size"]))[: len(owners)]
    bodies: dict[str, tuple[BodyMotion, ...]] = {}
    for row, owner in enumerate(owners):
        rotation, translation, shift, axis, point = (arrays[f"body_{part}"][row] for part in BODIES)
        body = BodyMotion(residues[row], float(rotation), float(translation), float(shift), axis, point)
        bodies[owner] = (*bodies.get(owner, ()), body)
    number, population, particle, latents, coordinates = (arrays[f"state_{part}"] for part in STATES)
    return Analysis(
        columns={name: arrays[f"column_{name}"] for name in columns},
        components=Components(arrays["mean"], arrays["modes"], arrays["variance"], float(arrays["total"])),
        states=tuple(
            State(int(number[row]), int(population[row]), int(particle[row]), latents[row], coordinates[row])
            for row in range(len(number))
        ),
        motions=tuple(
            Motion(name, *(arrays[f"motion_{name}_{part}"] for part in ("place", "latents", "coordinates")))
            for name in motions
        ),
        landscape=Landscape((str(first), str(second)), arrays["x"], arrays["y"], arrays["energy"]),
        rmsf=arrays["rmsf"],
        bodies=bodies,
    )


def _check(analysis: Analysis) -> None:
    """Raise ValueError unless the shapes of the parts fit together."""
    if "state" not in analysis.columns:
        raise ValueError("no column state")
    residues, particles = len(analysis.rmsf), len(analysis)
    landscape = analysis.landscape
    shapes: list[tuple[tuple[int, ...], tuple[int, ...], str]] = [
        (column.shape, (particles,), f"column {name}") for name, column in analysis.columns.items()
    ]
    shapes += [(analysis.components.mean.shape, (residues, 3), "mean")]
    shapes += [(analysis.components.modes.shape, (len(analysis.components.variance), residues, 3), "modes")]
    shapes += [(state.coordinates.shape, (residues, 3), f"state {state.number}") for state in analysis.states]
    shapes += [(motion.coordinates.shape, (len(motion.place), residues, 3), motion.name) for motion in analysis.motions]
    shapes += [(landscape.energy.shape, (len(landscape.x) - 1, len(landscape.y) - 1), "landscape")]
    for found, expected, what in shapes:
        if found != expected:
            raise ValueError(f"{what} has shape {found}, not {expected}")


def _words(names: Sequence[str]) -> NDArray[np.str_]:
    return np.array(names, dtype=np.str_) if names else np.empty(0, dtype="<U1")
