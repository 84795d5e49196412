"""What a training step sees of the particles."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from cryomorph.optics import CTFParameters


@dataclass
class ParticleBatch:
    """Some particles, with everything the objective needs of them.

    Attributes
    ----------
    index
        Row of each particle in its `ParticleStack`, int64, shape (b,).
    image
        Normalised images, float32, shape (b, D, D), rows are y and columns x; None where they are not needed.
    pixel_size
        Å per pixel, shape (b,); optics groups may differ.
    optics_group
        Number of the optics group from 0, int64, shape (b,).
    rotation
        Map frame to image frame, shape (b, 3, 3); None if the input has no poses.
    shift
        Displacement (x, y) of the particle in the image in Å, shape (b, 2): minus RELION's origin.
    ctf
        Contrast transfer parameters of each image.
    statistic
        What a likelihood keeps of each image in its stead, float16 or float32, shape (b, samples).
    """

    index: Tensor
    image: Tensor | None
    pixel_size: Tensor
    optics_group: Tensor
    rotation: Tensor | None
    shift: Tensor
    ctf: CTFParameters
    statistic: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor) -> Self:
        """Return some of the particles, by their numbers (k,) in the batch; numbers may repeat."""

        def take(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows]

        return type(self)(
            index=self.index[rows],
            image=take(self.image),
            pixel_size=self.pixel_size[rows],
            optics_group=self.optics_group[rows],
            rotation=take(self.rotation),
            shift=self.shift[rows],
            ctf=self.ctf[rows],
            statistic=take(self.statistic),
        )

    def to(self, device: torch.device) -> Self:
        """Return a copy on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return type(self)(
            index=self.index.to(device),
            image=move(self.image),
            pixel_size=self.pixel_size.to(device),
            optics_group=self.optics_group.to(device),
            rotation=move(self.rotation),
            shift=self.shift.to(device),
            ctf=self.ctf.to(device),
            statistic=move(self.statistic),
        )
