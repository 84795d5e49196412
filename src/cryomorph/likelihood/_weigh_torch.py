"""Contrast transfer of spectra in plain PyTorch: works anywhere, and the reference of the other two."""

import torch
from torch import Tensor


def weigh_box(spectrum: Tensor, share: Tensor, group: Tensor, axis: Tensor, phase: Tensor) -> None:
    """Multiply spectra by the power of the transfer; see `cryomorph.likelihood._weighing.Weighing`."""
    highest = axis.shape[1] - 1
    kx = torch.arange(highest + 1, device=axis.device)
    ky = torch.arange(-highest, highest + 1, device=axis.device)
    x2, y2 = kx.square(), ky.square()[:, None]
    xx, yy, xy, fourth, constant = (values[:, None, None] for values in phase.unbind(1))
    turns = xx * x2 + yy * y2 + xy * (kx * ky[:, None]) + fourth * (x2 + y2).square() + constant
    power = 0.5 - 0.5 * torch.cos(2 * torch.pi * (turns - turns.round())).to(axis.dtype)
    factor = share[group] * power * axis[:, None] * axis[:, ky.abs()][:, :, None]
    kept = spectrum[:, ky % spectrum.shape[1], : highest + 1] * factor
    spectrum.zero_()
    spectrum[:, ky % spectrum.shape[1], : highest + 1] = kept


def weigh_radial(spectrum: Tensor, table: Tensor, place: Tensor, unspread: Tensor) -> None:
    """Multiply spectra by radial tables; see `cryomorph.likelihood._weighing.Weighing`."""
    ky = torch.arange(spectrum.shape[1], device=spectrum.device)
    along_y = unspread[torch.minimum(ky, spectrum.shape[1] - ky)]
    padded = torch.cat([table, torch.zeros_like(table[:, :1])], dim=1)
    spectrum *= padded[:, place] * unspread * along_y[:, None]
