"""How often the truth is inside the claimed intervals, and how well junk is told from particles.

Example
-------
python benchmarks/uncertainty.py --json rows.json
python benchmarks/uncertainty.py --of-beads --json rows.json
python benchmarks/uncertainty.py --search --of-beads --gain 0.2 --junk 0 --modes 1 --json rows.json
python benchmarks/uncertainty.py --run out --truth particles_truth.npz --json rows.json

The first simulates images of a molecule that moves along some of its normal modes, a tenth of them nothing but noise,
and has a decoder of these very modes find them. The second makes the images of the beads themselves and white noise, so
that nothing of the model is wrong. The third searches the poses of such images, and tells how often particles lie
elsewhere than they were found against what is claimed. The last takes a finished run of `cryomorph train` on images of
a path of conformations, and looks at where each particle is along the molecule's main motion.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mrcfile
import numpy as np
import torch
from numpy.typing import NDArray

from cryomorph.config import parse_config
from cryomorph.demo import demo_data
from cryomorph.evaluation import pose_errors, read_truth
from cryomorph.expansion import STEP
from cryomorph.fitted import FittedRun
from cryomorph.fourier import band
from cryomorph.geometry import project, superpose
from cryomorph.likelihood.base import contrast_transfer
from cryomorph.likelihood.direct import projection_coefficients
from cryomorph.particles.stack import ParticleStack
from cryomorph.search.joint import SAME_DEGREES
from cryomorph.simulate.settings import Mixture, Motion, SimulationSettings
from cryomorph.structure.beads import bead_model
from cryomorph.structure.model import read_template
from cryomorph.workflows import simulate_images, train

INTERVALS = {"68": 1.0, "95": 1.96}
"""Half the width of the central intervals of a normal distribution, in standard deviations: 68.3 and 95.0 %."""
DEGREE = 5
"""Of the polynomial that takes estimates to the truth: what all particles have in common is no uncertainty of one."""

CLAIMS = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Probabilities of lying elsewhere, between which particles are taken together."""
GAIN = 0.47
"""Of beads in the units of the noise: what training finds in the multislice images of adenylate kinase."""

Array = NDArray[np.float64]


def coverage(error: Array, deviation: Array) -> dict[str, float]:
    """Return how often errors (Å) are within intervals of claimed standard deviations, and how large both are."""
    inside = {f"inside_{name}": float((np.abs(error) <= width * deviation).mean()) for name, width in INTERVALS.items()}
    sizes = {"rms_error": np.sqrt(np.mean(error**2)), "rms_claimed": np.sqrt(np.mean(deviation**2))}
    return inside | {name: float(value) for name, value in sizes.items()} | {"values": int(error.size)}


def modes_in_the_class(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Simulate weights of modes, spoil some images, and find the weights again with the same modes."""
    model, out = demo_data("adk_open.pdb"), folder / "modes"
    # Weights of K modes are divided by sqrt(K) as they move residues: this makes 1 Å each.
    motion = Motion(modes=arguments.modes, mixture=Mixture(means=(0.0,), deviation=float(np.sqrt(arguments.modes))))
    settings = SimulationSettings(
        images_per_conformation=arguments.images,
        motion=motion,
        box=64,
        pixel_size=3.0,
        dose=arguments.dose,
        seed=arguments.seed,
    )
    star = simulate_images(model, out, settings, template=model)
    if arguments.of_beads:
        make_of_beads(out, arguments.gain, arguments.seed)
    junk = np.random.default_rng(arguments.seed).random(arguments.images) < arguments.junk
    with mrcfile.open(out / "particles.mrcs", "r+") as stack:
        background = stack.data[:, 0]  # a row without particle
        for row in np.flatnonzero(junk):
            noise = np.random.default_rng([arguments.seed, row]).normal(size=stack.data.shape[1:])
            stack.data[row] = background.mean() + background.std() * noise
    config: dict[str, Any] = {
        "particles": {"path": str(star)},
        "template": {"path": str(out / "template.cif")},
        "decoder": {"kind": "nma", "modes": arguments.modes, "adapt": False},
        "latents": {"kind": "table", "start": 0.1},
        "likelihood": {"kind": "matched_filter", "margin": 25.0},  # Å: four soft modes go far
        "priors": {"strength": 0},
        "training": {"epochs": arguments.epochs, "batch_size": 16},
        "hardware": {"accelerator": "cpu"},
        "seed": arguments.seed,
    }
    if arguments.search:
        config |= {"poses": "search", "search": {"approach": {"rounds": 0}, "epochs": [1, 3, 6, 10]}}
    run = FittedRun(train(parse_config(config, "benchmark"), folder / "run").path)
    if arguments.search:
        return misplaced(run, out / "truth.npz")
    posterior, truth = run.run.load_posterior(), np.load(out / "truth.npz")
    weights = truth["mode_weights"][truth["conformation"], 0] / np.sqrt(arguments.modes)
    weights = weights * _signs(run, weights)
    deviation = np.sqrt(np.diagonal(posterior.full(np.arange(len(weights))), axis1=1, axis2=2))
    real = ~junk
    error = (posterior.latents - weights)[real]
    rows = [{"case": "weights of modes, Å"} | coverage(error, deviation[real])]
    rows += [{"case": f"mode {k + 1}, Å"} | coverage(error[:, k], deviation[real, k]) for k in range(arguments.modes)]
    called = posterior.junk > 0.5
    return [
        *rows,
        {
            "case": "junk",
            "junk": int(junk.sum()),
            "found": int((called & junk).sum()),
            "particles": int(real.sum()),
            "taken_for_junk": int((called & real).sum()),
        },
    ]


def misplaced(run: FittedRun, truth_file: Path) -> list[dict[str, Any]]:
    """Compare how often particles lie elsewhere, and how far residues are off, with what is claimed of them.

    Of one mode, the root mean square over residues is the size of one number, whose intervals are those of a normal
    distribution.
    """
    posterior, truth = run.run.load_posterior(), read_truth(truth_file)
    poses = run.poses()
    errors = pose_errors(poses.rotation, poses.shift, truth, run.source_index)
    assert errors is not None
    off, every = errors.rotation > SAME_DEGREES, np.arange(len(run.source_index))
    shown = truth.coordinates[truth.conformation[run.source_index]]
    decoded = np.concatenate([x for _, x in run.decode(every)])
    turn, move = superpose(decoded, shown)
    square = np.square(decoded @ np.swapaxes(turn, 1, 2) + move[:, None] - shown).sum(2).mean(1)
    result = []
    for low, high in [(0.0, 1.0), *pairwise(CLAIMS)]:
        chosen = (posterior.elsewhere >= low) & (posterior.elsewhere < high + (high == 1))
        if chosen.any():
            result.append(
                {
                    "case": f"elsewhere {low:g} to {high:g}",
                    "claimed": float(posterior.elsewhere[chosen].mean()),
                    "elsewhere": float(off[chosen].mean()),
                }
                | coverage(np.sqrt(square[chosen]), posterior.deviation[chosen])
            )
    return result


def make_of_beads(folder: Path, gain: float, seed: int) -> None:
    """Replace images by projections of the model's own beads in white noise of variance 1."""
    stack, truth = ParticleStack.open(folder / "particles.star"), np.load(folder / "truth.npz")
    beads = bead_model(read_template(folder / "template.cif"), "residue")
    generator = torch.Generator().manual_seed(seed)
    highest, box = band(stack.box), stack.box
    with mrcfile.open(folder / "particles.mrcs", "r+") as images:
        for rows in np.array_split(np.arange(len(stack)), -(-len(stack) // 64)):
            batch = stack.batch(rows, images=False)
            x = torch.from_numpy(truth["coordinates"][truth["conformation"][rows]]).float()
            seen = beads(x)
            assert batch.rotation is not None
            points = project(seen.positions, batch.rotation, batch.shift)
            model = projection_coefficients(points, seen.amplitude, seen.width, batch.pixel_size, box)
            spectrum = torch.zeros(len(rows), box, box // 2 + 1, dtype=model.dtype)
            index = torch.arange(-highest, highest + 1) % box
            spectrum[:, index, : highest + 1] = model * contrast_transfer(batch, box)
            clean = torch.fft.fftshift(torch.fft.irfft2(spectrum, s=(box, box)), dim=(-2, -1))
            images.data[rows] = (gain * clean + torch.randn(clean.shape, generator=generator)).numpy()


def _signs(run: FittedRun, weights: Array) -> Array:
    """Return for each mode 1 or -1: modes of the simulation may point the other way than those of the decoder."""
    return np.sign((run.latents * weights).sum(0))


def main_motion(folder: Path, truth_file: Path) -> list[dict[str, Any]]:
    """Compare where particles are along the main motion of the true conformations, in Å of root mean square."""
    run, truth = FittedRun(folder), read_truth(truth_file)
    posterior, shown = run.run.load_posterior(), truth.conformation[run.source_index]
    flat = truth.coordinates.reshape(len(truth.coordinates), -1)
    mean = flat[shown].mean(0)
    axis = np.linalg.svd(flat - mean, full_matrices=False)[2][0] / np.sqrt(truth.coordinates.shape[1])
    found, width = [], []
    for rows in np.array_split(np.arange(len(shown)), -(-len(shown) // 256)):
        z = torch.from_numpy(posterior.latents[rows])
        with torch.no_grad():
            x = run.model(z)
            moves = [(run.model(z + STEP * one) - x) / STEP for one in torch.eye(z.shape[1])]
        slope = np.stack([move.flatten(1).numpy() @ axis for move in moves], axis=1)
        found.append((x.flatten(1).numpy() - mean) @ axis)
        width.append(np.sqrt(np.einsum("bj,bjk,bk->b", slope, posterior.full(rows), slope)))
    place, deviation, true = np.concatenate(found), np.concatenate(width), ((flat - mean) @ axis)[shown]
    common = np.polynomial.Polynomial.fit(place, true, DEGREE)
    along = np.abs(common.deriv()(place)) * deviation
    quarter = np.digitize(true, np.quantile(true, (0.25, 0.5, 0.75)))
    names = [f"main motion, quarter {number + 1} of the path, Å" for number in range(4)]
    error = common(place) - true
    return [
        {"case": "main motion, Å"} | coverage(error, along),
        *({"case": name} | coverage(error[quarter == q], along[quarter == q]) for q, name in enumerate(names)),
        {"case": "main motion, what is common not removed, Å"} | coverage(place - true, deviation),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--modes", type=int, default=4)
    parser.add_argument("--dose", type=float, default=100.0, help="electrons per Å²")
    parser.add_argument("--junk", type=float, default=0.1, help="share of images that are noise alone")
    parser.add_argument("--of-beads", action="store_true", help="make images of the beads themselves and white noise")
    parser.add_argument("--gain", type=float, default=GAIN, help="of such images")
    parser.add_argument("--search", action="store_true", help="search the poses, and tell how many lie elsewhere")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="finished run of a learned decoder, instead of the simulation")
    parser.add_argument("--truth", type=Path, help="its truth file")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.run is not None:
        rows = main_motion(arguments.run, arguments.truth)
    else:
        with TemporaryDirectory() as folder:
            rows = modes_in_the_class(Path(folder), arguments)
    for row in rows:
        print(
            ", ".join(
                f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
            )
        )
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
