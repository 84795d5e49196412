"""The image encoder of CryoChains (Koo et al., appendix C), shared by the latents that are read from images."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from cryomorph.components import Settings
from cryomorph.latents.base import Latents
from cryomorph.particles.batch import ParticleBatch

OUTPUT_SPREAD = 1e-2
"""Standard deviation of the last layers' weights at the start."""


class EncoderSettings(Settings):
    """Size of the network, by default the paper's, and what it sees of the images."""

    filters: tuple[PositiveInt, ...] = Field(
        (32, 128, 256, 512), min_length=1, description="of each double block of convolutions; the last are the features"
    )
    hidden: int = Field(256, ge=1, description="units of the layer between features and latents, of each block of them")
    box: int = Field(64, ge=8, description="pixels to which images are Fourier-cropped; smaller ones stay")
    low_pass: float | None = Field(None, gt=0, description="Å, detail whose amplitude is halved in what is seen")


def encoder_input(
    image: Tensor, pixel_size: Tensor, box: int, low_pass: float | None = None, kept: Tensor | None = None
) -> Tensor:
    """Crop images in Fourier space, low-pass them, and scale each to mean 0 and variance 1.

    The origin stays at pixel `D // 2`. Of the highest frequency of an even box, which has no partner of opposite sign,
    only what a real image can hold is kept.

    Parameters
    ----------
    image
        Shape (b, D, D), rows are y.
    pixel_size
        Å, shape (b,).
    box
        Pixels of the result along an edge; images that are smaller keep theirs.
    low_pass
        Å: a Gaussian halves the amplitude at this period.
    kept
        Which coefficients are seen, on the grid of `image_coefficients`, shape (b, 2K + 1, K + 1); None: all.

    Returns
    -------
    Tensor (b, box, box)
    """
    size = image.shape[-1]
    box = min(box, size)
    seen = image
    if box < size or low_pass is not None or kept is not None:
        spectrum = torch.fft.rfft2(torch.fft.ifftshift(image, dim=(-2, -1)))
        if kept is not None:
            spectrum = _without_the_others(spectrum, kept)
        low = (box + 1) // 2
        cropped = torch.cat([spectrum[:, :low], spectrum[:, size - box // 2 :]], dim=1)[:, :, : box // 2 + 1]
        if low_pass is not None:
            ky = torch.fft.fftfreq(box, 1 / box, device=image.device)
            kx = torch.arange(box // 2 + 1, device=image.device)
            waves = low_pass / (size * pixel_size)  # of index 1, in units of the period that is halved
            cropped = cropped * torch.exp(
                -math.log(2) * (ky[:, None].square() + kx.square()) * waves.square()[:, None, None]
            )
        seen = torch.fft.fftshift(torch.fft.irfft2(cropped, s=(box, box)), dim=(-2, -1))
    deviation, mean = torch.std_mean(seen, dim=(-2, -1), correction=0, keepdim=True)
    return (seen - mean) / deviation.clamp(min=torch.finfo(seen.dtype).tiny)


def _without_the_others(spectrum: Tensor, kept: Tensor) -> Tensor:
    """Set coefficients of spectra (b, D, D // 2 + 1) that are not kept to 0, and those beyond the band with them."""
    highest = kept.shape[-1] - 1
    inside = torch.zeros_like(spectrum)
    inside[:, : highest + 1, : highest + 1] = spectrum[:, : highest + 1, : highest + 1] * kept[:, highest:]
    if highest:
        inside[:, -highest:, : highest + 1] = spectrum[:, -highest:, : highest + 1] * kept[:, :highest]
    return inside


class DoubleConvBlock(nn.Module):
    """Twice: 3 × 3 convolution, 2 × 2 max-pooling, ReLU. A last odd row or column is pooled by itself.

    Parameters
    ----------
    channels, filters
        Of the input and of both convolutions.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, filters, 3, padding=1)
        self.second = nn.Conv2d(filters, filters, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of shape (b, filters, ⌈H/4⌉, ⌈W/4⌉) for those of shape (b, channels, H, W)."""
        for convolution in (self.first, self.second):
            x = F.relu(F.max_pool2d(convolution(x), 2, ceil_mode=True))
        return x


class ImageEncoder(nn.Module):
    """Double blocks of convolutions, mean over what is left of the image, and a perceptron for each block of latents.

    Parameters
    ----------
    settings
        Sizes.
    outputs
        How many numbers each block of latents takes.
    """

    def __init__(self, settings: EncoderSettings, outputs: Sequence[int]) -> None:
        super().__init__()
        self.settings = settings
        channels = (1, *settings.filters)
        self.blocks = nn.Sequential(*(DoubleConvBlock(i, o) for i, o in pairwise(channels)))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(channels[-1], settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, size))
            for size in outputs
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                # With PyTorch's own start, features of different images would differ by less than a hundredth.
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        for head in self.heads:
            nn.init.normal_(head[-1].weight, std=OUTPUT_SPREAD)  # type: ignore[index]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor, pixel_size: Tensor, kept: Tensor | None = None) -> list[Tensor]:
        """Return the outputs of each head, shape (b, its size); arguments as of `encoder_input`."""
        seen = encoder_input(image, pixel_size, self.settings.box, self.settings.low_pass, kept)
        # Convolutions are a third faster on a CPU with channels last.
        planes = seen[:, None].contiguous(memory_format=torch.channels_last)
        features = self.blocks(planes).mean((-2, -1))
        with torch.autocast(image.device.type, enabled=False):  # latents must not be rounded
            features = features.to(image.dtype)
            return [head(features) for head in self.heads]


class EncodedLatents(Latents):
    """Latents read from the images by one network that all particles share.

    Each head of the network serves one block of latents. The last layers start small, so that training starts near the
    middle of latent space.

    Parameters
    ----------
    settings
        Of the network.
    blocks
        Names and slices of the latent coordinates.
    particles
        How many there are; nothing is kept of them.
    numbers
        Made for each latent coordinate.
    """

    sees_images = True
    per_particle = False

    def __init__(self, settings: EncoderSettings, blocks: Mapping[str, slice], particles: int, numbers: int) -> None:
        super().__init__(blocks, particles)
        self.numbers = numbers
        self.network = ImageEncoder(settings, [numbers * (block.stop - block.start) for block in self.blocks.values()])

    def read(self, batch: ParticleBatch) -> list[Tensor]:
        """Return so many numbers for each latent coordinate, each of shape (b, d), of images (b, D, D)."""
        if batch.image is None:
            raise ValueError(f"{type(self).__name__} need the images of the batch")
        kept = None if self.selection is None else self.selection.of(batch.index)
        heads = self.network(batch.image, batch.pixel_size, kept)
        parts = zip(*(head.chunk(self.numbers, dim=-1) for head in heads), strict=True)
        return [torch.cat(part, dim=-1) for part in parts]

    def optimizer(self, learning_rate: float, shared_learning_rate: float) -> Optimizer:
        """Return Adam for the network, at the rate of what is shared."""
        return torch.optim.Adam(self.parameters(), lr=shared_learning_rate, fused=True)

    def gather(self, optimizer: Optimizer, owned: Tensor, add_up: Callable[..., None]) -> None:
        """Do nothing: all processes have the same network."""
