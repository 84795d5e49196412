"""A run and its analysis with planted numbers, as large as a test wants them, and the report of it."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from cryomorph.analysis.result import Analysis, BodyMotion, Components, Landscape, Motion, State
from cryomorph.particles.found import FoundPoses
from cryomorph.report.source import Source
from cryomorph.structure.model import Template

AMPLITUDE = 3.0
"""Å, half of what lies between the two states along the first component."""


def chain(residues: int, names: tuple[str, ...] = ("A",)) -> Template:
    """A coil of Cα alone, in as many chains as there are names."""
    turn = np.deg2rad(100.0 * np.arange(residues))
    x = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(residues)], axis=1)
    of_chain = np.arange(residues) * len(names) // residues
    return Template(
        source="made for a test",
        coordinates=x,
        residue_names=("ALA",) * residues,
        residue_ids=tuple(str(i + 1) for i in range(residues)),
        chain=of_chain,
        chain_names=names,
        bonded=np.diff(of_chain) == 0,
        atom_coordinates=x,
        atom_names=("CA",) * residues,
        elements=("C",) * residues,
        atom_residue=np.arange(residues),
    )


def analysis_of(template: Template, particles: int, motions: int = 2, steps: int = 9) -> Analysis:
    """Two states at ±`AMPLITUDE` along the first component, which bends, and noise of 0.5 Å along the second."""
    rng = np.random.default_rng(0)
    n = len(template)
    along = np.linspace(-1, 1, n)
    bend = np.stack([np.zeros(n), along**2 - np.mean(along**2), np.zeros(n)], axis=1)
    shear = np.stack([along, np.zeros(n), np.zeros(n)], axis=1)
    modes = np.stack([mode / np.linalg.norm(mode) for mode in (bend, shear)])
    side = np.where(np.arange(particles) % 4 == 3, 1, -1)  # a quarter of the particles is in the second state
    pc = np.stack(
        [AMPLITUDE * side + 0.3 * rng.standard_normal(particles), 0.5 * rng.standard_normal(particles)], axis=1
    )
    state = np.where(side < 0, 1, 2)

    def conformation(places):
        return template.coordinates + np.sqrt(n) * np.tensordot(places, modes, 1)

    nearest = [int(np.argmin(np.abs(pc - [centre, 0]).sum(1))) for centre in (-AMPLITUDE, AMPLITUDE)]
    states = tuple(
        State(number, int((state == number).sum()), row, pc[row], conformation(pc[row]))
        for number, row in enumerate(nearest, start=1)
    )
    places = np.linspace(-AMPLITUDE, AMPLITUDE, steps)
    ways = [np.stack([places, 0.1 * number * places], axis=1) for number in range(motions)]
    half = n // 2
    body = {"rotation": 12.0, "translation": 0.4, "shift": 3.0, "axis": np.eye(3)[0], "point": np.zeros(3)}
    bodies = (
        BodyMotion(np.arange(half), 0.0, 0.0, 0.0, np.eye(3)[0], np.zeros(3)),
        BodyMotion(np.arange(half, n), **body),
    )
    edges = np.linspace(-4.5, 4.5, 31), np.linspace(-2.5, 2.5, 31)
    counts = np.histogram2d(*pc.T, bins=edges)[0]
    with np.errstate(divide="ignore"):
        energy = np.where(counts > 0, -np.log(counts / counts.max()), np.nan)
    second = pc.var(axis=0)
    return Analysis(
        columns={"pc1": pc[:, 0], "pc2": pc[:, 1], "z1": pc[:, 0], "z2": pc[:, 1], "state": state},
        components=Components(template.coordinates, modes, second, float(second.sum())),
        states=states,
        motions=tuple(Motion(f"pc{k + 1}", places, way, conformation(way)) for k, way in enumerate(ways)),
        landscape=Landscape(("pc1", "pc2"), *edges, energy),
        rmsf=np.linspace(0.5, 4, n),
        bodies={"pc1": bodies},
    )


def metrics(epochs: int = 6) -> list[dict]:
    """Training that goes well, in which the strength of the priors was lowered after the third epoch."""
    rows = []
    for epoch in range(1, epochs + 1):
        shells = {f"{name}_shells": [0.0, 1.0 * epoch, 2.0, 1.0] for name in ("work", "free")}
        rows.append(
            {"epoch": epoch, "work": 4.0 + epoch, "free": 3.0 + epoch, "learning_rate": 0.003 / epoch, "seconds": 2.5}
        )
        rows[-1] |= shells
    rows[2] |= {"prior_strength": {"tried": [100.0, 30.0], "chosen": 30.0}, "calibrated": True}
    return rows


def uncertainty(particles: int, residues: int, junk: int = 0) -> SimpleNamespace:
    """The same of every particle, but for the first few, which are junk."""
    ones = np.ones(particles, dtype=np.float32)
    return SimpleNamespace(
        directions=np.eye(8, 2, dtype=np.float32),
        deviation=0.4 * ones,
        residues=np.full(residues, 0.4, np.float32),
        information=2 * ones,
        explained=50 * ones,
        elsewhere=0 * ones,
        choices=ones,
        junk=np.where(np.arange(particles) < junk, 0.9, 0.01).astype(np.float32),
    )


def rotations(particles: int, seed: int = 0) -> np.ndarray:
    """Uniform over all rotations."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((particles, 3, 3)))[0]


HALVES = {
    "verdict": "motion of 2.0 ± 0.1 Å, the same in both halves (correlation 0.97)",
    "particles_compared": 100,
    "motion": {"resolved": True, "angstrom": 2.0, "uncertainty_angstrom": 0.1},
    "agreement": {"rmsd_angstrom": 0.5, "correlation": 0.97},
    "mean": {"from_template_angstrom": 1.0, "between_halves_angstrom": 0.1},
    "states": {"count": 2, "separation_angstrom": 5.0},
}
"""As far as `halves.json` is read."""


def half_arrays(residues: int = 2) -> dict[str, np.ndarray]:
    """What `halves.npz` holds: motion of 1 and 0.1 Å in turn, whose squares are known to 0.25 Å²."""
    return {
        "motion": np.resize([1.0, 0.1], residues),
        "covariance_error": np.full(residues, 0.25),
        "rmsd_between_models": np.full(residues, 0.2),
        "places": np.array([[1.0, 3.0], [2.0, 2.0]]),
    }


def source(particles: int = 400, residues: int = 40, *, names: tuple[str, ...] = ("A",), **changes) -> Source:
    """What a report is made of, without any file."""
    template = chain(residues, names)
    kinds = {
        name: SimpleNamespace(kind=kind)
        for name, kind in (("decoder", "gnn"), ("latents", "table"), ("poses", "known"))
    }
    config = SimpleNamespace(
        particles=SimpleNamespace(path="particles.star"),
        template=SimpleNamespace(path="model.pdb"),
        beads="auto",
        priors=SimpleNamespace(strength="auto"),
        latent_prior=1.0,
        seed=0,
        to_yaml=lambda: "seed: 0\n",
        **kinds,
    )
    fitted = SimpleNamespace(
        template=template,
        config=config,
        source_index=np.arange(particles) + 100,
        run=SimpleNamespace(images=lambda: (8, np.array([2.0])), path=Path("/projects/run7")),
        reconstruction=SimpleNamespace(
            strength=30.0, latent_prior=1.0, molecule=SimpleNamespace(kind="residue"), beads=SimpleNamespace()
        ),
    )
    frequency = np.arange(4)[None] / 16.0
    found = {
        "fitted": fitted,
        "analysis": analysis_of(template, particles),
        "metrics": metrics(),
        "provenance": [{"time": "2026-01-01", "command": ["cryomorph", "train"], "versions": {"torch": "2"}}],
        "posterior": uncertainty(particles, residues),
        "calibration": {"noise": np.ones((1, 4)), "signal": np.full((1, 4), 0.8), "frequency": frequency},
        "table": SimpleNamespace(defocus_u=np.full(particles, 15000.0), defocus_v=np.full(particles, 14800.0)),
        "poses": FoundPoses(rotations(particles), np.zeros((particles, 2)), np.zeros(particles)),
        "examples": None,
        "halves": None,
        "evaluation": None,
        "missing": (),
    }
    return Source(**(found | changes))


def data_of(html: str) -> dict:
    """Return the JSON that a page carries."""
    return json.loads(html.split('<script type="application/json" id="data">')[1].split("</script>")[0])
