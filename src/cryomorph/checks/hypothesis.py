"""Hypotheses about images, poses and optics, and what each explains of the images, all in one currency.

A hypothesis predicts the coefficients m of every image y. How strong the prediction is in each Fourier shell is fitted
to one half of the images and judged on the other, `Σ_k g Re(y* m) - ½ g² |m|²` in units of the noise: the nats by which
an image is better explained than by noise alone. A prediction that has nothing to do with the images gains nothing on
average, and detail in which the template differs from the molecules gets no weight.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryomorph.checks.sample import AT_ONCE, Sample
from cryomorph.fourier import band
from cryomorph.geometry import project, random_rotations
from cryomorph.gridding.projections import bead_coefficients
from cryomorph.likelihood.base import contrast_transfer
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import Beads

MIRRORS = {"x": (-1, 1, 1), "y": (1, -1, 1), "z": (1, 1, -1), "all": (-1, -1, -1)}
FLIPS = {"rows": ((1, 0), (0, -1)), "columns": ((-1, 0), (0, 1)), "swapped": ((0, 1), (1, 0))}
_STREAM = 0x6368_6563_6B
"""Keeps random orientations apart from those that simulated particles were drawn with."""
RENDERED = 3
"""Projections of all images that are kept at a time."""


@dataclass(frozen=True)
class Hypothesis:
    """How the file is to be understood; the default takes it as it is.

    Attributes
    ----------
    sign : int
        -1 for images in which protein is dark.
    mirror : str
        Axis of the map along which the template is mirrored, "all" for its inversion; empty for neither.
    transposed : bool
        Rotations take the image frame to the map frame.
    flip : str
        A key of `FLIPS`, what was done to the axes of the images.
    shift : str
        "given", "none", "negated", "swapped" (x and y), "pixels" (numbers taken for Å are pixels) or "angstrom".
    scale : float
        By which the pixel size is larger than stated.
    optics_scaled : bool
        Whether the contrast transfer function has the scaled pixel size, too.
    transfer : str
        "given", "none", "phase-flipped" (its absolute value) or "multiplied" (its square).
    defocus : float
        By which the defocus is multiplied.
    order : int or str
        Which row of the file an image belongs to: so many rows on, "reversed" or "stack" (its place in the stack).
    moved : three numbers
        Å by which the template is moved in the map frame.
    turned : three numbers
        Rotation vector in radians by which the template is turned about the map's origin, before it is moved.
    random : int
        Seed of random orientations in place of the given ones; 0 for none.
    round : bool
        The mean over all orientations of the molecule, which needs no rotations.
    """

    sign: int = 1
    mirror: str = ""
    transposed: bool = False
    flip: str = ""
    shift: str = "given"
    scale: float = 1.0
    optics_scaled: bool = True
    transfer: str = "given"
    defocus: float = 1.0
    order: int | str = 0
    moved: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turned: tuple[float, float, float] = (0.0, 0.0, 0.0)
    random: int = 0
    round: bool = False

    @property
    def rendering(self) -> tuple[Any, ...]:
        """What its projections depend on."""
        order = str(self.order)
        return (self.mirror, self.transposed, self.flip, self.scale, order, self.random, self.round, self.turned)

    def but(self, **changes: Any) -> "Hypothesis":
        """Return it with some changes."""
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Score:
    """What a hypothesis explains.

    Attributes
    ----------
    nats : array (n,)
        Of each image, more than noise alone.
    cross, power : arrays (n, K + 1)
        `Re Σ y* m` and `Σ |m|²` of each image and shell in units of the noise.
    """

    nats: NDArray[np.float64]
    cross: NDArray[np.float64]
    power: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Nats per image."""
        return float(self.nats.mean())

    @property
    def z(self) -> float:
        """The mean in standard errors."""
        return standard_errors(self.nats)

    def over(self, other: "Score") -> tuple[float, float]:
        """Return the nats per image by which it explains more than another, also in standard errors."""
        difference = self.nats - other.nats
        return float(difference.mean()), standard_errors(difference)


def standard_errors(values: NDArray[np.float64]) -> float:
    """Return the mean of values (n,) in units of its standard error; 0 where they do not vary."""
    error = values.std() / np.sqrt(max(len(values) - 1, 1))
    return float(values.mean() / error) if error > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores hypotheses on a sample.

    Attributes
    ----------
    sample : Sample
    beads : Beads
        Of the template in the map frame, b = 1.
    """

    sample: Sample
    beads: Beads
    _known: dict[Hypothesis, Score] = field(default_factory=dict)
    _rendered: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)

    def score(self, hypothesis: Hypothesis) -> Score:
        """Return what a hypothesis explains; each is computed once."""
        if hypothesis not in self._known:
            self._known[hypothesis] = self._score(hypothesis)
        return self._known[hypothesis]

    @torch.no_grad()
    def _score(self, hypothesis: Hypothesis) -> Score:
        sample = self.sample
        file = self._file(hypothesis.order)
        model = self._projections(hypothesis, file)
        shift = self._shifts(hypothesis, file)
        cross, power = [], []
        for start in range(0, len(sample), AT_ONCE):
            part = torch.arange(start, min(start + AT_ONCE, len(sample)))
            batch = file[part]
            predicted = model[part] * _transfer(hypothesis, batch, sample.stack.box)
            predicted = predicted * _phases(shift[part] / batch.pixel_size[:, None], sample.stack.box)
            pair = sample.coefficients[part].conj() * predicted
            cross.append(hypothesis.sign * pair.real)
            power.append(predicted.abs().square())
        sums = [sample.shell_sums(torch.cat(values)).numpy() for values in (cross, power)]
        return Score(_crossed_nats(*sums), *sums)

    def _file(self, order: int | str) -> ParticleBatch:
        """Return what the file says of the rows that the images belong to."""
        if order == 0:
            return self.sample.batch
        return self.sample.stack.batch(rows_in_order(self.sample, order), images=False)

    def _projections(self, hypothesis: Hypothesis, file: ParticleBatch) -> Tensor:
        """Return coefficients of the projections of the template at its own place, without shifts."""
        key = hypothesis.rendering
        if key not in self._rendered:
            while len(self._rendered) >= RENDERED:
                del self._rendered[next(iter(self._rendered))]
            self._rendered[key] = self._render(hypothesis, file)
        return self._rendered[key]

    def _render(self, hypothesis: Hypothesis, file: ParticleBatch) -> Tensor:
        box = self.sample.stack.box
        positions = self.beads.positions
        if hypothesis.mirror:
            positions = positions * torch.tensor(MIRRORS[hypothesis.mirror], dtype=positions.dtype)
        if any(hypothesis.turned):
            turn = Rotation.from_rotvec(hypothesis.turned).as_matrix()
            positions = positions @ torch.from_numpy(turn.T).to(positions.dtype)
        positions = positions / hypothesis.scale
        width = self.beads.width / hypothesis.scale
        if hypothesis.round:
            return self._rendered_round(positions[0], width, file)
        rotation = rotations(hypothesis, file)
        parts = []
        for start in range(0, len(rotation), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            points = project(positions, rotation[part], torch.zeros_like(file.shift[part]))
            pixel = file.pixel_size[part]
            parts.append(bead_coefficients(points, self.beads.amplitude, width, pixel, box))
        return torch.cat(parts)

    def _rendered_round(self, positions: Tensor, width: Tensor, file: ParticleBatch) -> Tensor:
        """Return the mean over orientations, `Σ a sinc(k r)`, which turns about the map's origin."""
        box = self.sample.stack.box
        radius = positions.norm(dim=1)
        sizes, which = torch.unique(file.pixel_size, return_inverse=True)
        highest = band(box)
        index = torch.arange(-highest, highest + 1)
        distance = (index[:, None].square() + torch.arange(highest + 1).square()).float().sqrt() / box
        rendered = []
        for size in sizes:
            angular = 2 * torch.pi * distance.flatten() / size
            values = torch.zeros_like(angular)
            for some in torch.split(torch.arange(len(radius)), 256):
                wave = torch.sinc(angular[:, None] * radius[some] / torch.pi)
                wave = wave * torch.exp(-0.5 * (angular[:, None] * width[some]).square())
                values += wave @ self.beads.amplitude[some]
            rendered.append((values / size.square()).reshape(distance.shape))
        return torch.stack(rendered)[which].to(torch.complex64)

    def _shifts(self, hypothesis: Hypothesis, file: ParticleBatch) -> Tensor:
        """Return where the template's origin is in each image, shape (n, 2), Å."""
        stored_pixel = torch.from_numpy(self.sample.stack.table.pixel_size[file.index.numpy()]).float()
        shift = _given_shifts(hypothesis, file, stored_pixel)
        if not any(hypothesis.moved):
            return shift
        moved = torch.tensor(hypothesis.moved, dtype=shift.dtype) / hypothesis.scale
        return shift + rotations(hypothesis, file)[:, :2] @ moved


def _phases(shift: Tensor, box: int) -> Tensor:
    """Return what displacements (b, 2) in pixels multiply coefficients with, shape (b, 2K + 1, K + 1)."""
    highest = band(box)
    along = 2 * torch.pi / box
    x = shift[:, :1] * torch.arange(highest + 1) * along
    y = shift[:, 1:] * torch.arange(-highest, highest + 1) * along
    return torch.polar(torch.ones_like(y), -y)[:, :, None] * torch.polar(torch.ones_like(x), -x)[:, None]


def rows_in_order(sample: Sample, order: int | str) -> NDArray[np.int64]:
    """Return the rows (n,) that the images of a sample belong to if the file is in another order than it seems."""
    count, rows = len(sample.stack), sample.rows
    if order == "reversed":
        return count - 1 - rows
    if order == "stack":
        return np.asarray(np.argsort(np.argsort(sample.stack.table.frame))[rows])
    return (rows + int(order)) % count


def rotations(hypothesis: Hypothesis, file: ParticleBatch) -> Tensor:
    """Return the rotations (n, 3, 3) that a hypothesis makes of what the file says."""
    if hypothesis.random:
        drawn = random_rotations(len(file), np.random.default_rng([_STREAM, hypothesis.random]))
        return torch.from_numpy(drawn).float()
    assert file.rotation is not None
    rotation = file.rotation.transpose(1, 2) if hypothesis.transposed else file.rotation
    if not hypothesis.flip:
        return rotation
    # Only the first two rows are seen; the third would follow from them.
    seen = torch.tensor(FLIPS[hypothesis.flip], dtype=rotation.dtype) @ rotation[:, :2]
    return torch.cat([seen, rotation[:, 2:]], dim=1)


def _given_shifts(hypothesis: Hypothesis, batch: ParticleBatch, stored_pixel: Tensor) -> Tensor:
    shift = batch.shift
    if hypothesis.shift == "none":
        shift = torch.zeros_like(shift)
    elif hypothesis.shift == "negated":
        shift = -shift
    elif hypothesis.shift == "swapped":
        shift = shift.flip(1)
    elif hypothesis.shift == "pixels":
        shift = shift * stored_pixel[:, None]
    elif hypothesis.shift == "angstrom":
        shift = shift / stored_pixel[:, None]
    return shift @ torch.tensor(FLIPS[hypothesis.flip], dtype=shift.dtype).T if hypothesis.flip else shift


def _transfer(hypothesis: Hypothesis, batch: ParticleBatch, box: int) -> Tensor:
    if hypothesis.transfer == "none":
        return torch.ones(1)
    optics = batch.ctf
    if hypothesis.defocus != 1:
        factor = hypothesis.defocus
        optics = replace(optics, defocus_u=optics.defocus_u * factor, defocus_v=optics.defocus_v * factor)
    pixel = batch.pixel_size * (hypothesis.scale if hypothesis.optics_scaled else 1.0)
    transfer = contrast_transfer(replace(batch, ctf=optics, pixel_size=pixel), box)
    if hypothesis.transfer == "phase-flipped":
        return transfer.abs()
    return transfer.square() if hypothesis.transfer == "multiplied" else transfer


def _crossed_nats(cross: NDArray[np.float64], power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return nats (n,) of images whose shells have the strengths that fit the other half of the images best."""
    nats = np.empty(len(cross))
    for half in range(2):
        other = slice(1 - half, None, 2)
        strength = shell_strengths(cross[other], power[other])
        nats[half::2] = cross[half::2] @ strength - 0.5 * power[half::2] @ strength**2
    return nats


def shell_strengths(cross: NDArray[np.float64], power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how strong a prediction is in each shell (K + 1,): least squares, drawn to zero by its own uncertainty.

    Parameters
    ----------
    cross, power
        Of images and shells, in units of the noise, shape (n, K + 1).
    """
    matched, expected = cross.sum(0), power.sum(0)
    square = np.divide(matched**2, expected, out=np.zeros_like(matched), where=expected > 0)
    certain = np.maximum(1 - np.divide(1.0, square, out=np.full_like(square, np.inf), where=square > 0), 0)
    fitted = np.divide(matched, expected, out=np.zeros_like(matched), where=expected > 0)
    return np.asarray(np.maximum(fitted, 0) * certain)
