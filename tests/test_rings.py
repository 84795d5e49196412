"""Rings and circular waves: how well they stand for images, and for projections."""

import numpy as np
import pytest
import torch
from scipy.special import jv

from cryomorph.scan.kernels import kernels
from cryomorph.scan.rings import Rings
from engines import ENGINES, device_of

RINGS = Rings.make(30.0, 33.0, 0.2)


@pytest.mark.parametrize("m", [0, 1, 7, 20, 38])
def test_circular_waves_on_rings_stand_for_those_of_all_frequencies(m):
    """All that an image can be within the molecule's radius is a sum of them."""
    frequency = np.linspace(0, RINGS.frequency, 50)
    given = jv(m, 2 * np.pi * np.outer(RINGS.distances, frequency))
    waves = RINGS.fit(m) @ given
    r = np.linspace(0, RINGS.radius, 200)
    found = jv(m, 2 * np.pi * np.outer(r, RINGS.waves[RINGS.of_harmonic(m)])) @ waves
    error = np.abs(found - jv(m, 2 * np.pi * np.outer(r, frequency))).max(0)
    assert error.max() < 6e-3
    assert error[frequency < 0.9 * RINGS.frequency].max() < 2e-3
    assert np.abs(waves).max() < 20  # rounding is not blown up


def test_harmonics_beyond_the_highest_vanish():
    assert np.abs(jv(RINGS.highest + 1, 2 * np.pi * RINGS.radius * RINGS.frequency)) < 3e-3


@pytest.mark.parametrize("order", [0, 2, 8, 24])
def test_power_spectra_on_rings_are_known_at_all_frequencies(order):
    frequency = np.linspace(0, RINGS.frequency, 50)
    matrix = RINGS.interpolation(frequency, order)
    distance = 2 * RINGS.radius * np.sqrt(np.linspace(0, 1, 77))
    found = matrix @ jv(order, 2 * np.pi * np.outer(RINGS.nodes, distance))
    np.testing.assert_allclose(found, jv(order, 2 * np.pi * np.outer(frequency, distance)), atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_harmonics_of_projections(engine):
    generator = torch.Generator().manual_seed(0)
    radius = RINGS.radius * torch.rand(3, 20, generator=generator)
    radius[0, :2] = torch.tensor([0.0, RINGS.radius])
    angle = torch.pi * (2 * torch.rand(3, 20, generator=generator) - 1)
    amplitude = torch.rand(20, len(RINGS.nodes), generator=generator)
    order, wavenumber = torch.arange(RINGS.highest + 1), torch.from_numpy(2 * np.pi * RINGS.nodes)
    bessel = jv(order.numpy(), (radius.double()[..., None] * wavenumber)[..., None].numpy())
    wave = torch.exp(1j * angle.double()[..., None] * order)
    expected = torch.einsum("bk,dbkm,dbm->dkm", amplitude.cdouble(), torch.from_numpy(bessel).cdouble(), wave)
    table = torch.from_numpy(RINGS.bessel_table()).float()
    device = device_of(engine)
    arguments = [value.float().to(device) for value in (radius, angle, amplitude, wavenumber, table)]
    found = kernels(engine, device).project(*arguments).cpu()
    expected = torch.stack([expected.real, expected.imag], dim=1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=4e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("angles", [2, 4, 6, 12, 16])
def test_the_lowest_of_all_values_are_kept(angles, normalised, engine):
    generator = torch.Generator().manual_seed(angles)
    images, directions, harmonics, count = 3, 150, 9, 12
    turn = 2 * torch.pi * torch.arange(angles) / angles * torch.arange(harmonics)[:, None]  # (m, a)
    device = device_of(engine)
    values = torch.full((images, count), torch.inf, device=device)
    codes = torch.zeros((images, count), dtype=torch.int64, device=device)
    every, every_code = [], []
    for part in range(3):
        real, imaginary = torch.randn(2, harmonics, images, directions, generator=generator)
        power = 0.5 + torch.rand(images, directions, generator=generator) if normalised else None
        found = torch.einsum("mbn,ma->bna", real, turn.cos()) - torch.einsum("mbn,ma->bna", imaginary, turn.sin())
        every.append((found if power is None else -0.5 * found.clamp(min=0) ** 2 / power[..., None]).flatten(1))
        every_code.append(1000 * part + torch.arange(angles * directions))
        first = slice(angles // 4 + 1)
        parts = [
            torch.einsum("mbn,ma->abn", series[parity::2], waves[parity::2, first])
            for parity in (0, 1)
            for series, waves in ((real, turn.cos()), (imaginary, -turn.sin()))
        ]
        sums = torch.stack(parts).unflatten(0, (2, 2)).to(device)
        kept = None if power is None else power.to(device)
        kernels(engine, device).keep_lowest(sums, kept, values, codes, angles, 1000 * part)
    lowest, place = torch.cat(every, dim=1).sort(dim=1)
    torch.testing.assert_close(values.cpu(), lowest[:, :count], rtol=1e-5, atol=1e-5)
    assert torch.equal(codes.cpu(), torch.cat(every_code)[place[:, :count]])


@pytest.mark.parametrize("engine", ENGINES)
def test_more_may_be_kept_than_there_are(engine):
    device = device_of(engine)
    values = torch.full((2, 9), torch.inf, device=device)
    codes = torch.full((2, 9), -1, dtype=torch.int64, device=device)
    sums = torch.randn(2, 2, 1, 2, 3, generator=torch.Generator().manual_seed(0)).to(device)
    kernels(engine, device).keep_lowest(sums, None, values, codes, 2, 5)
    assert torch.isfinite(values).sum(1).tolist() == [6, 6]
    assert values[:, 6:].eq(torch.inf).all()
    assert sorted(codes[0, :6].tolist()) == list(range(5, 11))
