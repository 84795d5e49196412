"""How the error depends on what differs between data sets, one thing at a time, and where it comes from.

Example
-------
python benchmarks/robustness.py --out results --json results/rows.json --figure results/robustness.svg

Images of adenylate kinase from closed to open (102 frames, package MDAnalysisTests), 96 pixels of 2.5 Å, are simulated
and trained on with default settings, but for what a curve is about:

dose
    electrons per Å².
images
    of each of the 102 conformations.
template
    the frame of the trajectory that is the template, whose mean distance from all frames is what counts.
poses, refined
    root mean square error of the rotations in the particle file in degrees, taken as they are or refined.
defocus
    width in Å of the range about 15,000 Å that each image's defocus is drawn from.
latents
    number of latent coordinates.
strength
    of the geometric priors, fixed.

An error budget replaces one part by the truth:

noise
    images of a dose of 10,000 e/Å².
model
    images of the model's own beads and white noise: scatterers and contrast transfer are exact.
decoder
    no decoder: each image is compared with the 102 true conformations, and the likeliest is taken.
decoder and model
    both.
template
    the middle frame of the trajectory, the true conformation that all others are near to.

Poses are known in all of these: what they would cost besides is a run that has to search them. The strength of the
priors that would have been chosen by the truth is the lowest point of its curve.

What was simulated, trained and evaluated before is not done again. `--curves` picks some.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from cryomorph.config import open_particles
from cryomorph.demo import MODEL, TOPOLOGY, TRAJECTORY, demo_data
from cryomorph.evaluation import read_truth
from cryomorph.expansion import Seen, compare
from cryomorph.fitted import FittedRun
from cryomorph.fourier import image_coefficients, multiplicity
from cryomorph.geometry import project, rmsd
from cryomorph.likelihood.base import contrast_transfer
from cryomorph.likelihood.direct import projection_coefficients
from cryomorph.particles.loader import prefetch
from cryomorph.particles.stack import ParticleStack
from cryomorph.structure.beads import bead_model
from cryomorph.structure.model import read_template
from cryomorph.structure.trajectory import read_ensemble
from cryomorph.structure.write import write_template
from cryomorph.workflows import background_radius
from papers import without_poses
from uncertainty import make_of_beads
from unknown_poses import with_noise

CURVES: dict[str, tuple[float, ...]] = {
    "dose": (10, 25, 50, 100, 200),
    "images": (5, 10, 20, 40),
    "template": (0, 25, 50, 75, 101),
    "poses": (0, 5, 10, 15, 20),
    "refined": (0, 5, 10, 15, 20),
    "defocus": (0, 2000, 5000, 10_000, 20_000),
    "latents": (1, 2, 4, 8, 16),
    "strength": (3, 10, 30, 100, 300, 1000),
}
BUDGET = ("poses searched", "all as it is", "noise", "model", "decoder", "decoder and model", "template")
MIDDLE = 50
"""Frame in the middle of the trajectory."""
USUAL = {"dose": 100.0, "images": 10.0, "defocus": 5000.0}
"""Of all curves but the one about it."""
LABELS = {
    "dose": "dose / e/Å²",
    "images": "images of each conformation",
    "template": "RMSD of the template, mean over images / Å",
    "poses": "error of rotations / degrees",
    "refined": "error of rotations / degrees",
    "defocus": "range of defocus / Å",
    "latents": "latent coordinates",
    "strength": "strength of the priors",
}
LOGARITHMIC = ("dose", "images", "latents", "strength")


@dataclass(frozen=True)
class Point:
    """A point of a curve, or a bar of the budget."""

    curve: str
    value: float | str
    seed: int

    @property
    def name(self) -> str:
        """Folder of the run."""
        return f"{self.curve}_{str(self.value).replace(' ', '-')}_seed{self.seed}"

    @property
    def usual(self) -> bool:
        """Whether nothing but what is reported of it distinguishes the run from that of other points."""
        usual = USUAL | {"poses": 0, "latents": 8}
        return self.value in (usual.get(self.curve), "all as it is", "decoder")

    @property
    def data(self) -> dict[str, float]:
        """What its images are like."""
        changed = {self.curve: float(self.value)} if self.curve in USUAL else {}
        if self.curve == "budget" and self.value == "noise":
            changed = {"dose": 10_000.0}
        return USUAL | changed

    @property
    def of_beads(self) -> bool:
        """Whether images are those of the model's own beads."""
        return self.value in ("model", "decoder and model")


def cryomorph(*command: object) -> None:
    """Run the command on one core; what it says is shown only if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "cryomorph", *map(str, command)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stderr[-2000:]}")


def simulated(out: Path, point: Point) -> Path:
    """Make the images of a point, unless they are there; returns their folder."""
    like = point.data
    name = "_".join(f"{key}{value:g}" for key, value in like.items()) + ("_beads" if point.of_beads else "")
    folder = out / "data" / name
    if (folder / "done").exists():
        return folder
    if folder.exists():
        shutil.rmtree(folder)
    source = [demo_data(TRAJECTORY), "--topology", demo_data(TOPOLOGY), "--template", demo_data(MODEL)]
    low, high = 15_000 - like["defocus"] / 2, 15_000 + like["defocus"] / 2
    optics = ["--box", 96, "--pixel-size", 2.5, "--defocus", f"{low:g},{high:g}", "--dose", like["dose"], "--seed", 9]
    cryomorph("simulate", *source, *optics, "--images", f"{like['images']:.0f}", "--out", folder)
    if point.of_beads:
        make_of_beads(folder, strength_of(folder), seed=0)
    (folder / "done").touch()
    return folder


def strength_of(folder: Path) -> float:
    """Return how strong images are: the gain of the model's beads by least squares, in units of the noise."""
    stack, truth = ParticleStack.open(folder / "particles.star"), np.load(folder / "truth.npz")
    rows = np.linspace(0, len(stack) - 1, 256).astype(np.int64)
    batch = stack.batch(rows)
    assert batch.image is not None
    assert batch.rotation is not None
    seen = bead_model(read_template(folder / "template.cif"), "residue")(
        torch.from_numpy(truth["coordinates"][truth["conformation"][rows]]).float()
    )
    points = project(seen.positions, batch.rotation, batch.shift)
    model = projection_coefficients(points, seen.amplitude, seen.width, batch.pixel_size, stack.box)
    expected = model * contrast_transfer(batch, stack.box) * multiplicity(stack.box, model.device).sqrt()
    observed = image_coefficients(batch.image) * multiplicity(stack.box, model.device).sqrt()
    cross = (observed.conj() * expected).real.sum()
    return float(cross / expected.abs().square().sum() / batch.image.std())


def trained(out: Path, point: Point, data: Path) -> Path:
    """Train a run; returns its folder."""
    name = f"usual_seed{point.seed}" if point.usual else point.name
    folder, star, template = out / "runs" / name, data / "particles.star", data / "template.cif"
    if (folder / "evaluation.json").exists():
        return folder
    options: list[object] = ["--seed", point.seed]
    if "template" in (point.curve, point.value):
        frame = MIDDLE if point.curve == "budget" else int(point.value)
        template = out / f"frame{frame}.cif"
        _write_frame(template, frame, data)
    if point.value == "poses searched":
        star = without_poses(star)
        options += ["--poses", "search"]
    if point.curve in ("poses", "refined") and point.value:
        turned = data / f"turned{point.value:g}.star"
        star = turned if turned.exists() else with_noise(star, turned, float(point.value))
    if point.curve == "refined":
        options += ["--poses", "refine"]
    if point.curve == "latents":
        options += ["--latent-dim", f"{point.value:.0f}"]
    if point.curve == "strength":
        options += ["--prior-strength", point.value]
    cryomorph("train", star, "--template", template, "--out", folder, *options)
    return folder


def _write_frame(path: Path, frame: int, data: Path) -> None:
    """Write a true conformation with all its atoms, in the frame of the images."""
    ensemble = read_ensemble(demo_data(TRAJECTORY), demo_data(TOPOLOGY))
    atoms = ensemble.atoms(np.array([frame]))[0].astype(np.float64)
    shift = read_truth(data / "truth.npz").coordinates[frame].mean(0) - ensemble.residues(np.array([frame]))[0].mean(0)
    moved, template = atoms + shift, ensemble.template
    write_template(path, replace(template, atom_coordinates=moved, coordinates=moved[template.representative_atoms]))


def without_decoder(folder: Path, data: Path) -> float:
    """Mean RMSD of the likeliest of the true conformations, by the likelihood of a finished run."""
    run, truth = FittedRun(folder), read_truth(data / "truth.npz")
    stack = open_particles(run.config.particles)
    stack = stack.with_background_radius(background_radius(run.template, stack))
    x = torch.from_numpy(truth.coordinates).float()
    distance = np.stack([rmsd(truth.coordinates, one) for one in truth.coordinates])
    errors = []
    parts = np.array_split(np.arange(len(stack)), -(-len(stack) // 64))
    with torch.no_grad():
        for rows, batch in zip(parts, prefetch(stack, parts), strict=True):
            assert batch.image is not None
            seen = Seen.of(run.reconstruction, batch, image_coefficients(batch.image), stack.box)
            values = [compare(seen, seen.expected(one.expand(len(batch), -1, -1)))[0] for one in x]
            errors.append(distance[torch.stack(values).argmin(0).numpy(), truth.conformation[rows]])
    return float(np.concatenate(errors).mean())


def measure(arguments: argparse.Namespace, point: Point) -> dict[str, object]:
    """Return the row of a point, unless that was measured before."""
    row_file = arguments.out / "rows" / f"{point.name}.json"
    if row_file.exists():
        done: dict[str, object] = json.loads(row_file.read_text())
        return done
    data, started = simulated(arguments.out, point), time.monotonic()
    folder = trained(arguments.out, point, data)
    cryomorph("evaluate", folder, "--truth", data / "truth.npz")
    result = json.loads((folder / "evaluation.json").read_text())
    row = vars(point) | {"seconds": round(time.monotonic() - started, 1)}
    row |= {name: result[name] for name in ("rmsd_mean", "rmsd_constant", "rmsd_template")}
    if "decoder" in str(point.value):
        row["rmsd_mean"] = without_decoder(folder, data)
    row_file.parent.mkdir(parents=True, exist_ok=True)
    row_file.write_text(json.dumps(row) + "\n")
    print(f"{point.name:32s} {row['rmsd_mean']:.3f} Å  {row['seconds']:.0f} s", flush=True)
    return row


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Draw a panel for each curve and one for the budget, means over seeds."""
    panels = [curve for curve in CURVES if curve != "refined" and any(row["curve"] == curve for row in rows)]
    budget = [row for row in rows if row["curve"] == "budget"]
    count, highest = len(panels) + bool(budget), max(float(str(row["rmsd_mean"])) for row in rows)
    figure, axes = plt.subplots(
        -(-count // 2), 2, figsize=(9, 2.7 * -(-count // 2)), layout="constrained", squeeze=False
    )
    for axis, curve in zip(axes.flat, panels, strict=False):
        for name, style in ((curve, "-o"), *((("refined", "--s"),) if curve == "poses" else ())):
            x, y = _means([row for row in rows if row["curve"] == name])
            axis.plot(x, y, style, ms=4, label={"poses": "as they are", "refined": "refined"}.get(name))
        axis.set(xlabel=LABELS[curve], ylabel="mean RMSD / Å", ylim=(0, 1.1 * highest))
        if curve in LOGARITHMIC:
            axis.set_xscale("log")
            axis.set_xticks(x, [f"{value:g}" for value in x])
            axis.set_xticks([], minor=True)
        if curve == "poses":
            axis.legend(frameon=False)
    if budget:
        axis, names = axes.flat[len(panels)], [name for name in BUDGET if any(row["value"] == name for row in budget)]
        axis.barh(names[::-1], [_mean([row for row in budget if row["value"] == name]) for name in names[::-1]])
        axis.set_xlabel("mean RMSD with the truth in place of … / Å")
    for axis in axes.flat[count:]:
        axis.axis("off")
    figure.savefig(path)


def _means(rows: list[dict[str, object]]) -> tuple[list[float], list[float]]:
    values = sorted({float(str(row["value"])) for row in rows})
    these = [[row for row in rows if float(str(row["value"])) == value] for value in values]
    x = [_mean(some, "rmsd_template") for some in these] if rows[0]["curve"] == "template" else values
    order = np.argsort(x)
    return [x[i] for i in order], [_mean(these[i]) for i in order]


def _mean(rows: list[dict[str, object]], name: str = "rmsd_mean") -> float:
    return float(np.mean([float(str(row[name])) for row in rows]))


def main() -> None:
    """Simulate, train, evaluate; print rows and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for images and runs")
    parser.add_argument("--curves", default=",".join([*CURVES, "budget"]), help="some of them, separated by commas")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--json", type=Path, help="write one row a run")
    parser.add_argument("--figure", type=Path, help="draw the curves")
    arguments = parser.parse_args()
    points = [
        Point(curve, value, seed)
        for curve in arguments.curves.split(",")
        for value in (BUDGET if curve == "budget" else CURVES[curve])
        for seed in range(arguments.seeds)
    ]
    for point in points:
        simulated(arguments.out, point)
    for point in points:
        if point.usual:  # one run for all of them: not by two workers at once
            measure(arguments, point)
    with ThreadPoolExecutor(arguments.workers) as pool:
        rows = list(pool.map(lambda point: measure(arguments, point), points))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.figure:
        draw(rows, arguments.figure)


if __name__ == "__main__":
    main()
