"""What nuisances of real data cost, and what taking them into account gains: contrast, backgrounds, a belt and others.

Example
-------
python benchmarks/nuisances.py --json rows.json
python benchmarks/nuisances.py --nuisances none,belt --seeds 3 --out FOLDER

Images of adenylate kinase on the path from closed to open (of the package MDAnalysisTests) are simulated with each
nuisance, and without. Models are trained on them with default settings, and with the part of the model that is for the
nuisance; on images without nuisances with each such part, which tells whether it harms where it is not needed.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryomorph.config import parse_config
from cryomorph.demo import MODEL, TOPOLOGY, TRAJECTORY, demo_data
from cryomorph.results import evaluate
from cryomorph.simulate import Nuisances, SimulationSettings
from cryomorph.workflows import simulate_images, train

NUISANCES = {
    "none": Nuisances(),
    "contrast": Nuisances(contrast=0.4),
    "groups": Nuisances(group_contrast=(1.0, 0.5)),
    "background": Nuisances(background=0.5),
    "belt": Nuisances(belt=0.5),
    "neighbours": Nuisances(neighbours=0.5),
    "faint": Nuisances(faint="A:120-160", occupancy=0.3),
    "blurred": Nuisances(blurred="A:120-160", blur=300.0),
}

HANDLING: dict[str, dict[str, Any]] = {
    "contrast": {"likelihood": {"scale_spread": "auto"}},
    "belt": {"scattering": {"surroundings": True}},
    "faint": {"scattering": {"occupancy": True}},
    "blurred": {"scattering": {"b_factors": True}},
}
"""The part of the model that is for a nuisance; optics groups and backgrounds are left to gains and shells."""
WITHOUT: dict[str, dict[str, Any]] = {"contrast": {"likelihood": {"scale_spread": 0.0}}}
"""Settings without that part, where it is a default."""


def simulated(folder: Path, nuisance: str, arguments: argparse.Namespace) -> Path:
    """Simulate the images of one nuisance, if they are not there; returns their folder."""
    out = folder / f"{nuisance}-{arguments.images}-{arguments.box}"
    if not (out / "template.cif").exists():
        settings = SimulationSettings(
            images_per_conformation=arguments.images,
            box=arguments.box,
            pixel_size=arguments.pixel_size,
            dose=100,
            defocus=(12_000, 20_000),
            seed=1,
            nuisances=NUISANCES[nuisance],
        )
        simulate_images(
            demo_data(TRAJECTORY),
            out,
            settings,
            topology=demo_data(TOPOLOGY),
            template=demo_data(MODEL),
            overwrite=True,
        )
    return out


def run_one(folder: Path, nuisance: str, part: str, seed: int, arguments: argparse.Namespace) -> dict[str, object]:
    """Train on the images of a nuisance with the part of the model that is for it, or for another one, or none ("")."""
    data = simulated(folder / "data", nuisance, arguments)
    settings: dict[str, Any] = {
        "particles": {"path": str(data / "particles.star")},
        "template": {"path": str(data / "template.cif")},
        "training": {"epochs": arguments.epochs},
        "priors": {"strength": arguments.prior_strength},
        "seed": seed,
    }
    name = f"{nuisance}-with-{part or 'nothing'}-{arguments.images}-{arguments.box}-{arguments.epochs}-seed{seed}"
    started = time.monotonic()
    changed = HANDLING[part] if part else WITHOUT.get(nuisance, {})
    run = train(parse_config(settings | changed, "benchmark").resolved(), folder / name)
    seconds = time.monotonic() - started
    result = evaluate(run.path, data / "truth.npz")
    last = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
    row: dict[str, Any] = {"nuisance": nuisance, "part": part, "seed": seed, "rmsd": round(result.rmsd_mean, 4)}
    row |= {"free": round(last["free"], 2), "seconds": round(seconds, 1)}
    print(
        f"{nuisance:12s}{part or 'nothing':12s}{seed:5d}{row['rmsd']:10.3f}{row['free']:10.2f}{seconds:8.0f}",
        flush=True,
    )
    return row


def main() -> None:
    """Run all cases and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuisances", default=",".join(NUISANCES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=12, help="of each of 102 conformations")
    parser.add_argument("--box", type=int, default=72, help="pixels")
    parser.add_argument("--pixel-size", type=float, default=3.0, help="Å")
    parser.add_argument("--prior-strength", type=float, default=100.0)
    parser.add_argument("--out", type=Path, help="folder to keep images and runs in [default: a temporary one]")
    parser.add_argument("--json", type=Path, help="write the rows")
    arguments = parser.parse_args()
    print(f"{'images with':12s}{'model with':12s}{'seed':>5s}{'RMSD (Å)':>10s}{'free':>10s}{'s':>8s}")
    with TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        rows = [
            run_one(folder, nuisance, part, seed, arguments)
            for seed in range(arguments.seeds)
            for nuisance in arguments.nuisances.split(",")
            for part in ("", *(HANDLING if nuisance == "none" else [nuisance] if nuisance in HANDLING else []))
        ]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
