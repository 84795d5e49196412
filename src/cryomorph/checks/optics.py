"""Whether the microscope's numbers are such as microscopes have."""

from dataclasses import dataclass

import numpy as np

from cryomorph.checks.finding import Evidence, Finding
from cryomorph.particles.stack import ParticleStack

NAME = "CTF columns"


@dataclass(frozen=True)
class _Usual:
    field: str
    label: str
    low: float
    high: float
    unit: str
    mend: str


_USUAL = (
    _Usual("voltage", "voltage", 80, 400, "kV", "correct rlnVoltage (ctf/accel_kv), which is in kV"),
    _Usual("spherical_aberration", "spherical aberration", 0.0, 5.0, "mm",
           "correct rlnSphericalAberration (ctf/cs_mm), which is in mm"),
    _Usual("amplitude_contrast", "amplitude contrast", 0.02, 0.3, "",
           "correct rlnAmplitudeContrast (ctf/amp_contrast), a fraction of about 0.07 to 0.1"),
    _Usual("defocus", "defocus", 3_000, 60_000, "Å",
           "correct rlnDefocusU and rlnDefocusV (ctf/df1_A, ctf/df2_A), in Å and positive for underfocus"),
)  # fmt: skip
FEW = 0.02
"""Share of particles with unusual numbers that is an accident."""


def finding(stack: ParticleStack) -> Finding:
    """Return the finding, from the numbers of all particles."""
    table = stack.table
    evidence: Evidence = {}
    faults: list[tuple[float, str, str]] = []
    for usual in _USUAL:
        values = (table.defocus_u + table.defocus_v) / 2 if usual.field == "defocus" else getattr(table, usual.field)
        low, middle, high = (float(value) for value in np.quantile(values, [0, 0.5, 1]))
        evidence[usual.label.replace(" ", "_")] = f"{low:g} to {high:g} {usual.unit}".rstrip()
        share = float(((values < usual.low) | (values > usual.high)).mean())
        if share > FEW:
            span = f"{usual.low:g} to {usual.high:g} {usual.unit}".rstrip()
            faults.append(
                (share, f"{usual.label} of {share:.0%} of the particles is not {span} (median {middle:g})", usual.mend)
            )
    astigmatism = np.abs(table.defocus_u - table.defocus_v)
    evidence["astigmatism"] = f"{astigmatism.min():g} to {astigmatism.max():g} Å"
    if not faults:
        return Finding(NAME, "good", "voltage, aberration, amplitude contrast and defocus are usual ones", evidence)
    return Finding(
        NAME, "suspect", "; ".join(fault[1] for fault in faults), evidence, "; ".join(fault[2] for fault in faults)
    )
