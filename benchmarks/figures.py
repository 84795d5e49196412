"""Pictures of a run with known truth, for the documentation: error along the path, and decoded against true motion.

Example
-------
python benchmarks/figures.py --run RUN --truth truth.npz --out docs/images
"""

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from cryomorph.config import open_particles
from cryomorph.evaluation import per_image_rmsd, read_truth
from cryomorph.geometry import procrustes_mean, rmsd, superpose
from cryomorph.results import FittedRun


def error_figure(
    errors: np.ndarray, shown: np.ndarray, coordinates: np.ndarray, template: np.ndarray, path: Path
) -> None:
    """RMSD of every image against the conformation it shows, with the two baselines."""
    constant = procrustes_mean(coordinates, np.bincount(shown, minlength=len(coordinates)).astype(float))
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    axes.plot(rmsd(coordinates, template), color="0.6", label="template for all")
    axes.plot(rmsd(coordinates, constant), color="0.6", linestyle="--", label="best single conformation")
    jitter = np.random.default_rng(0).uniform(-0.4, 0.4, len(shown))
    axes.scatter(
        shown + jitter, errors, s=3, color="tab:blue", alpha=0.5, label=f"cryomorph, mean {errors.mean():.2f} Å"
    )
    axes.set(xlabel="conformation in the image (closed → open)", ylabel="Cα RMSD (Å)", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def trace_figure(fitted: FittedRun, decoded: np.ndarray, truth: np.ndarray, shown: np.ndarray, path: Path) -> None:
    """Raw images (their middle) above the decoded (colour) and true (grey) Cα traces of the same particles."""
    stack = open_particles(fitted.config.particles)
    order = np.argsort(shown, kind="stable")
    picked = order[np.linspace(0.02 * len(order), 0.98 * len(order) - 1, 5).astype(int)]
    middle = slice(stack.box // 4, stack.box - stack.box // 4)
    images = stack.images(picked)[:, middle, middle]
    figure, axes = plt.subplots(2, 5, figsize=(10, 4.4), layout="constrained")
    for column, row in enumerate(picked):
        axes[0, column].imshow(images[column], cmap="gray", vmin=-3, vmax=3)
        axes[0, column].set_title(f"image {row + 1}", fontsize=9)
        true = truth[shown[row]]
        rotation, translation = superpose(decoded[row].astype(float), true)
        found = decoded[row] @ rotation.T + translation
        axes[1, column].plot(true[:, 0], true[:, 2], color="0.65", linewidth=2.5)
        axes[1, column].plot(found[:, 0], found[:, 2], color="tab:blue", linewidth=1)
        axes[1, column].set_title(f"{float(rmsd(found, true)):.2f} Å", fontsize=9)
        axes[1, column].set_aspect("equal")
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Draw both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    fitted, truth = FittedRun(arguments.run), read_truth(arguments.truth)
    rows = np.arange(len(fitted.source_index))
    decoded = np.concatenate([coordinates for _, coordinates in fitted.decode(rows)])
    errors = per_image_rmsd([(rows, decoded)], truth, fitted.source_index)
    shown = truth.conformation[fitted.source_index]
    arguments.out.mkdir(parents=True, exist_ok=True)
    template = fitted.template.coordinates
    error_figure(errors, shown, truth.coordinates, template, arguments.out / "adk_error.png")
    trace_figure(fitted, decoded, truth.coordinates, shown, arguments.out / "adk_particles.png")


if __name__ == "__main__":
    main()
