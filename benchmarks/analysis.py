"""Time and memory of an analysis, for particles and residues in any number.

Example
-------
python benchmarks/analysis.py --particles 3060,100000,1000000 --json rows.json
python benchmarks/analysis.py --systems spike --particles 100000

Latents are simulated: a path that bends, with noise, in three groups. The model is a graph network with random weights,
scaled so that conformations differ by some 2 Å. Each case is a run folder and a process of its own, whose memory is the
largest it ever had: what was imported, the analysis, models and, with --report, the report page.
"""

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

LATENTS = 8
SPREAD = 2.0
"""Å, root mean square, of the conformations from their mean."""


def simulated_latents(count: int) -> np.ndarray:
    """Return latents (count, 8): three groups along a bent path in the first two, noise in the others."""
    random = np.random.default_rng(0)
    along = random.choice([-1.2, 0.0, 1.2], count, p=[0.3, 0.5, 0.2]) + 0.25 * random.standard_normal(count)
    latents = 0.2 * random.standard_normal((count, LATENTS))
    latents[:, 0] += 2 * np.sin(along)
    latents[:, 1] += 2 * np.cos(along)
    return latents.astype(np.float32)


def make_run(folder: Path, system: str, particles: int) -> None:
    """Write a finished run as `train` would."""
    from cryomorph.config import build_reconstruction, parse_config
    from cryomorph.run import RunFolder
    from cryomorph.structure.write import write_template
    from systems import template_of

    template = template_of(system)
    run = RunFolder(folder)
    folder.mkdir()
    write_template(run.template, template)
    settings = {
        "particles": {"path": str(folder / "particles.star")},
        "template": {"path": str(run.template)},
        "decoder": {"kind": "gnn", "latent_dim": LATENTS},
        "training": {"epochs": 1},
    }
    config = parse_config(settings, "benchmark").resolved()
    config.write(run.config)
    (folder / "particles.star").write_text("data_\n")
    run.record_particles([folder / "particles.star"], np.arange(particles), particles, 256, np.ones(1))
    torch.manual_seed(0)
    reconstruction = build_reconstruction(config, template, 1, particles)
    latents = simulated_latents(particles)
    model = reconstruction.conformations
    with torch.no_grad():
        x = model(torch.from_numpy(latents[:200]))
        model.output.weight *= SPREAD / (x - x.mean(0)).square().sum(-1).mean().sqrt()
    state: dict[str, Any] = {"epoch": 1, "reconstruction": reconstruction.state_dict(), "calibration": None}
    run.save_checkpoint(state | {"latents": {}, "optimizer": {}, "best": {}})
    run.save_latents(latents)


def run_one(folder: Path, report: bool) -> dict[str, Any]:
    """Analyse a run, and return what it took; to be called in a process of its own."""
    from cryomorph.analyzing import analyze
    from cryomorph.reporting import write_report

    started = time.monotonic()
    analysis = analyze(folder, report=False)
    row: dict[str, Any] = {
        "residues": len(analysis.rmsf),
        "particles": len(analysis),
        "seconds": round(time.monotonic() - started, 1),
        "states": [state.population for state in analysis.states],
        "rmsd_from_mean": round(analysis.components.total**0.5, 3),
    }
    row["gigabytes"] = peak()
    if report:
        started = time.monotonic()
        row["report_megabytes"] = round(write_report(folder).stat().st_size / 1e6, 2)
        row |= {"report_seconds": round(time.monotonic() - started, 1), "report_gigabytes": peak()}
    return row


def peak() -> float:
    """Return the most memory that this process has had, in GB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def main() -> None:
    """Analyse runs of all sizes and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="adk", help="adk, nsp13 or spike; several separated by commas")
    parser.add_argument("--particles", default="3060,100000", help="one or several numbers, separated by commas")
    parser.add_argument("--report", action="store_true", help="also write the report page")
    parser.add_argument("--json", type=Path, help="write the rows")
    arguments = parser.parse_args()
    print(f"{'residues':>10s}{'particles':>12s}{'s':>10s}{'GB':>8s}")
    rows = []
    for system in arguments.systems.split(","):
        for particles in map(int, arguments.particles.split(",")):
            with TemporaryDirectory() as temporary, multiprocessing.get_context("spawn").Pool(1) as pool:
                folder = Path(temporary) / "run"
                make_run(folder, system, particles)
                row = pool.apply(run_one, (folder, arguments.report))
            print(f"{row['residues']:10d}{particles:12d}{row['seconds']:10.1f}{row['gigabytes']:8.2f}", flush=True)
            rows.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
