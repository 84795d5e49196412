"""Contrast transfer of spectra, by every engine."""

import pytest
import torch

from cryomorph.likelihood._weighing import products
from engines import ENGINES, device_of


def make_spectrum(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # As Fourier transforms may leave it: the axes in another order in memory.
    spectrum = torch.randn(size, 3, size // 2 + 1, generator=generator, dtype=torch.complex64)
    return spectrum, generator


def on(device, *values):
    return tuple(value.to(device) for value in values)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("size", "highest"), [(32, 9), (33, 16), (36, 14)])
def test_box(size, highest, engine):
    spectrum, generator = make_spectrum(size)
    spectrum = spectrum.transpose(0, 1).contiguous()
    share = torch.rand(2, 2 * highest + 1, highest + 1, generator=generator)
    group, axis = torch.tensor([1, 0, 1]), torch.rand(3, highest + 1, generator=generator)
    largest = torch.tensor([5, 5, 3, 2, 100]) / torch.tensor([highest**2, highest**2, highest**2, highest**4, 1])
    phase = largest.double() * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    expected = torch.zeros(3, size, size // 2 + 1, dtype=torch.complex128)
    kx = torch.arange(highest + 1).double()
    xx, yy, xy, fourth, constant = (values[:, None] for values in phase.unbind(1))
    for ky in range(-highest, highest + 1):
        turns = xx * kx**2 + yy * ky**2 + xy * kx * ky + fourth * (kx**2 + ky**2) ** 2 + constant
        factor = share[group, ky + highest] * axis * axis[:, abs(ky), None] * torch.sin(torch.pi * turns).square()
        expected[:, ky, : highest + 1] = spectrum[:, ky, : highest + 1] * factor
    device = device_of(engine)
    (found,) = on(device, spectrum)
    products(engine, device).weigh_box(found, *on(device, share, group, axis, phase))
    torch.testing.assert_close(found.cpu(), expected.to(torch.complex64), rtol=0, atol=3e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [32, 33])
def test_radial(size, engine):
    spectrum, generator = make_spectrum(size)
    spectrum = spectrum.transpose(0, 1).contiguous()
    table = torch.rand(3, 20, generator=generator)
    place = torch.randint(0, 21, (size, size // 2 + 1), generator=generator)
    unspread = 1 + torch.rand(size // 2 + 1, generator=generator)
    along_y = unspread[[min(ky, size - ky) for ky in range(size)]]
    weight = torch.cat([table, torch.zeros(3, 1)], dim=1)[:, place]
    expected = spectrum * weight * along_y[:, None] * unspread
    device = device_of(engine)
    (found,) = on(device, spectrum)
    products(engine, device).weigh_radial(found, *on(device, table, place, unspread))
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("engine", ["torch", "triton"])
def test_any_order_of_axes_in_memory(engine):
    """Fourier transforms on a GPU may leave one."""
    spectrum, generator = make_spectrum(16)
    strided = spectrum.transpose(0, 1)
    share, group = torch.rand(1, 11, 6, generator=generator), torch.zeros(3, dtype=torch.int64)
    axis, phase = torch.rand(3, 6, generator=generator), torch.rand(3, 5, generator=generator, dtype=torch.float64)
    table, place = torch.rand(3, 4, generator=generator), torch.randint(0, 5, (16, 9), generator=generator)
    device = device_of(engine)
    for product, arguments in (
        ("weigh_box", (share, group, axis, phase)),
        ("weigh_radial", (table, place, axis.new_ones(9))),
    ):
        found, expected = on(device, strided, strided.contiguous())
        assert not found.is_contiguous()
        for values in (found, expected):
            getattr(products(engine, device), product)(values, *on(device, *arguments))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
