"""Peers on the same images and the same machine: cryoDRGN's latents beside ours, published rendering beside ours.

Example
-------
python benchmarks/peers.py --out results --json rows.json
python benchmarks/peers.py --out results --data DATA/adk --cryodrgn VENV/bin/python --epochs 20

latents
    Adenylate kinase by multislice (as in papers.py) unless `--data` has images: `particles.star`, its float32 stack
    `particles.mrcs`, `truth.npz` and `template.cif`. Both programs get the true poses and CTFs, and images
    Fourier-cropped to `--box`. cryoDRGN gives no coordinates, so latents are compared: by the true RMSD between a
    particle and those nearest to it in latent space, and by conformations told from latents, once a regression has been
    shown the truth of other conformations (latent_measures.py). Ours are measured in the same way; beside that, its
    own conformations, which were shown no truth.
throughput
    Value and gradient of the misfit of an image by the positions of the beads: rendered as published (rendering.py),
    and by our two likelihoods, in turns; one Gaussian on each Cα, as in paper A.

cryoDRGN runs in an environment of its own. Without `--cryodrgn` it is made in the folder `cryodrgn` under `--out`:
PyTorch of the release that runs this script, then `cryodrgn` of `--version` with that PyTorch as a constraint of pip.
On Linux PyTorch from PyPI brings gigabytes of CUDA; pip's settings (PIP_INDEX_URL, PIP_FIND_LINKS) can name a build
for CPUs.

Time is in seconds of CPU, which change little on a machine that others use too; for training, by the clock as well.
There, start and preparation of images count. What was simulated or trained before is not done again. `--json` writes
one row a method.
"""

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

import cryomorph
from cryomorph.config import component
from cryomorph.evaluation import Truth, per_image_rmsd, read_truth, summarise
from cryomorph.hardware import keep_freed_memory
from cryomorph.structure.beads import bead_model
from latent_measures import distances, neighbourhood, regression
from likelihood import BOXES, Images, value_and_gradient
from papers import simulate
from rendering import dense, rendered_misfit, separable
from systems import make_batch, template_of

NEIGHBOURS = 30
"""As many as there are images of a conformation at this size of papers.py."""
PARTS = {"dense": 1, "separable": 32, "direct": 32, "matched_filter": 32}
"""Images at a time: a dense drawing of more does not fit the caches."""


def timed(command: list[str], log: Path, threads: int) -> dict[str, float]:
    """Run a command; returns how long it took by the clock and in seconds of CPU."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | {name: str(threads) for name in names}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with log.open("w") as output:
        done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{log.read_text()[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(cpu, 1)}


def cryodrgn_environment(arguments: argparse.Namespace) -> Path:
    """Return the Python that has cryoDRGN, in an environment that is made if none was given."""
    if arguments.cryodrgn:
        return Path(arguments.cryodrgn)
    folder = arguments.out / "cryodrgn"
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(f"torch=={torch.__version__.split('+')[0]}\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
    subprocess.run([*install, "torch"], check=True)
    subprocess.run([*install, f"cryodrgn=={arguments.version}"], check=True)
    (folder / "complete").touch()
    return python


def train_cryodrgn(arguments: argparse.Namespace, data: Path) -> tuple[np.ndarray, dict[str, object]]:
    """Train cryoDRGN on the images; returns the latents (m, d), and its row."""
    python = cryodrgn_environment(arguments)
    name = f"box{arguments.box}_width{arguments.width}_z{arguments.latents}_epochs{arguments.epochs}"
    folder = arguments.out / "runs" / f"cryodrgn_{name}_seed{arguments.seed}"
    if not (folder / "row.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        program = [str(python), "-c", "from cryodrgn.command_line import main_commands; main_commands()"]
        star, images, poses, optics = (
            data / "particles.star",
            folder / "images.mrcs",
            folder / "pose.pkl",
            folder / "ctf.pkl",
        )
        for command in (
            ["downsample", str(data / "particles.mrcs"), "-D", str(arguments.box), "-o", str(images)],
            ["parse_pose_star", str(star), "-o", str(poses)],
            ["parse_ctf_star", str(star), "-o", str(optics), "--ps", "0"],
        ):
            timed([*program, *command], folder / f"{command[0]}.txt", arguments.threads)
        inputs = [str(images), "--poses", str(poses), "--ctf", str(optics), "--uninvert-data", "-o", str(folder)]
        networks = [
            "--enc-dim",
            str(arguments.width),
            "--dec-dim",
            str(arguments.width),
            "--zdim",
            str(arguments.latents),
        ]
        limits = [
            "-n",
            str(arguments.epochs),
            "--seed",
            str(arguments.seed),
            "--checkpoint",
            "0",
            "--no-analysis",
            "--no-amp",
        ]
        took = timed([*program, "train_vae", *inputs, *networks, *limits], folder / "train.txt", arguments.threads)
        (folder / "row.json").write_text(json.dumps(took | {"epochs": arguments.epochs}))
    with (folder / "z.pkl").open("rb") as file:
        latents = pickle.load(file)
    return latents, {"method": "cryodrgn"} | json.loads((folder / "row.json").read_text())


def train_ours(arguments: argparse.Namespace, data: Path) -> tuple[cryomorph.OpenedRun, dict[str, object]]:
    """Train with default settings on the images; returns the run, and its row."""
    folder = arguments.out / "runs" / f"cryomorph_box{arguments.box}_seed{arguments.seed}"
    row = folder.with_suffix(".json")
    if not row.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        inputs = [str(data / "particles.star"), "--template", str(data / "template.cif"), "--out", str(folder)]
        options = ["--box", str(arguments.box), "--seed", str(arguments.seed)]
        command = [sys.executable, "-m", "cryomorph", "train", *inputs, *options]
        took = timed(command, folder.with_suffix(".txt"), arguments.threads)
        epochs = len((folder / "metrics.jsonl").read_text().splitlines())
        row.write_text(json.dumps(took | {"epochs": epochs}))
    return cryomorph.open_run(folder), {"method": "cryomorph"} | json.loads(row.read_text())


def measured(latents: np.ndarray, truth: Truth) -> dict[str, object]:
    """Return what latents (m, d) know of the truth."""
    apart = distances(truth.coordinates)
    near, agreement = neighbourhood(latents, truth.conformation, apart, NEIGHBOURS)
    told = regression(latents, truth.conformation, truth.coordinates, NEIGHBOURS)
    return {
        "latents": latents.shape[1],
        "neighbours_rmsd": round(near, 3),
        "agreement": round(agreement, 3),
        "regression_rmsd": round(told, 3),
    }


def compare_latents(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Return one row for each program, one for our conformations taken as latents, and one for noise."""
    data = arguments.data or arguments.out / "data" / "adk"
    if arguments.data is None:
        simulate(argparse.Namespace(out=arguments.out, size="small"), "adk")
    truth = read_truth(data / "truth.npz")
    theirs, their_row = train_cryodrgn(arguments, data)
    run, our_row = train_ours(arguments, data)
    noise = np.random.default_rng(arguments.seed).standard_normal((len(run), arguments.latents))
    conformations = run.conformations()
    errors = per_image_rmsd(run.ensemble.batches(np.arange(len(run))), truth, run.source_index)
    result = summarise(errors, run.template.coordinates, truth, run.source_index)
    rows = [
        their_row | measured(theirs, truth),
        our_row | measured(run.latents, truth) | {"rmsd_mean": round(result.rmsd_mean, 3)},
        {"method": "cryomorph, conformations"} | measured(conformations.reshape(len(run), -1), truth),
        {"method": "noise"} | measured(noise, truth),
    ]
    for row in rows[:2]:
        for rate, taken in (("images_per_second", "seconds"), ("images_per_cpu_second", "cpu_seconds")):
            row[rate] = round(len(run) * int(str(row["epochs"])) / float(str(row[taken])), 1)
    print(f"{len(run):,} images, box {arguments.box}; the template {result.rmsd_template:.3f} Å, ", end="")
    print(f"the best constant {result.rmsd_constant:.3f} Å")
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    return rows


def cpu_seconds(step: Callable[[], None]) -> float:
    """Seconds of CPU that a step takes, all threads together."""
    start = time.process_time()
    step()
    return time.process_time() - start


def compare_throughput(arguments: argparse.Namespace, box: int) -> list[dict[str, object]]:
    """Return the rows of published rendering and of our likelihoods at a box."""
    template = template_of("adk")
    model = bead_model(template, "ca")
    coordinates = torch.from_numpy(template.coordinates).float()
    made = {name: component("likelihood", name) for name in ("direct", "matched_filter")}
    ours = {name: cls(cls.Settings(), 1) for name, cls in made.items()}
    misfits = {"dense": rendered_misfit(dense), "separable": rendered_misfit(separable)} | ours
    steps = {}
    for name, misfit in misfits.items():
        batch = make_batch(PARTS[name], box, BOXES[box])
        if name == "matched_filter":
            with TemporaryDirectory() as folder:
                source = misfit.prepare(Images(batch), model(coordinates[None]), Path(folder))
                batch = source.batch(np.arange(len(batch)))
        steps[name] = value_and_gradient(misfit, model(coordinates.expand(len(batch), -1, -1)), batch)
    times = np.array(
        [[cpu_seconds(step) / PARTS[name] for name, step in steps.items()] for _ in range(arguments.repeats + 1)]
    )[1:]  # the first of all warms up
    rows = []
    for name, column in zip(steps, times.T, strict=True):
        rate, ratio = 1 / float(np.median(column)), float(np.median(times[:, 0] / column))
        rows.append(
            {"method": name, "box": box, "images_per_cpu_second": round(rate, 2), "times_dense": round(ratio, 1)}
        )
        print(f"{box:5d}  {name:15s}{rate:10,.1f} images per CPU second{ratio:10,.1f} × dense", flush=True)
    return rows


def main() -> None:
    """Compare; print, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for images, runs and cryoDRGN's environment")
    parser.add_argument("--data", type=Path, help="folder with images, instead of simulating them")
    parser.add_argument("--cryodrgn", help="Python of an environment that has cryoDRGN, instead of making one")
    parser.add_argument("--version", default="4.3.1", help="of cryoDRGN, if the environment is made")
    parser.add_argument("--parts", default="latents,throughput", help="what to compare")
    parser.add_argument("--box", type=int, default=64, help="pixels of images that both programs see")
    parser.add_argument("--epochs", type=int, default=20, help="of cryoDRGN")
    parser.add_argument("--width", type=int, default=256, help="of cryoDRGN's networks, three layers each")
    parser.add_argument("--latents", type=int, default=8, help="of cryoDRGN")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--boxes", default="128,256", help="for throughput")
    parser.add_argument("--repeats", type=int, default=7, help="turns of throughput")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the rows")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as in training
    rows = []
    if "latents" in arguments.parts.split(","):
        rows += compare_latents(arguments)
    if "throughput" in arguments.parts.split(","):
        for box in arguments.boxes.split(","):
            rows += compare_throughput(arguments, int(box))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
