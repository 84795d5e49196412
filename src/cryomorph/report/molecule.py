"""The conformations that can be looked at: states, and motions step by step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.analysis.result import Analysis, BodyMotion, Components, Motion
from cryomorph.report.encoding import packed_bytes, packed_grid, rounded
from cryomorph.structure.model import Template

COORDINATE_BYTES = 2_000_000
"""Of all conformations together, before they are encoded as text, which takes a third more."""
FEWEST, MOST = 3, 60
"""Steps of a motion."""
MOST_RANGES = 6
NONE = 255
SHAPE = 0.2
"""How much the shape counts against the motion, where the best view is chosen."""

Array = NDArray[np.floating]


def shown_steps(analysis: Analysis) -> list[Motion]:
    """Return the motions with as many of their steps as the page has room for, evenly spread, both ends among them."""
    residues = max(1, len(analysis.rmsf))
    frames = COORDINATE_BYTES // (6 * residues) - len(analysis.states)
    each = int(np.clip(frames // max(1, len(analysis.motions)), FEWEST, MOST))
    return [_thinned(motion, each) for motion in analysis.motions]


def molecule(
    analysis: Analysis, motions: Sequence[Motion], template: Template, source_index: NDArray[np.int64]
) -> dict[str, Any]:
    """Return conformations about their common middle.

    Parameters
    ----------
    analysis
        With states and bodies.
    motions
        As they are shown.
    template
        Of n residues.
    source_index
        Row of each particle in the particle file, shape (m,).

    Returns
    -------
    dict
        `motions` with name, title, place, coordinates (s, n, 3), `bodies` and the `body` of each residue, 255 for
        none; `states` with number, population, particle (in its file, from 1) and coordinates (n, 3); `view`, how one
        looks at it first.
    """
    centre = analysis.components.mean.mean(axis=0)
    return {
        "motions": [
            {
                "name": motion.name,
                "title": _title(motion.name, analysis.components),
                "place": rounded(motion.place),
                "coordinates": packed_grid(motion.coordinates - centre),
                "body": packed_bytes(_body_of(analysis.bodies.get(motion.name, ()), len(template))),
                "bodies": [body_text(body, template) for body in analysis.bodies.get(motion.name, ())],
            }
            for motion in motions
        ],
        "states": [
            {
                "number": state.number,
                "population": state.population,
                "share": state.population / max(1, len(analysis)),
                "particle": int(source_index[state.particle]) + 1,
                "coordinates": packed_grid(state.coordinates - centre),
            }
            for state in analysis.states
        ],
        "view": rounded(view(analysis.components.mean - centre, motions)),
    }


def view(mean: Array, motions: Sequence[Motion]) -> Array:
    """Return the rotation (3, 3) from which a molecule and its motion are seen well; rows are right, up, to the viewer.

    One looks along the direction in which residues move least; the molecule lies along the screen.

    Parameters
    ----------
    mean
        About its middle, shape (n, 3).
    motions
        Of which the first counts.
    """
    shape = mean.T @ mean
    moves = motions[0].coordinates[-1] - motions[0].coordinates[0] if motions else np.zeros_like(mean)
    moved = moves.T @ moves
    spread = moved / max(np.trace(moved), 1e-12) + SHAPE * shape / max(np.trace(shape), 1e-12)
    plane = np.linalg.eigh(spread)[1][:, 1:]
    right = plane @ np.linalg.eigh(plane.T @ shape @ plane)[1][:, 1]
    towards = np.linalg.eigh(spread)[1][:, 0]
    return np.stack([right, np.cross(towards, right), towards])


def _title(name: str, components: Components) -> str:
    """Return what a motion is called on the page."""
    if name == "path":
        return "Path through the particles"
    if name.startswith("pc") and name[2:].isdigit():
        number = int(name[2:])
        known = 0 < number <= len(components.share)
        return f"Component {number}" + (f", {components.share[number - 1]:.0%} of the variance" if known else "")
    return name.replace("_", " ")


def body_text(body: BodyMotion, template: Template) -> dict[str, Any]:
    """Return what is said of residues that move as one."""
    return {
        "residues": ranges(body.residues, template),
        "count": len(body.residues),
        "rotation": rounded([body.rotation], 3)[0],
        "translation": rounded([body.translation], 3)[0],
        "shift": rounded([body.shift], 3)[0],
    }


def _body_of(bodies: Sequence[BodyMotion], residues: int) -> NDArray[np.uint8]:
    """Return the number of the body that each residue is in, from 0, and `NONE` for the others."""
    found = np.full(residues, NONE, dtype=np.uint8)
    for number, body in enumerate(bodies[:NONE]):
        found[body.residues] = number
    return found


def ranges(residues: NDArray[np.integer], template: Template) -> str:
    """Name residues by chain and number, e.g. `A 30–59, 120–165`; of many stretches, the longest."""
    rows = np.unique(residues)
    same_chain = template.chain[rows[1:]] == template.chain[rows[:-1]]
    parts = np.split(rows, np.flatnonzero((np.diff(rows) != 1) | ~same_chain) + 1) if len(rows) else []
    kept = sorted(sorted(parts, key=len, reverse=True)[:MOST_RANGES], key=lambda part: part[0])
    words, last = [], -1
    for part in kept:
        ends = list(dict.fromkeys([template.residue_ids[part[0]], template.residue_ids[part[-1]]]))
        chain = template.chain[part[0]]
        words.append((f"{template.chain_names[chain]} " if chain != last else "") + "–".join(ends))
        last = chain
    more = len(parts) - len(kept)
    return ", ".join(words) + (f" and {more} more" if more else "")


def _thinned(motion: Motion, most: int) -> Motion:
    count = len(motion.place)
    if count <= most:
        return motion
    rows = np.rint(np.linspace(0, count - 1, most)).astype(np.int64)
    return Motion(motion.name, motion.place[rows], motion.latents[rows], motion.coordinates[rows])
