"""What a reader must know before believing the rest, in plain words."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cryomorph.analysis.result import Analysis
from cryomorph.report.certainty import more_likely
from cryomorph.report.convergence import Metrics, best_and_last
from cryomorph.uncertainty import Uncertainty

FALLEN = 0.03
"""Share of its best value by which what free coefficients say may fall at the end."""
MUCH_JUNK = 0.05
"""Share of the particles that are noise, or in a wrong pose, from which on it is worth a warning."""
FEW_PARTICLES = 1000
SMALL_STATE = 0.01
UNSEEN = 0.2
"""Share of the sphere without views from which resolution suffers along some directions."""
LEAST_MOTION = 0.5
"""Å below which there is hardly motion that a report could show."""


@dataclass(frozen=True)
class Remark:
    """One sentence or two.

    Attributes
    ----------
    level : str
        "warning": a result may be wrong; "note": worth knowing; "good": speaks for the result.
    text : str
    section : str
        Where on the page there is more.
    """

    level: str
    text: str
    section: str

    def as_dict(self) -> dict[str, str]:
        """Return the fields by name."""
        return dict(vars(self))


def remarks(
    analysis: Analysis,
    posterior: Uncertainty | None,
    metrics: Metrics,
    empty_views: float | None,
    halves: dict[str, Any] | None,
    missing: tuple[str, ...],
) -> list[Remark]:
    """Judge a run; warnings come first.

    Parameters
    ----------
    analysis, posterior, metrics
        Of the run; what there is no posterior of is not judged.
    empty_views
        Share of the sphere from which hardly any particle is seen; None if unknown.
    halves
        What `cryomorph.report.halves.agreement` returned; None if the run is not one on half of the particles.
    missing
        Why parts of the report are left out.
    """
    found = [
        *_of_halves(halves),
        *_of_training(metrics),
        *_of_particles(analysis, posterior),
        *_of_certainty(analysis, posterior),
        *_of_views(empty_views),
        *(Remark("note", text, "examples") for text in missing),
    ]
    order = {"warning": 0, "good": 1, "note": 2}
    return sorted(found, key=lambda remark: order[remark.level])


def _of_halves(halves: dict[str, Any] | None) -> list[Remark]:
    if halves is None:
        text = (
            "Nobody has checked yet whether independent halves of the data show the same motion: "
            "cryomorph train --halves does."
        )
        return [Remark("note", text, "halves")]
    level = "good" if halves["resolved"] else "warning"
    return [Remark(level, f"Two independent halves of the data say: {halves['verdict']}.", "halves")]


def _of_training(metrics: Metrics) -> list[Remark]:
    free = best_and_last(metrics)
    if free is None:
        return [
            Remark("note", "No coefficients were kept out of the fit, so that overfitting cannot be seen.", "training")
        ]
    best, last = free
    if last <= 0:
        text = (
            f"The model does not explain Fourier coefficients that it was not fitted to ({last:.1f} nats an image, "
            "where nothing at all explains 0): check template, poses and pixel size."
        )
        return [Remark("warning", text, "training")]
    if last < (1 - FALLEN) * best:
        text = (
            f"Free coefficients were explained better before the end ({best:.1f} nats an image) than at the end "
            f"({last:.1f}): the last epochs fitted noise."
        )
        return [Remark("warning", text, "training")]
    return [Remark("good", f"Coefficients kept out of the fit are explained, by {last:.1f} nats an image.", "training")]


def _of_particles(analysis: Analysis, posterior: Uncertainty | None) -> list[Remark]:
    found = []
    count = len(analysis)
    if count < FEW_PARTICLES:
        found.append(
            Remark("warning", f"There are only {count:,} particles: details of motions are uncertain.", "particles")
        )
    if posterior is not None and count:
        junk = more_likely(posterior.junk)
        level = "warning" if junk > MUCH_JUNK * count else "note"
        if junk:
            text = (
                f"{junk:,} particles ({junk / count:.1%}) are more probably nothing but noise than a molecule; "
                "cryomorph export --max-junk 0.5 leaves them out."
            )
            found.append(Remark(level, text, "particles"))
        misplaced = more_likely(posterior.elsewhere)
        if misplaced:
            level = "warning" if misplaced > MUCH_JUNK * count else "note"
            text = f"{misplaced:,} particles ({misplaced / count:.1%}) are more probably in quite another pose."
            found.append(Remark(level, text, "particles"))
    small = [state for state in analysis.states if state.population < SMALL_STATE * count]
    if small:
        names = ", ".join(str(state.number) for state in small)
        text = f"Hardly any particle is in state {names}: less than {SMALL_STATE:.0%} of all."
        found.append(Remark("note", text, "motion"))
    return found


def _of_certainty(analysis: Analysis, posterior: Uncertainty | None) -> list[Remark]:
    motion = float(np.sqrt(analysis.components.total))
    found = []
    if motion < LEAST_MOTION:
        text = f"Conformations hardly differ, by {motion:.2f} Å: states and motions below may be noise."
        found.append(Remark("warning", text, "motion"))
    if posterior is not None and len(posterior.deviation):
        width = float(np.median(posterior.deviation))
        if width > motion:
            text = (
                f"A single particle's conformation is uncertain by {width:.2f} Å, more than conformations differ "
                f"({motion:.2f} Å): trust populations and averages, not single particles."
            )
            found.append(Remark("warning", text, "particles"))
    return found


def _of_views(empty: float | None) -> list[Remark]:
    if empty is None or empty < UNSEEN:
        return []
    text = f"Hardly any particle is seen from {empty:.0%} of all directions: motions along some of them are blurred."
    return [Remark("warning", text, "orientations")]
