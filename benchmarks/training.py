"""Whole training steps, as a user has them: `cryomorph train` on simulated images, matched filter beside direct.

Example
-------
python benchmarks/training.py --json rows.json
python benchmarks/training.py --particles 10000,100000 --systems adk --boxes 64 --engines matched_filter

Every row is a run of its own process, reading from disk, with all default settings but the likelihood. The two
likelihoods take turns, and the ratio is the median over turns. The second example shows that memory does not grow with
the number of particles.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cryomorph.simulate import SimulationSettings
from cryomorph.structure.write import write_template
from cryomorph.workflows import simulate_images
from systems import SYSTEMS, template_of

FIELD_OF_VIEW = 256.0  # Å


def simulated(folder: Path, system: str, box: int, particles: int) -> Path:
    """Simulate images of one conformation, if they are not there; returns the star file."""
    out = folder / f"{system}-{box}-{particles}"
    model = folder / f"{system}.cif"
    if not model.exists():
        write_template(model, template_of(system))
    if not (out / "particles.star").exists():
        settings = SimulationSettings(
            images_per_conformation=particles, box=box, pixel_size=FIELD_OF_VIEW / box, dtype="float16"
        )
        simulate_images(model, out, settings, template=model, overwrite=True)
    return out / "particles.star"


def train(star: Path, engine: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Train for some epochs in a process of its own; returns its figures."""
    with TemporaryDirectory(dir=arguments.data) as run:
        options = ["--likelihood", engine, "--epochs", str(arguments.epochs), "--accelerator", arguments.device]
        options += ["--beads", arguments.beads, "--batch", str(arguments.batch)]
        model = star.parent / "template.cif"
        command = [
            sys.executable,
            "-m",
            "cryomorph",
            "train",
            str(star),
            "--template",
            str(model),
            "--out",
            f"{run}/run",
        ]
        environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
        started = time.monotonic()
        process = subprocess.Popen([*command, *options], env=environment, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{' '.join(command)} failed")
        lines = (Path(run) / "run" / "metrics.jsonl").read_text().splitlines()
        cache = [path.stat().st_size for path in (Path(run) / "run" / "cache").glob("windows-*")]
    rates = [json.loads(line)["images_per_second"] for line in lines]
    return {
        "images_per_second": statistics.median(rates[1:] or rates),
        "peak_rss_mb": usage.ru_maxrss / 1024,
        "cache_bytes": sum(cache),
        "seconds": time.monotonic() - started,
    }


def main() -> None:
    """Print a table, and write its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="adk,nsp13", help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--boxes", default="128,256", help="pixels over 256 Å")
    parser.add_argument("--beads", default="residue")
    parser.add_argument("--engines", default="matched_filter,direct")
    parser.add_argument("--particles", default="2048", help="numbers of images")
    parser.add_argument("--epochs", type=int, default=4, help="the first one, with its compilations, does not count")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", type=Path, help="folder to keep the simulated images in [default: a temporary one]")
    parser.add_argument("--json", type=Path, help="write the rows")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        arguments.data = arguments.data or Path(folder)
        arguments.data.mkdir(parents=True, exist_ok=True)
        rows = measure(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Return a row for each system, box, number of particles and likelihood."""
    print(f"{arguments.device}, {arguments.threads} threads, {arguments.beads} beads, {time.strftime('%Y-%m-%d')}")
    print(f"{'system':8s}{'box':>5s}{'particles':>11s}  {'likelihood':15s}{'images/s':>9s}{'× direct':>10s}", end="")
    print(f"{'cache B/image':>15s}{'peak MiB':>10s}{'whole run s':>13s}")
    rows: list[dict[str, object]] = []
    engines = arguments.engines.split(",")
    cases = [
        (system, int(box), int(particles))
        for system in arguments.systems.split(",")
        for box in arguments.boxes.split(",")
        for particles in arguments.particles.split(",")
    ]
    for system, box, particles in cases:
        star = simulated(arguments.data, system, box, particles)
        turns = [{engine: train(star, engine, arguments) for engine in engines} for _ in range(arguments.turns)]
        for engine in engines:
            ratio = None
            if "direct" in engines:
                speeds = [turn[engine]["images_per_second"] / turn["direct"]["images_per_second"] for turn in turns]
                ratio = round(statistics.median(speeds), 2)
            figures = {name: statistics.median(turn[engine][name] for turn in turns) for name in turns[0][engine]}
            row = {
                "engine": engine,
                "system": system,
                "beads": arguments.beads,
                "box": box,
                "device": arguments.device,
                "particles": particles,
                "images_per_second": round(figures["images_per_second"]),
                "times_direct": ratio,
                "bytes_per_image": round(figures["cache_bytes"] / particles),
                "peak_rss_mb": round(figures["peak_rss_mb"]),
                "seconds": round(figures["seconds"], 1),
            }
            rows.append(row)
            print(
                f"{system:8s}{box:5d}{particles:11,d}  {engine:15s}{row['images_per_second']:9,d}{ratio or '':>10}"
                f"{row['bytes_per_image']:15,d}{row['peak_rss_mb']:10,d}{row['seconds']:13.1f}",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    main()
