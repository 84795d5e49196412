"""Contrast transfer of spectra on a GPU: a program takes one row of one spectrum."""

from math import pi
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cryomorph.likelihood._weigh_torch import quadrants, weigh_cut

__all__ = ["quadrants", "weigh_box", "weigh_cut"]

TURN = tl.constexpr(2 * pi)


def weigh_box(spectrum: Tensor, share: Tensor, group: Tensor, axis: Tensor, phase: Tensor) -> None:
    """Multiply spectra by the power of the transfer; see `cryomorph.likelihood._weighing.Weighing`."""
    highest = axis.shape[1] - 1
    _launch(_weigh_box, spectrum, share, group, axis.float().contiguous(), phase.double().contiguous(), highest)


def _launch(kernel: Any, spectrum: Tensor, *others: Tensor | int) -> None:
    """Run a kernel over all rows; its first arguments are the same for both products."""
    images, size, width = spectrum.shape
    parts = torch.view_as_real(spectrum)
    with torch.cuda.device_of(spectrum):  # Triton launches on the current device
        kernel[(images * size,)](
            parts,
            *parts.stride()[:3],  # Fourier transforms leave any order of axes
            size,
            *others,
            PARTS=triton.next_power_of_2(2 * width),
            enable_fp_fusion=True,  # its default is about to change
        )


@triton.jit
def _weigh_box(
    spectrum,
    image_stride,
    row_stride,
    column_stride,
    size,
    share,
    group,
    axis,
    phase,
    highest,
    PARTS: tl.constexpr,
):
    image = (tl.program_id(0) // size).to(tl.int64)
    row = tl.program_id(0) % size
    ky = tl.where(row <= size // 2, row, row - size)
    part = tl.arange(0, PARTS)  # real and imaginary in turn
    kx = part // 2
    values = spectrum + image * image_stride + row * row_stride + kx * column_stride + part % 2
    counts = kx <= tl.where(tl.abs(ky) <= highest, highest, -1)
    # The row's own part in double precision; the rest of it is a polynomial in kx.
    of_image = phase + image * 5
    y = ky.to(tl.float64)
    fourth = tl.load(of_image + 3)
    start = tl.load(of_image + 1) * y * y + fourth * y * y * y * y + tl.load(of_image + 4)
    offset = (start - tl.floor(start)).to(tl.float32)
    linear = (tl.load(of_image + 2) * y).to(tl.float32)
    square = (tl.load(of_image) + 2 * fourth * y * y).to(tl.float32)
    x = kx.to(tl.float32)
    turns = offset + x * (linear + x * (square + fourth.to(tl.float32) * x * x))
    power = 0.5 - 0.5 * tl.cos((turns - tl.floor(turns + 0.5)) * TURN)
    along_y = tl.load(axis + image * (highest + 1) + tl.minimum(tl.abs(ky), highest))
    along_x = tl.load(axis + image * (highest + 1) + kx, mask=counts, other=0.0)
    line = tl.load(group + image) * (2 * highest + 1) + ky + highest
    of_group = tl.load(share + line * (highest + 1) + kx, mask=counts, other=0.0)
    weighed = tl.load(values, mask=counts, other=0.0) * (along_y * along_x * of_group * power)
    tl.store(values, weighed, mask=kx <= size // 2)
