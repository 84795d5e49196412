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
    power = 0.5 - 0.5 * _cosine(turns).to(axis.dtype)
    factor = share[group] * power * axis[:, None] * axis[:, ky.abs()][:, :, None]
    kept = spectrum[:, ky % spectrum.shape[1], : highest + 1] * factor
    spectrum.zero_()
    spectrum[:, ky % spectrum.shape[1], : highest + 1] = kept


def quadrants(share: Tensor, group: Tensor, axis: Tensor, phase: Tensor, *, astigmatic: bool) -> tuple[Tensor, Tensor]:
    """Return the power of the transfer on a quadrant; see `cryomorph.likelihood._weighing.Weighing`."""
    k = torch.arange(axis.shape[1], device=axis.device)
    x2, y2 = k.square(), k.square()[:, None]
    xx, yy, xy, fourth, constant = (values[:, None, None] for values in phase.unbind(1))
    common = xx * x2 + yy * y2 + fourth * (x2 + y2).square() + constant
    weight = 0.5 * share[group] * axis[:, None] * axis[:, :, None]
    if not astigmatic:
        return weight * (1 - _cosine(common)).to(weight.dtype), weight.new_empty(0)
    twist = xy * (k * k[:, None])
    ahead, behind = _cosine(common + twist), _cosine(common - twist)
    even, odd = 1 - 0.5 * (ahead + behind), 0.5 * (behind - ahead)
    return weight * even.to(weight.dtype), weight * odd.to(weight.dtype)


def weigh_cut(spectrum: Tensor, even: Tensor, odd: Tensor, unspread: Tensor) -> None:
    """Multiply spectra by weights on a quadrant; see `cryomorph.likelihood._weighing.Weighing`."""
    highest = len(unspread) - 1
    ky = torch.arange(-highest, highest + 1, device=spectrum.device)
    weight = even[:, ky.abs()]
    if odd.numel():
        weight = weight + odd[:, ky.abs()] * ky.sign()[:, None]
    kept = spectrum[:, ky % spectrum.shape[1], : highest + 1] * (weight * unspread * unspread[ky.abs()][:, None])
    spectrum.zero_()
    spectrum[:, ky % spectrum.shape[1], : highest + 1] = kept


def _cosine(turns: Tensor) -> Tensor:
    return torch.cos(2 * torch.pi * (turns - turns.round()))
