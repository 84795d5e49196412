"""What the comparison of two halves means, in words and as numbers."""

from typing import Any

from cryomorph.comparison import Comparison, Evidence
from cryomorph.resolved import CERTAIN

ALIKE = 0.8
"""Correlation from which two models are said to show the same motion."""
MOVED = 3.0
"""By how many times the difference of the halves a mean differs from the template before it is said to."""
DIGITS = 4


def verdict(found: Comparison) -> str:
    """Say in a line whether there is motion, which, and where the mean is."""
    parts = [_motion(found)]
    if found.resolved and found.states.count == 2:
        shares = " and ".join(f"{share:.0%}" for share in found.states.shares)
        parts.append(f"two states {_short(found.states.separation)} Å apart ({shares} of the particles)")
    if not all(_seen(half) for half in found.evidence):
        parts.insert(0, "the molecule is not in the images at these poses")
    else:
        parts.append(_mean(found))
    return "; ".join(parts)


def as_dict(found: Comparison) -> dict[str, Any]:
    """Return the numbers of a comparison, but those of each residue, as they are written into `halves.json`."""
    motion, alike, states = found.motion, found.agreement, found.states
    return {
        "verdict": verdict(found),
        "particles_compared": len(found.particles),
        "motion": _rounded(
            resolved=found.resolved,
            angstrom=motion.angstrom,
            uncertainty_angstrom=motion.angstrom_error,
            at_most_angstrom=motion.at_most,
            covariance_angstrom2=motion.covariance,
            covariance_error_angstrom2=motion.error,
            correlation_of_estimates=motion.correlation,
        ),
        "agreement": _rounded(
            rmsd_angstrom=alike.rmsd,
            correlation=alike.correlation,
            directions=list(alike.directions),
            principal_angles_deg=[round(float(angle), 1) for angle in alike.angles],
        ),
        "mean": _rounded(from_template_angstrom=found.from_template, between_halves_angstrom=found.between_halves),
        "states": _rounded(
            count=states.count if found.resolved else 1,
            separation_angstrom=states.separation if found.resolved else 0.0,
            width_angstrom=states.width,
            noise_angstrom=states.noise,
            shares=[round(share, DIGITS) for share in states.shares] if found.resolved else [1.0],
            evidence=states.evidence,
        ),
        "free_nats_per_image": [_rounded(**vars(half)) for half in found.evidence],
    }


def _motion(found: Comparison) -> str:
    motion, alike = found.motion, found.agreement
    if not motion.resolved:
        return f"no motion beyond noise: {_short(motion.angstrom)} Å, at most {_short(motion.at_most)} Å"
    size = f"motion of {_short(motion.angstrom)} ± {_short(max(motion.angstrom_error, 0.01))} Å"
    shared = "the same in both halves" if alike.correlation > ALIKE else "only partly the same in both halves"
    text = f"{size}, {shared} (correlation {alike.correlation:.2f})"
    if found.explains:
        return text
    return f"no motion shown: a {text}, which does not explain coefficients that were kept out of the fit"


def _mean(found: Comparison) -> str:
    moved = found.from_template > MOVED * found.between_halves
    where = "" if moved else ", no further than the halves differ"
    return (
        f"mean conformation {_short(found.from_template)} Å from the template{where} "
        f"(the halves' means: {_short(found.between_halves)} Å apart)"
    )


def _seen(half: Evidence) -> bool:
    return half.mean > CERTAIN * half.mean_error


def _short(length: float) -> str:
    return f"{length:.1f}" if length >= 1 else f"{length:.2f}"


def _rounded(**values: Any) -> dict[str, Any]:
    return {name: round(value, DIGITS) if type(value) is float else value for name, value in values.items()}
