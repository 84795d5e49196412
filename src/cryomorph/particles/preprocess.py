"""From stored to normalised images: Fourier cropping, background statistics."""

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Images = NDArray[np.float32]


def fourier_crop(images: Images, box: int) -> Images:
    """Resample images to a smaller box by cutting off high frequencies.

    The origin stays at pixel `D // 2` and amplitudes stay as they are (a constant image keeps its value). Of the
    highest frequency of an even box, which has no partner of opposite sign, only what a real image can hold is kept.

    Parameters
    ----------
    images
        Shape (b, D, D).
    box
        Edge of the result in pixels, at most D.

    Returns
    -------
    array (b, box, box)
    """
    if images.shape[-1] == box:
        return images
    centred = scipy.fft.ifftshift(images, axes=(1, 2))
    spectrum = scipy.fft.rfft2(centred, norm="forward", workers=1)
    size, low = images.shape[-1], (box + 1) // 2
    rows = np.concatenate([np.arange(low), np.arange(size - box // 2, size)])
    kept = spectrum[:, rows, : box // 2 + 1]
    cropped = scipy.fft.irfft2(kept, s=(box, box), norm="forward", workers=1)
    return np.asarray(scipy.fft.fftshift(cropped, axes=(1, 2)), dtype=np.float32)


def outside_circle(box: int, radius: float) -> NDArray[np.bool_]:
    """Pixels further than `radius` (in pixels) from the origin, pixel `box // 2`; shape (box, box)."""
    distance2 = np.square(np.arange(box) - box // 2)
    return np.asarray(distance2[:, None] + distance2 > radius**2)


def background_statistics(images: Images, background: NDArray[np.bool_]) -> tuple[Images, Images]:
    """Mean and standard deviation of the pixels of the background.

    Parameters
    ----------
    images
        Shape (b, D, D).
    background
        Which pixels count, shape (D, D).

    Returns
    -------
    mean : array (b,)
    deviation : array (b,)
        0 where the background does not vary by more than rounding; NaN where a pixel of the image is not finite.
    """
    pixels = images[:, background]
    with np.errstate(invalid="ignore", over="ignore"):
        mean, deviation = pixels.mean(axis=1, dtype=np.float64), pixels.std(axis=1, dtype=np.float64)
    deviation[deviation <= 1e-6 * np.abs(mean)] = 0.0
    deviation[~np.isfinite(images).all(axis=(1, 2))] = np.nan
    return mean.astype(np.float32), deviation.astype(np.float32)
