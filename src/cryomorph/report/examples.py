"""Particle images beside what their conformations look like in projection."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.analysis.result import State
from cryomorph.fitted import FittedRun
from cryomorph.fourier import band
from cryomorph.geometry import project
from cryomorph.gridding.projections import bead_coefficients
from cryomorph.likelihood.base import contrast_transfer
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.preprocess import fourier_crop
from cryomorph.particles.stack import ParticleStack
from cryomorph.report.encoding import png

IMAGES = 6
LARGEST = 112
"""Pixels along an edge of a picture."""
RESOLUTION = 20.0
"""Å, of the copies in which a molecule can be seen by eye."""
RANGE = 3.0
"""Standard deviations from black to grey."""

Images = NDArray[np.floating]


def examples(fitted: FittedRun, stack: ParticleStack, poses: FoundPoses, states: tuple[State, ...]) -> dict[str, Any]:
    """Return images of some particles, one of each state first, and their models' projections.

    Parameters
    ----------
    fitted, stack
        The run and its particles, with images.
    poses
        Of all particles.
    states
        Whose representatives are shown.

    Returns
    -------
    dict
        `resolution` in Å of the filtered pictures, `field` (Å along an edge), and `particles`: number in the particle
        file from 1, state, PNG data URIs `image`, `filtered` and `model`, and `correlation` of the last two.
    """
    rows, numbers = _chosen(states, len(stack))
    batch = stack.batch(rows)
    if batch.image is None:
        raise ValueError("examples need images")
    models = _models(fitted, batch.pixel_size, contrast_transfer(batch, stack.box), stack.box, rows, poses)
    pixel = stack.pixel_size[rows]
    resolution = max(RESOLUTION, 3 * float(pixel.max()))
    images = batch.image.numpy().astype(np.float64)
    filtered, smooth = (low_pass(pictures, pixel, resolution) for pictures in (images, models))
    pictures = zip(rows, numbers, images, filtered, smooth, strict=True)
    return {
        "resolution": resolution,
        "field": stack.box * float(pixel[0]),
        "particles": [
            {
                "number": int(stack.source_index[row]) + 1,
                "state": number,
                "image": picture(image),
                "filtered": picture(seen),
                "model": picture(model),
                "correlation": _correlation(seen, model),
            }
            for row, number, image, seen, model in pictures
        ],
    }


def low_pass(images: Images, pixel_size: NDArray[np.floating], resolution: float) -> Images:
    """Remove from images (b, D, D) what is finer than `resolution` Å, by a cosine edge 20 % wide."""
    box = images.shape[-1]
    x, y = np.fft.rfftfreq(box), np.fft.fftfreq(box)[:, None]
    frequency = np.hypot(x, y) / pixel_size[:, None, None] * resolution
    keep = 0.5 + 0.5 * np.cos(np.pi * np.clip((frequency - 0.9) / 0.2, 0, 1))
    return np.asarray(np.fft.irfft2(np.fft.rfft2(images) * keep, s=(box, box)))


def picture(image: Images) -> str:
    """Return an image (D, D) as PNG, its mean grey, smaller if it is large."""
    if len(image) > LARGEST:
        image = fourier_crop(image[None].astype(np.float32), LARGEST)[0]
    deviation = (image - image.mean()) / max(float(image.std()), 1e-12)
    return png(np.rint(255 * np.clip(0.5 + deviation / (2 * RANGE), 0, 1)).astype(np.uint8))


def _chosen(states: tuple[State, ...], count: int) -> tuple[NDArray[np.int64], list[int | None]]:
    """Return rows of particles, each once, and which state each stands for."""
    stand = {state.particle: state.number for state in states[:IMAGES]}
    others = np.linspace(0, count - 1, min(IMAGES, count)).astype(np.int64).tolist()
    rows = list(dict.fromkeys([*stand, *others]))[: max(IMAGES, len(stand))]
    return np.array(rows, dtype=np.int64), [stand.get(row) for row in rows]


@torch.no_grad()
def _models(
    fitted: FittedRun, pixel_size: Tensor, transfer: Tensor, box: int, rows: NDArray[np.int64], poses: FoundPoses
) -> Images:
    """Return what is expected of the images without noise, but for the scale, shape (b, D, D)."""
    decoded = np.concatenate([x for _, x in fitted.decode(rows)])
    chosen = poses.take(rows)
    beads = fitted.reconstruction.beads(torch.from_numpy(decoded).float())
    rotation, shift = (torch.from_numpy(part).float() for part in (chosen.rotation, chosen.shift))
    points = project(beads.positions, rotation, shift)
    model = bead_coefficients(points, beads.amplitude, beads.width, pixel_size, box) * transfer
    return image_of(model.numpy(), box)


def image_of(coefficients: NDArray[np.complexfloating], box: int) -> Images:
    """Return images (b, D, D) of `image_coefficients` (b, 2K + 1, K + 1); what these lack is 0."""
    highest = band(box)
    spectrum = np.zeros((len(coefficients), box, box // 2 + 1), dtype=np.complex128)
    spectrum[:, : highest + 1, : highest + 1] = coefficients[:, highest:]
    if highest:
        spectrum[:, -highest:, : highest + 1] = coefficients[:, :highest]
    return np.asarray(np.fft.fftshift(np.fft.irfft2(spectrum, s=(box, box)), axes=(-2, -1)))


def _correlation(a: Images, b: Images) -> float:
    return round(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]), 2)
