"""The experiments of paper B (CryoChains): five models of motion at three noise levels, latents by encoder or by table.

Example
-------
python benchmarks/cryochains.py --data DATA/hsp90 --out results --json results/rows.json

`DATA/hsp90` holds `closed_2cg9.pdb`, the truth, and `open_model.pdb`, the template. Two systems are simulated:

hsp90
    As in the paper: from the closed model, 15 normal modes a chain with weights from the mixture of 0 and 2.5, every
    chain turned by up to 2.5 degrees about each axis. The template is the open model.
control
    Like GABA_B, a motion that modes of the whole molecule explain: 15 of them with the same weights. The template is
    the closed model bent along soft modes by 2 Å.

Encoders are judged by images they have not seen (test), latents kept for each particle by the images they were fitted
to; no method is shown the truth. `--size paper` is the paper's number of images, for a GPU. What was simulated, trained
and evaluated before is not done again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import yaml

from cryomorph.config import component
from cryomorph.evaluation import read_truth
from cryomorph.geometry import rmsd
from cryomorph.structure.model import Template, read_template
from cryomorph.structure.modes import displaced, template_modes
from cryomorph.structure.write import write_template

METHODS: dict[str, dict[str, object]] = {
    "N100": {"kind": "nma", "modes": 100},
    "cN50": {"kind": "chains", "modes": 50, "rigid": "none"},
    "cR": {"kind": "chains", "modes": 0, "rigid": "rotation"},
    "cRT": {"kind": "chains", "modes": 0},
    "CryoChains": {"kind": "chains", "modes": 50},
}
MOTIONS = {
    "hsp90": ["--modes", "15", "--mixture", "0,2.5;0.25", "--chain-rotation", "2.5"],
    "control": ["--modes", "15", "--mixture", "0,2.5;0.25", "--groups", "A+B"],
}
CLOSEST_OF = 40
"""Conformations for which the nearest that a model can make is looked for."""
SOFTEST, COLLECTIVE, BEND = 15, 4.0, 2.0
"""The control's template is bent along those of so many modes in which no residue moves more than so many times the
root mean square, by so many Å."""


@dataclass(frozen=True)
class Size:
    """How many images of what size, and how long networks look at them."""

    split: tuple[int, int, int]
    box: int
    pixel_size: float
    encoder_box: int
    encoder_epochs: int
    encoder_rate: float
    epochs: int
    beads: str


SIZES = {
    "small": Size(
        (1200, 0, 300), 128, 2.0, encoder_box=32, encoder_epochs=30, encoder_rate=1e-3, epochs=30, beads="ca"
    ),
    "paper": Size(
        (50_000, 5_000, 5_000),
        256,
        1.0,
        encoder_box=256,
        encoder_epochs=30,
        encoder_rate=1e-3,
        epochs=30,
        beads="residue",
    ),
}


def settings_of(latents: str, method: str, size: Size) -> dict[str, object]:
    """Return settings as published (a network trained on squared differences alone), or the package's own."""
    common: dict[str, object] = {"decoder": METHODS[method], "beads": size.beads}
    encoder = {"kind": "encoder", "box": size.encoder_box}
    read = {"latents": encoder, "training": {"epochs": size.encoder_epochs, "learning_rate": size.encoder_rate}}
    if latents == "published":
        decoder = METHODS[method] | {"adapt": False}
        squares_alone = {"latent_prior": 0.0, "priors": {"strength": 0.0}, "calibration": {"shells": "none"}}
        return common | read | squares_alone | {"decoder": decoder}
    if latents == "encoder":
        return common | read
    return common | {"latents": latents, "training": {"epochs": size.epochs, "latent_learning_rate": 0.5}}


@dataclass(frozen=True)
class Run:
    """One run of one method."""

    system: str
    noise_db: int
    seed: int
    method: str
    latents: str

    @property
    def data(self) -> str:
        """Folder of its images."""
        return f"{self.system}_{self.noise_db}dB_seed{self.seed}"

    @property
    def name(self) -> str:
        """Folder of the run."""
        return f"{self.data}_{self.method}_{self.latents}"


def cryomorph(command: list[str], threads: int) -> None:
    """Run the command; what it says is shown only if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", "cryomorph", *command], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"cryomorph {' '.join(command)}\n{done.stderr[-2000:]}")


def bent(closed: Template, path: Path) -> None:
    """Write the template of the control: the closed model, every residue's atoms moved along soft, collective modes.

    Modes in which a few residues at an end swing would tear those off.
    """
    modes = template_modes(closed, SOFTEST)
    largest = np.sqrt(len(closed)) * np.linalg.norm(modes.vectors, axis=2).max(1)
    amplitudes = np.where(largest < COLLECTIVE, (-1.0) ** np.arange(SOFTEST), 0.0)
    moved = displaced(closed.coordinates, modes, BEND * amplitudes / np.linalg.norm(amplitudes))
    atoms = closed.atom_coordinates + (moved - closed.coordinates)[closed.atom_residue]
    write_template(path, replace(closed, coordinates=moved, atom_coordinates=atoms))


def simulate(arguments: argparse.Namespace, run: Run, size: Size, threads: int) -> None:
    """Make the images of a system at a noise level."""
    out = arguments.out / "data" / run.data
    if (out / "particles.star").exists():
        return
    closed, template = arguments.data / "closed_2cg9.pdb", arguments.data / "open_model.pdb"
    if run.system == "control":
        template = arguments.out / "data" / "bent.cif"
    command = ["simulate", str(closed), "--template", str(template), "--out", str(out), *MOTIONS[run.system]]
    command += ["--images", str(sum(size.split)), "--split", ",".join(map(str, size.split)), "--seed", str(run.seed)]
    command += ["--box", str(size.box), "--pixel-size", str(size.pixel_size), "--snr-db", str(run.noise_db)]
    cryomorph(command, threads)


def train(arguments: argparse.Namespace, run: Run, size: Size, threads: int) -> dict[str, object]:
    """Train and evaluate one run, unless that was done; returns its row."""
    data, folder = arguments.out / "data" / run.data, arguments.out / "runs" / run.name
    row_file = arguments.out / "rows" / f"{run.name}.json"
    if row_file.exists():
        row: dict[str, object] = json.loads(row_file.read_text())
        if row["options"] != arguments.options:
            sys.exit(f"{row_file}: was run with other options ({row['options']}); choose another --out")
        return row
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(settings_of(run.latents, run.method, size)))
    particles, truth = str(data / "particles.star"), str(data / "truth.npz")
    command = ["train", particles, "--template", str(data / "template.cif"), "--config", str(config)]
    command += ["--indices", str(data / "train.txt"), "--out", str(folder), "--seed", str(run.seed)]
    started = time.monotonic()
    cryomorph([*command, *arguments.options], threads)
    seconds = time.monotonic() - started
    judged = folder
    if run.latents in ("published", "encoder"):
        judged = folder.with_name(f"{run.name}_test")
        cryomorph(["infer", str(folder), particles, "--indices", str(data / "test.txt"), "--out", str(judged)], threads)
    cryomorph(["evaluate", str(judged), "--truth", truth], threads)
    result = json.loads((judged / "evaluation.json").read_text())
    row = vars(run) | {"size": arguments.size, "images": size.split[0], "options": arguments.options}
    row["seconds"] = round(seconds, 1)
    row |= {name: value for name, value in result.items() if name.startswith("rmsd")}
    row_file.write_text(json.dumps(row) + "\n")
    print(f"{run.name:48s} {result['rmsd_mean']:.3f} Å  {seconds:.0f} s", flush=True)
    return row


def runs_of(arguments: argparse.Namespace) -> Iterator[Run]:
    """Yield all runs, seed by seed."""
    for seed in range(arguments.seeds):
        for system in arguments.systems.split(","):
            for noise in arguments.noise.split(","):
                for latents in arguments.latents.split(","):
                    for method in arguments.methods.split(","):
                        yield Run(system, int(noise), seed, method, latents)


def table(rows: list[dict[str, object]]) -> str:
    """Mean RMSD over seeds with half the range, a line for each system, noise level and kind of latents."""
    methods = [name for name in METHODS if any(row["method"] == name for row in rows)]
    lines = [f"{'system':9s}{'dB':>4s}  {'latents':13s}" + "".join(f"{name:>15s}" for name in methods)]
    lines[0] += f"{'template':>10s}{'constant':>10s}"
    for system, noise, latents in dict.fromkeys((row["system"], row["noise_db"], row["latents"]) for row in rows):
        these = [row for row in rows if (row["system"], row["noise_db"], row["latents"]) == (system, noise, latents)]
        line = f"{system:9}{noise:>4}  {latents:13}"
        for method in methods:
            errors = [float(str(row["rmsd_mean"])) for row in these if row["method"] == method]
            cell = f"{np.mean(errors):.2f} ± {(max(errors) - min(errors)) / 2:.2f}" if errors else "-"
            line += f"{cell:>15s}"
        baselines = (np.mean([float(str(row[name])) for row in these]) for name in ("rmsd_template", "rmsd_constant"))
        lines.append(line + "".join(f"{value:10.2f}" for value in baselines))
    return "\n".join(lines)


def closest(arguments: argparse.Namespace, system: str, method: str) -> float:
    """Mean RMSD (Å) to true conformations of the nearest that a method can make, whatever images show."""
    data = next((arguments.out / "data").glob(f"{system}_*"))
    coordinates = read_truth(data / "truth.npz").coordinates[:CLOSEST_OF]
    settings = METHODS[method] | {"adapt": False}
    decoder = component("decoder", str(settings["kind"]))
    model = decoder(decoder.Settings(**settings), read_template(data / "template.cif"))
    with torch.no_grad():
        nearest = model(model.follow(torch.from_numpy(coordinates).float())).double().numpy()
    return float(rmsd(nearest, coordinates).mean())


def figure(rows: list[dict[str, object]], path: Path) -> None:
    """Draw errors as the paper does: a panel for each system and kind of latents, a bar for each noise level."""
    panels = list(dict.fromkeys((str(row["system"]), str(row["latents"])) for row in rows))
    drawn, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.2), layout="constrained", squeeze=False)
    noises = sorted({int(str(row["noise_db"])) for row in rows}, reverse=True)
    for axis, (system, latents) in zip(axes[0], panels, strict=True):
        these = [row for row in rows if (row["system"], row["latents"]) == (system, latents)]
        methods = [name for name in METHODS if any(row["method"] == name for row in these)]
        for place, noise in enumerate(noises):
            errors = [
                [float(str(r["rmsd_mean"])) for r in these if (r["method"], r["noise_db"]) == (method, noise)]
                or [np.nan]
                for method in methods
            ]
            middle = [float(np.mean(values)) for values in errors]
            spread = np.abs(np.array([[min(values), max(values)] for values in errors]) - np.array(middle)[:, None]).T
            x = np.arange(len(methods)) + (place - (len(noises) - 1) / 2) * 0.8 / len(noises)
            axis.bar(x, middle, 0.8 / len(noises), yerr=spread, label=f"{noise} dB", color=f"C{place}", capsize=2)
        axis.set_xticks(range(len(methods)), methods)
        axis.set(title=f"{system}, {latents}", ylabel="Cα RMSD (Å)")
    axes[0, 0].legend(frameon=False)
    drawn.savefig(path, dpi=110)


def main() -> None:
    """Simulate, train, evaluate; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with closed_2cg9.pdb and open_model.pdb")
    parser.add_argument("--out", type=Path, required=True, help="folder for images and runs")
    parser.add_argument("--size", choices=SIZES, default="small", help="small: two cores; paper: 50,000 images, a GPU")
    parser.add_argument("--systems", default="hsp90,control")
    parser.add_argument("--noise", default="32,0,-20", help="power signal-to-noise ratios of whole images, dB")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--latents", default="published,variational", help="published, or kinds of latents")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time; cores are shared among them")
    parser.add_argument("--json", type=Path, help="write one row a run")
    parser.add_argument("--figure", type=Path, help="draw the errors")
    parser.add_argument("options", nargs="*", help="further options of cryomorph train, after --")
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    arguments.out /= arguments.size  # images and runs of one size are never taken for those of another
    for name in ("data", "runs", "rows"):
        (arguments.out / name).mkdir(parents=True, exist_ok=True)
    bent(read_template(arguments.data / "closed_2cg9.pdb"), arguments.out / "data" / "bent.cif")
    work = list(runs_of(arguments))
    images = list({run.data: run for run in work}.values())
    threads = max(1, (os.cpu_count() or 1) // arguments.workers)
    started = time.monotonic()
    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(lambda run: simulate(arguments, run, size, threads), images))
        rows = list(pool.map(lambda run: train(arguments, run, size, threads), work))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.figure:
        figure(rows, arguments.figure)
    for system in arguments.systems.split(","):
        values = (f"{method} {closest(arguments, system, method):.2f}" for method in arguments.methods.split(","))
        print(f"{system}: nearest conformations that the models can make, mean RMSD (Å): {', '.join(values)}")
    print(f"\nmean RMSD (Å) over images ± half the range over seeds\n{table(rows)}")
    print(f"{(time.monotonic() - started) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
