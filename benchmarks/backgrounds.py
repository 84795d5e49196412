"""What would help against backgrounds and neighbours, at known poses, without training.

    python benchmarks/backgrounds.py --json rows.json

Images of adenylate kinase on the path from closed to open (of the package MDAnalysisTests) are simulated with smooth
backgrounds and with neighbouring particles. Each is compared with every third true conformation at its true pose, by
likelihoods that treat the nuisance in different ways; noise, signal and gain of each are estimated at the truth, so
that it is the best that each can do. Written are the mean RMSD of the most likely conformation from the true one, and
by how much that differs, image by image, from calibrated shells.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from cryomorph.calibration import ShellSums, calibrate, gain_sums
from cryomorph.config import ParticlesConfig, open_particles
from cryomorph.demo import MODEL, TOPOLOGY, TRAJECTORY, demo_data
from cryomorph.fourier import band, image_coefficients, multiplicity, shell_index
from cryomorph.geometry import project
from cryomorph.gridding.projections import bead_coefficients
from cryomorph.likelihood.base import contrast_transfer
from cryomorph.simulate import Nuisances, SimulationSettings
from cryomorph.structure.beads import bead_model
from cryomorph.structure.model import read_template
from cryomorph.workflows import simulate_images

BOX, PIXEL_SIZE = 72, 3.0
NUISANCES = {
    "none": Nuisances(),
    "background 0.5": Nuisances(background=0.5),
    "background 2": Nuisances(background=2.0),
    "neighbours in half": Nuisances(neighbours=0.5),
    "neighbours in all": Nuisances(neighbours=1.0),
}
EVERY = 3
"""Conformation of the path that images are compared with."""
EDGE, FALL = 5.0, 15.0
"""Å beyond the molecule's reach where the mask begins to fall, and over which it falls to 0."""
DEGREE = 3
"""Of the polynomial in x and y that is fitted outside the molecule's reach."""
BAND = 4
"""Shells whose noise is estimated together for a single image."""


@dataclass(frozen=True, eq=False)
class Weighing:
    """A likelihood: coefficients of images, their weights, and the signal in them; the last dimensions are those."""

    observed: Tensor
    weight: Tensor
    signal: Tensor


class Comparison:
    """Images of one simulation against conformations at their true poses."""

    def __init__(self, folder: Path) -> None:
        truth = np.load(folder / "truth.npz")
        self.conformation = truth["conformation"]
        x = torch.from_numpy(truth["coordinates"]).float()
        self.reach = float(x.norm(dim=-1).max())
        stack = open_particles(ParticlesConfig(path=folder / "particles.star")).with_background_radius(self.reach)
        self.batch = stack.batch(np.arange(len(stack)))
        self.beads = bead_model(read_template(folder / "template.cif"), "residue")(x)
        self.some = np.arange(0, len(x), EVERY)
        self.rmsd = (x[self.some][:, None] - x[None]).square().sum(-1).mean(-1).sqrt().numpy()
        self.transfer = contrast_transfer(self.batch, BOX)
        self.weight = multiplicity(BOX, torch.device("cpu")) / BOX**2
        self.shell = shell_index(BOX, torch.device("cpu"))
        true = [self.models(self.beads.positions[c][None], i) for i, c in enumerate(self.conformation)]
        self.true = torch.cat(true)

    def models(self, positions: Tensor, image: int) -> Tensor:
        """Return coefficients of conformations' beads (c, B, 3) at the pose of an image."""
        count, batch = len(positions), self.batch
        pose = (part[image].float().expand(count, *part[image].shape) for part in (batch.rotation, batch.shift))
        points = project(positions, *pose)
        pixel_size = batch.pixel_size[image].repeat(count)
        return bead_coefficients(points, self.beads.amplitude, self.beads.width, pixel_size, BOX) * self.transfer[image]

    def weighings(self) -> dict[str, Weighing]:
        """Return the ways to treat a nuisance."""
        image = self.batch.image
        assert image is not None
        found = {"shells": self.calibrated(image), "white noise": self.calibrated(image, white=True)}
        found["mask"] = self.calibrated(image * self.mask())
        found["polynomial"] = self.calibrated(self.without_polynomial(image))
        found["shells of each image"] = self.of_each_image(found["shells"])
        return found

    def sums(self, observed: Tensor) -> ShellSums:
        """Sum up what calibration needs, at the truth."""
        parts = torch.ones_like(self.transfer) * BOX**2, observed.abs().square()
        parts += (observed.conj() * self.true).real, self.true.abs().square()
        sums = [self.over_shells((part * self.weight).sum(0)) for part in parts]
        nothing_kept_out = torch.zeros_like(sums[0])
        return ShellSums(*sums, nothing_kept_out, nothing_kept_out)

    def over_shells(self, values: Tensor) -> Tensor:
        """Sum coefficients over shells, shape (1, shells)."""
        sums = torch.zeros(band(BOX) + 1, dtype=torch.float64)
        return sums.index_add_(0, self.shell.flatten(), values.double().flatten())[None]

    def calibrated(self, images: Tensor, *, white: bool = False) -> Weighing:
        """Estimate noise and signal of shells, or one noise and gain."""
        observed = image_coefficients(images)
        sums = self.sums(observed)
        calibration, _ = calibrate(sums, "none" if white else "both", 8)
        cross, power = gain_sums(sums, calibration)
        noise = calibration.noise * ((sums.image_power.sum() / sums.count.sum()) if white else 1.0)
        signal = calibration.signal[0][self.shell] * (cross / power)
        return Weighing(observed, (self.weight / noise[0][self.shell]).float(), signal.float())

    def mask(self) -> Tensor:
        """Return a soft disc about each particle."""
        return 0.5 * (1 + torch.cos(torch.pi * ((self.radius() - self.reach - EDGE) / FALL).clamp(0, 1)))

    def radius(self) -> Tensor:
        """Return each pixel's distance from the particle of its image, Å."""
        at = (torch.arange(BOX) - BOX // 2) * PIXEL_SIZE
        x, y = self.batch.shift[:, 0, None, None], self.batch.shift[:, 1, None, None]
        return torch.hypot(at[None, None] - x, at[None, :, None] - y)

    def without_polynomial(self, images: Tensor) -> Tensor:
        """Subtract from each image the polynomial that fits it best outside the molecule's reach."""
        at = torch.linspace(-1, 1, BOX)
        powers = [(i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)]
        terms = torch.stack([(at**i)[None] * (at**j)[:, None] for i, j in powers], dim=-1)
        flat = []
        for image, outside in zip(images, self.radius() > self.reach, strict=True):
            fitted = torch.linalg.lstsq(terms[outside], image[outside][:, None]).solution
            flat.append(image - (terms @ fitted)[..., 0])
        return torch.stack(flat)

    def of_each_image(self, shells: Weighing) -> Weighing:
        """Scale the noise of bands of shells to what is left of each image."""
        left = (shells.observed - shells.signal * self.true).abs().square() * shells.weight
        bands = torch.clamp(self.shell // BAND, max=band(BOX) // BAND).flatten()
        count = torch.zeros(int(bands.max()) + 1).index_add_(0, bands, (self.weight * BOX**2).float().flatten())
        power = torch.zeros(len(left), len(count)).index_add_(1, bands, left.flatten(1)) / count
        weight = shells.weight / power[:, bands].reshape(left.shape)
        return Weighing(shells.observed, weight, shells.signal)

    def errors(self) -> dict[str, np.ndarray]:
        """Return the RMSD of each image's most likely conformation from the true one, Å, for each way."""
        weighings = self.weighings()
        found: dict[str, list[float]] = {name: [] for name in weighings}
        for image, true in enumerate(self.conformation):
            models = self.models(self.beads.positions[self.some], image)
            for name, way in weighings.items():
                weight = way.weight if way.weight.dim() == 2 else way.weight[image]
                model = models * way.signal
                cross = (way.observed[image].conj() * model).real
                score = (weight * (cross - 0.5 * model.abs().square())).sum((1, 2))
                found[name].append(float(self.rmsd[int(score.argmax()), true]))
        return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    """Compare all ways on all nuisances, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, help="of each of 102 conformations")
    parser.add_argument("--nuisances", default=",".join(NUISANCES))
    parser.add_argument("--json", type=Path, help="write the rows")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.nuisances.split(","):
        settings = SimulationSettings(
            images_per_conformation=arguments.images,
            box=BOX,
            pixel_size=PIXEL_SIZE,
            dose=100,
            defocus=(12_000, 20_000),
            seed=1,
            nuisances=NUISANCES[name],
        )
        with TemporaryDirectory() as folder:
            inputs = {"topology": demo_data(TOPOLOGY), "template": demo_data(MODEL)}
            simulate_images(demo_data(TRAJECTORY), Path(folder), settings, **inputs, overwrite=True)
            errors = Comparison(Path(folder)).errors()
        for way, values in errors.items():
            difference = values - errors["shells"]
            error = difference.std() / np.sqrt(len(values))
            row = {"nuisance": name, "way": way, "rmsd": round(float(values.mean()), 4)}
            row |= {"difference": round(float(difference.mean()), 4), "error": round(float(error), 4)}
            rows.append(row)
            print(f"{name:20s}{way:22s}{values.mean():8.3f}{difference.mean():8.3f} ± {error:.3f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
