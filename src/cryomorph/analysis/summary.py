"""The numbers of an analysis in words that people and scripts can read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.analysis.result import Analysis, BodyMotion, Motion
from cryomorph.structure.model import Template

QUANTILES = (0.05, 0.5, 0.95)
MOST_FLEXIBLE = 10
"""Residues that are named."""


def summarise(analysis: Analysis, template: Template) -> dict[str, Any]:
    """Return what `summary.json` holds: numbers, names of residues, no arrays over particles."""
    components = analysis.components
    deviation = np.sqrt(np.maximum(components.variance, 0))
    return {
        "particles": len(analysis),
        "residues": len(template),
        "rmsd_from_mean_angstrom": _number(np.sqrt(components.total)),
        "components": [
            {"name": f"pc{number}", "angstrom": _number(size), "share": _number(share)}
            for number, (size, share) in enumerate(zip(deviation, components.share, strict=True), start=1)
        ],
        "states": [
            {
                "state": state.number,
                "population": state.population,
                "share": _number(state.population / max(len(analysis), 1)),
                "particle": state.particle,
            }
            for state in analysis.states
        ],
        "motions": [_motion(motion, analysis.bodies.get(motion.name, ()), template) for motion in analysis.motions],
        "rmsf_angstrom": {
            "mean": _number(analysis.rmsf.mean()),
            "maximum": _number(analysis.rmsf.max()),
            "most_flexible": [
                {"residue": residue_name(template, int(row)), "rmsf": _number(analysis.rmsf[row])}
                for row in np.argsort(-analysis.rmsf, kind="stable")[:MOST_FLEXIBLE]
            ],
        },
        "columns": {name: _quantiles(column) for name, column in analysis.columns.items() if name != "state"},
    }


def residue_name(template: Template, row: int) -> str:
    """Name a residue as options do: "A:52B"."""
    return f"{template.chain_names[template.chain[row]]}:{template.residue_ids[row]}"


def residue_ranges(template: Template, rows: NDArray[np.integer]) -> str:
    """Name residues by the first and last of each stretch: "A:1-29,A:60-120"; empty for none."""
    rows = np.sort(rows)
    if not len(rows):
        return ""
    breaks = (np.diff(rows) > 1) | (np.diff(template.chain[rows]) != 0)
    names = []
    for stretch in np.split(rows, np.flatnonzero(breaks) + 1):
        first, last = residue_name(template, int(stretch[0])), template.residue_ids[stretch[-1]]
        names.append(first if len(stretch) == 1 else f"{first}-{last}")
    return ",".join(names)


def _motion(motion: Motion, bodies: tuple[BodyMotion, ...], template: Template) -> dict[str, Any]:
    moved = motion.coordinates[-1] - motion.coordinates[0]
    return {
        "name": motion.name,
        "steps": len(motion.place),
        "from": _number(motion.place[0]),
        "to": _number(motion.place[-1]),
        "rms_displacement_angstrom": _number(np.sqrt(np.square(moved).sum(-1).mean())),
        "bodies": [
            {
                "residues": residue_ranges(template, body.residues),
                "count": len(body.residues),
                "rotation_degrees": _number(body.rotation),
                "translation_angstrom": _number(body.translation),
                "shift_angstrom": _number(body.shift),
                "axis": [_number(value) for value in body.axis],
                "point": [_number(value) for value in body.point],
            }
            for body in bodies
        ],
    }


def _quantiles(column: NDArray[Any]) -> dict[str, Any]:
    known = column[np.isfinite(column)].astype(np.float64)
    if not len(known):
        return {"known": 0}
    low, middle, high = (_number(value) for value in np.quantile(known, QUANTILES))
    return {
        "known": len(known),
        "mean": _number(known.mean()),
        "deviation": _number(known.std()),
        "p5": low,
        "median": middle,
        "p95": high,
    }


def _number(value: Any) -> float | None:
    """Round to what is worth reading; None, which JSON has, for what is no number."""
    return float(f"{float(value):.6g}") if np.isfinite(value) else None
