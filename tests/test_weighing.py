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
@pytest.mark.parametrize("astigmatic", [True, False])
def test_quadrants_are_the_power_at_both_signs(astigmatic, engine):
    generator, highest = torch.Generator().manual_seed(0), 14
    share = torch.rand(2, highest + 1, highest + 1, generator=generator)
    group, axis = torch.tensor([1, 0, 1]), torch.rand(3, highest + 1, generator=generator)
    largest = torch.tensor([5, 5, 3 * astigmatic, 2, 100]) / torch.tensor([196, 196, 196, 196**2, 1])
    phase = largest.double() * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    k = torch.arange(highest + 1).double()
    x2, y2 = k**2, k[:, None] ** 2
    xx, yy, xy, fourth, constant = (values[:, None, None] for values in phase.unbind(1))
    powers = []
    for sign in (1, -1):
        turns = xx * x2 + yy * y2 + sign * xy * k * k[:, None] + fourth * (x2 + y2) ** 2 + constant
        powers.append(share[group] * axis[:, None] * axis[:, :, None] * torch.sin(torch.pi * turns) ** 2)
    device = device_of(engine)
    arguments = on(device, share, group, axis, phase)
    even, odd = products(engine, device).quadrants(*arguments, astigmatic=astigmatic)
    torch.testing.assert_close(even.cpu(), (0.5 * (powers[0] + powers[1])).float(), rtol=0, atol=1e-5)
    if astigmatic:
        torch.testing.assert_close(odd.cpu(), (0.5 * (powers[0] - powers[1])).float(), rtol=0, atol=1e-5)
    else:
        assert odd.numel() == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("astigmatic", [True, False])
@pytest.mark.parametrize("size", [32, 33])
def test_weights_of_quadrants(size, astigmatic, engine):
    spectrum, generator = make_spectrum(size)
    spectrum = spectrum.transpose(0, 1).contiguous()
    even, odd = (torch.rand(3, 11, 11, generator=generator) for _ in range(2))
    odd[:, 0] = odd[:, :, 0] = 0
    unspread = 1 + torch.rand(11, generator=generator)
    expected = torch.zeros_like(spectrum)
    for ky in range(-10, 11):
        weight = even[:, abs(ky)] + astigmatic * odd[:, abs(ky)] * (1 if ky > 0 else -1)
        expected[:, ky, :11] = spectrum[:, ky, :11] * weight * unspread[abs(ky)] * unspread
    device = device_of(engine)
    (found,) = on(device, spectrum)
    arguments = on(device, even, odd if astigmatic else even[:, :0, :0], unspread)
    products(engine, device).weigh_cut(found, *arguments)
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("engine", ["torch", "triton"])
def test_any_order_of_axes_in_memory(engine):
    """Fourier transforms on a GPU may leave one."""
    spectrum, generator = make_spectrum(16)
    strided = spectrum.transpose(0, 1)
    share, group = torch.rand(1, 11, 6, generator=generator), torch.zeros(3, dtype=torch.int64)
    axis, phase = torch.rand(3, 6, generator=generator), torch.rand(3, 5, generator=generator, dtype=torch.float64)
    even = torch.rand(3, 7, 7, generator=generator)
    device = device_of(engine)
    for product, arguments in (
        ("weigh_box", (share, group, axis, phase)),
        ("weigh_cut", (even, even[:, :0, :0], axis.new_ones(7))),
    ):
        found, expected = on(device, strided, strided.contiguous())
        assert not found.is_contiguous()
        for values in (found, expected):
            getattr(products(engine, device), product)(values, *on(device, *arguments))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
