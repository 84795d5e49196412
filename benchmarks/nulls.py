"""Null tests: what `train --halves` reports where the answer is known, and mostly nothing moves.

Images of adenylate kinase (the demo's trajectory and models), from simulation to verdict: noise without a molecule; one
conformation; one conformation with the other end of the motion as template; two conformations. The second is done again
with a model that is free to fit noise: latents without a prior.

Example
-------
python benchmarks/nulls.py --out results --json rows.json
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np

from cryomorph.config import parse_config
from cryomorph.console import ProgressBar, show_messages
from cryomorph.demo import MODEL, TOPOLOGY, TRAJECTORY, demo_data
from cryomorph.geometry import rmsd
from cryomorph.halves import train_halves
from cryomorph.simulate import SimulationSettings, simulate
from cryomorph.structure.model import read_template
from cryomorph.structure.trajectory import Ensemble, read_ensemble
from cryomorph.verdict import verdict

CLOSED, OPEN = 0, -1
"""Frames of the trajectory. The template is the model of the open end."""


def data(folder: Path, arguments: argparse.Namespace, frames: list[int]) -> None:
    """Simulate images of some frames of the trajectory, with the open model as template."""
    ensemble = read_ensemble(demo_data(TRAJECTORY), demo_data(TOPOLOGY))
    settings = SimulationSettings(
        images_per_conformation=arguments.images // len(frames),
        box=arguments.box,
        pixel_size=arguments.pixel_size,
        defocus=(8_000, 14_000),
        seed=1,
    )
    shown = Ensemble(ensemble.template, ensemble.atom_coordinates[frames])
    simulate(shown, settings, folder, template=read_template(demo_data(MODEL)), overwrite=True)


def noise(folder: Path, arguments: argparse.Namespace) -> None:
    """Replace the images of a simulation by noise."""
    data(folder, arguments, [OPEN])
    with mrcfile.mmap(folder / "particles.mrcs", "r+") as stack:
        stack.data[:] = np.random.default_rng(2).standard_normal(stack.data.shape)


TESTS: dict[str, tuple[Callable[[Path, argparse.Namespace], None], dict[str, Any]]] = {
    "noise": (noise, {}),
    "one conformation": (lambda folder, arguments: data(folder, arguments, [OPEN]), {}),
    "one conformation, no prior": (
        lambda folder, arguments: data(folder, arguments, [OPEN]),
        {"latents": "table", "latent_prior": 0},
    ),
    "wrong template": (lambda folder, arguments: data(folder, arguments, [CLOSED]), {}),
    "two states": (lambda folder, arguments: data(folder, arguments, [CLOSED, OPEN]), {}),
}


def run(test: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Simulate, train both halves, compare them; what is there already is used."""
    simulate_images, settings = TESTS[test]
    folder = arguments.out / test.replace(" ", "-").replace(",", "")
    if not (folder / "template.cif").is_file():  # written last
        simulate_images(folder, arguments)
    config = {
        "particles": {"path": str(folder / "particles.star")},
        "template": {"path": str(folder / "template.cif")},
        "decoder": {"kind": "gnn", "latent_dim": arguments.latent_dim},
        "beads": arguments.beads,
        "training": {"epochs": arguments.epochs, "batch_size": arguments.batch},
        "hardware": {"accelerator": "cpu"},
    }
    started = time.monotonic()
    found = train_halves(parse_config(config | settings, test), folder / "halves", progress=ProgressBar())
    truth = np.load(folder / "truth.npz")["coordinates"].astype(np.float64)
    motion = 0.0 if len(truth) == 1 else float(rmsd(*truth)) / 2
    template = read_template(folder / "template.cif").coordinates
    row = {
        "test": test,
        "true_motion_angstrom": motion if test != "noise" else None,
        "reported_motion_angstrom": found.motion.angstrom,
        "uncertainty_angstrom": found.motion.angstrom_error,
        "at_most_angstrom": found.motion.at_most,
        "resolved": found.resolved,
        "between_models_angstrom": found.agreement.rmsd,
        "correlation_of_models": found.agreement.correlation,
        "template_from_truth_angstrom": float(rmsd(truth, template).mean()) if test != "noise" else None,
        "mean_from_template_angstrom": found.from_template,
        "between_halves_angstrom": found.between_halves,
        "states": found.states.count if found.resolved else 1,
        "separation_angstrom": found.states.separation,
        "free_nats_of_motion": [(half.motion, half.motion_error) for half in found.evidence],
        "verdict": verdict(found),
        "seconds": time.monotonic() - started,
    }
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def main() -> None:
    """Run the tests one after the other and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data and runs; those there are continued")
    parser.add_argument("--tests", default=";".join(TESTS), help="names of tests, separated by semicolons")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--box", type=int, default=64, help="pixels")
    parser.add_argument("--pixel-size", type=float, default=3.0, help="Å")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--latent-dim", type=int, default=4)
    parser.add_argument("--beads", default="residue", help="ca, residue or atom")
    parser.add_argument("--json", type=Path, help="write one row a test")
    arguments = parser.parse_args()
    show_messages()
    rows = []
    for test in arguments.tests.split(";"):
        rows.append(run(test, arguments))
        print(f"{test}: {rows[-1]['verdict']}  ({rows[-1]['seconds']:.0f} s)", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
