"""Conformations on rings: the projections along all directions, ready for the matrix products of a scan."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryomorph.scan.grid import ProductGrid
from cryomorph.scan.images import RingTransform
from cryomorph.scan.kernels import Kernels
from cryomorph.structure.beads import Beads


@dataclass(frozen=True, eq=False)
class RingTemplates:
    """Projections of one conformation along N directions.

    Attributes
    ----------
    real, imaginary
        For each harmonic m the matrix (2 rings, N) that takes the real and imaginary parts of the harmonics of an
        image, on the rings of `Rings.of_harmonic(m)`, to those of the product.
    power
        Harmonics 0, 2, 4, ... of `|V|²`, conjugate, shape (harmonics, 2, K, N).
    """

    real: list[Tensor]
    imaginary: list[Tensor]
    power: Tensor


def ring_templates(
    beads: Beads, grid: ProductGrid, transform: RingTransform, engine: Kernels, harmonics: int
) -> RingTemplates:
    """Project a conformation along all directions of a grid.

    Parameters
    ----------
    beads
        Of one conformation, b = 1, all of them within the radius of the rings.
    grid
        Whose directions.
    transform
        Of the images, whose rings are used.
    engine
        Kernels on the beads' device.
    harmonics
        How many of the even harmonics of the power are wanted.
    """
    device, rings = beads.positions.device, transform.rings
    reference = transform.windows.footprints.reference  # which images contain already
    viewing = torch.from_numpy(grid.viewing()[:, :2]).to(device)
    seen = torch.einsum("dci,bi->dcb", viewing, beads.positions[0].double())
    radius, angle = torch.hypot(seen[:, 0], seen[:, 1]).float(), torch.atan2(seen[:, 1], seen[:, 0]).float()
    nodes = torch.from_numpy(rings.nodes).to(device)
    wider = beads.width.double().square() - reference**2
    amplitude = beads.amplitude.double()[:, None] * torch.exp(-2 * torch.pi**2 * wider[:, None] * nodes.square())
    projected = engine.project(
        radius.contiguous(), angle.contiguous(), amplitude.float(), (2 * torch.pi * nodes).float(), transform.table
    )
    power = _power(projected, harmonics)
    by_order = projected[:, :, 1::2].permute(3, 1, 2, 0).contiguous()  # (M + 1, 2, W, N)
    real, imaginary = [], []
    for m in range(rings.highest + 1):
        along, across = by_order[m, :, rings.of_harmonic(m)]
        real.append(torch.cat([along, -across]))
        imaginary.append(torch.cat([across, along]))
    return RingTemplates(real, imaginary, power)


def _power(projected: Tensor, harmonics: int) -> Tensor:
    """Even harmonics of the power spectra of projections (N, 2, K, M + 1), conjugate; (harmonics, 2, K, N)."""
    if harmonics == 1:
        squares = projected.square().sum(1)
        mean = 2 * squares.sum(-1) - squares[..., 0]
        return torch.stack([mean, torch.zeros_like(mean)]).permute(0, 2, 1)[None].contiguous()
    positive = torch.complex(projected[:, 0], projected[:, 1])
    order = torch.arange(positive.shape[-1], device=projected.device)
    # V(θ) = Σ_m (-i)^m conj(T_m) e^{imθ}, and T_-m = (-1)^m conj(T_m)
    turned = positive.conj() * torch.pow(torch.tensor(-1j, device=projected.device), order)
    mirrored = positive * torch.pow(torch.tensor(-1j, device=projected.device), order)
    count = 2 * (2 * len(order) + 2)
    spectrum = turned.new_zeros(*turned.shape[:-1], count)
    spectrum[..., : len(order)] = turned
    spectrum[..., -(len(order) - 1) :] = mirrored[..., 1:].flip(-1)
    around = torch.fft.ifft(spectrum, norm="forward").abs().square()
    found = torch.fft.rfft(around, norm="forward")[..., : 2 * harmonics : 2].conj()
    return torch.stack([found.real, found.imag]).permute(3, 0, 2, 1).contiguous()
