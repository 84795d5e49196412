"""Speed and memory of the training step, and of its parts, on synthetic images of a given size.

Example
-------
python benchmarks/training_step.py --template MODEL.pdb --box 128 --pixel-size 2
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cryomorph.config import component
from cryomorph.geometry import random_rotations
from cryomorph.optics import CTFParameters
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import bead_model
from cryomorph.structure.model import Template, read_template


def make_batch(images: int, box: int, pixel_size: float) -> ParticleBatch:
    """Noise images with random poses and defocus."""
    generator = np.random.default_rng(0)

    def every(value: float) -> torch.Tensor:
        return torch.full((images,), value)

    defocus = torch.from_numpy(generator.uniform(1e4, 2e4, images)).float()
    optics = CTFParameters(defocus, defocus, every(0), every(300), every(2.7), every(0.07), every(0), every(0))
    return ParticleBatch(
        index=torch.arange(images),
        image=torch.from_numpy(generator.standard_normal((images, box, box))).float(),
        pixel_size=every(pixel_size),
        optics_group=torch.zeros(images, dtype=torch.int64),
        rotation=torch.from_numpy(random_rotations(images, generator)).float(),
        shift=torch.zeros(images, 2),
        ctf=optics,
    )


def seconds_of(step: Callable[[], None], repeats: int) -> float:
    """Median time of a step, after one to warm up."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure(template: Template, arguments: argparse.Namespace, decoder: str, beads: str) -> dict[str, float]:
    """Return milliseconds an image (value and gradient) of each part."""
    model_class = component("decoder", decoder)
    model = model_class(model_class.Settings(), template)
    scatterers = bead_model(template, beads)
    likelihood_class = component("likelihood", arguments.likelihood)
    likelihood = likelihood_class(likelihood_class.Settings(), 1)
    prior_class = component("priors", "log_distance")
    prior = prior_class(prior_class.Settings(), template)
    batch = make_batch(arguments.batch, arguments.box, arguments.pixel_size)
    z = torch.randn(arguments.batch, model.latent_dim, requires_grad=True)
    x = model(z.detach()).detach().requires_grad_()

    def whole() -> None:
        coordinates = model(z)
        misfit = likelihood(scatterers(coordinates), batch.rotation, batch.shift, batch)
        (misfit + prior(coordinates)).mean().backward()

    def decode() -> None:
        model(z).sum().backward()

    def compare() -> None:
        likelihood(scatterers(x), batch.rotation, batch.shift, batch).mean().backward()

    def regularise() -> None:
        prior(x).mean().backward()

    parts = {"step": whole, "decoder": decode, "beads + likelihood": compare, "R2": regularise}
    return {name: 1e3 * seconds_of(step, arguments.repeats) / arguments.batch for name, step in parts.items()}


def main() -> None:
    """Print a table for each decoder and kind of bead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--likelihood", default="direct")
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--pixel-size", type=float, default=2.0, help="Å")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    template = read_template(arguments.template)
    print(f"{len(template)} residues, box {arguments.box}, batch {arguments.batch}, {arguments.threads} threads")
    for decoder in ("gnn", "mlp"):
        for beads in ("ca", "residue", "atom"):
            times = measure(template, arguments, decoder, beads)
            parts = ", ".join(f"{name} {value:.2f}" for name, value in times.items())
            print(f"{decoder} {beads:8s} {1e3 / times['step']:7.0f} images/s   ms/image: {parts}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
