"""The direct likelihood, against sums written out in real space and in Fourier space."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.fourier import band, image_coefficients
from cryomorph.geometry import project, random_rotations
from cryomorph.likelihood.base import contrast_transfer
from cryomorph.likelihood.direct import Direct, DirectSettings, projection_coefficients
from cryomorph.optics import CTFParameters, ctf
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import Beads

BOXES = [24, 25]


def make_batch(box, images=3, groups=1, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high):
        return low + (high - low) * torch.rand(images, generator=generator, dtype=torch.float64)

    parameters = CTFParameters(
        defocus_u=uniform(8000, 20000),
        defocus_v=uniform(8000, 20000),
        astigmatism_angle=uniform(0, 3),
        voltage=uniform(200, 300),
        spherical_aberration=uniform(0, 2.7),
        amplitude_contrast=uniform(0.05, 0.2),
        phase_shift=uniform(0, 1),
        b_factor=uniform(0, 60),
    )
    return ParticleBatch(
        index=torch.arange(images),
        image=torch.randn(images, box, box, generator=generator, dtype=torch.float64),
        pixel_size=uniform(2, 3),
        optics_group=torch.arange(images) % groups,
        rotation=torch.from_numpy(random_rotations(images, np.random.default_rng(seed))),
        shift=torch.stack([uniform(-4, 4), uniform(-4, 4)], dim=1),
        ctf=parameters,
    )


def make_beads(images=3, beads=7, seed=1):
    generator = torch.Generator().manual_seed(seed)
    positions = 6 * torch.randn(images, beads, 3, generator=generator, dtype=torch.float64)
    amplitude = 1 + torch.rand(beads, generator=generator, dtype=torch.float64)
    width = 2.5 + torch.rand(beads, generator=generator, dtype=torch.float64)
    return Beads(positions, amplitude, width)


@pytest.mark.parametrize("box", BOXES)
def test_projection_is_the_sum_of_gaussians_in_real_space(box):
    beads, pixel = make_beads(1), 1.8
    points = 0.3 * beads.positions[..., :2]
    axis = (torch.arange(box) - box // 2) * pixel
    dx, dy = axis - points[0, :, :1], axis - points[0, :, 1:]
    variance = beads.width[:, None].square()
    in_x, in_y = torch.exp(-0.5 * dx.square() / variance), torch.exp(-0.5 * dy.square() / variance)
    weight = beads.amplitude / (2 * torch.pi * beads.width.square())
    image = torch.einsum("b,by,bx->yx", weight, in_y, in_x)
    pixels = torch.tensor([pixel], dtype=torch.float64)
    rendered = projection_coefficients(points, beads.amplitude, beads.width, pixels, box)
    # What the Gaussians have beyond Nyquist and beyond the box is tiny for these widths.
    torch.testing.assert_close(rendered, image_coefficients(image[None]), atol=2e-4, rtol=0)


@pytest.mark.parametrize("box", BOXES)
def test_contrast_transfer_is_the_function_of_frequencies(box):
    batch = make_batch(box)
    sharp = replace(batch.ctf, b_factor=torch.zeros(3, dtype=torch.float64))
    highest = (box - 1) // 2
    step = 1 / (box * batch.pixel_size)[:, None, None]
    along = torch.arange(highest + 1) * step, torch.arange(-highest, highest + 1)[:, None] * step
    for parameters in (batch.ctf, sharp):
        found = contrast_transfer(replace(batch, ctf=parameters), box)
        torch.testing.assert_close(found, ctf(*along, parameters), rtol=0, atol=1e-9)


@pytest.mark.parametrize("box", BOXES)
def test_coefficients_are_the_fourier_sum_about_the_origin(box):
    image = make_batch(box).image
    axis, highest = torch.arange(box, dtype=torch.float64) - box // 2, band(box)
    kx, ky = torch.arange(highest + 1.0), torch.arange(-highest, highest + 1.0)
    wave_x = torch.exp(-2j * torch.pi * kx[:, None].double() * axis / box)
    wave_y = torch.exp(-2j * torch.pi * ky[:, None].double() * axis / box)
    expected = torch.einsum("ky,byx,lx->bkl", wave_y, image.to(wave_x.dtype), wave_x)
    torch.testing.assert_close(image_coefficients(image), expected)


@pytest.mark.parametrize("box", BOXES)
def test_terms_equal_the_sums_over_the_whole_plane(box):
    batch, beads = make_batch(box), make_beads()
    cross, power = Direct(DirectSettings(), 1).terms(beads, batch.rotation, batch.shift, batch)
    points = project(beads.positions, batch.rotation, batch.shift)
    highest = band(box)
    k = torch.arange(-highest, highest + 1.0, dtype=torch.float64)
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    for i in range(len(batch)):
        frequency = k / (box * batch.pixel_size[i])
        phase_x = torch.exp(-2j * torch.pi * frequency[:, None] * points[i, :, 0])
        phase_y = torch.exp(-2j * torch.pi * frequency[:, None] * points[i, :, 1])
        k2 = frequency.square() + frequency.square()[:, None]
        envelope = torch.exp(-2 * torch.pi**2 * beads.width.square()[:, None, None] * k2)
        model = torch.einsum(
            "b,byx,yb,xb->yx", beads.amplitude.cfloat().cdouble(), envelope.cdouble(), phase_y, phase_x
        )
        model = model / batch.pixel_size[i] ** 2 * ctf(frequency, frequency[:, None], batch.ctf[i : i + 1])[0]
        wave = torch.exp(-2j * torch.pi * k[:, None] * axis / box)
        image = torch.einsum("ky,yx,lx->kl", wave, batch.image[i].cdouble(), wave)
        inside = (k.square() + k.square()[:, None]) <= highest**2
        expected_cross = (image.conj() * model).real[inside].sum() / box**2
        expected_power = model.abs().square()[inside].sum() / box**2
        torch.testing.assert_close(cross[i], expected_cross, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(power[i], expected_power, rtol=1e-6, atol=1e-8)


def test_misfit_is_the_residual_relative_to_an_empty_image():
    batch, beads = make_batch(25), make_beads()
    likelihood = Direct(DirectSettings(), 1)
    likelihood.gain.fill_(0.37)
    cross, power = likelihood.terms(beads, batch.rotation, batch.shift, batch)
    misfit = likelihood(beads, batch.rotation, batch.shift, batch)
    torch.testing.assert_close(misfit, 0.5 * 0.37**2 * power - 0.37 * cross)


def test_gradients():
    batch, beads = make_batch(16, images=2), make_beads(2, beads=4)
    likelihood = Direct(DirectSettings(), 1)

    def misfit(positions, shift):
        return likelihood(Beads(positions, beads.amplitude, beads.width), batch.rotation, shift, batch)

    positions, shift = beads.positions.clone().requires_grad_(), batch.shift.clone().requires_grad_()
    assert torch.autograd.gradcheck(misfit, (positions, shift))


@pytest.mark.parametrize("box", BOXES)
def test_noise_free_image_is_fitted_best_by_the_truth(box):
    batch, beads = make_batch(box, images=1), make_beads(1)
    likelihood = Direct(DirectSettings(), 1)
    points = project(beads.positions, batch.rotation, batch.shift)
    model = projection_coefficients(points, beads.amplitude, beads.width, batch.pixel_size, box)
    model = model * likelihood.transfer(batch, box)
    highest = band(box)
    spectrum = torch.zeros(1, box, box // 2 + 1, dtype=torch.complex128)
    spectrum[:, : highest + 1, : highest + 1] = model[:, highest:]
    spectrum[:, -highest:, : highest + 1] = model[:, :highest]
    batch.image = 3 * torch.fft.fftshift(torch.fft.irfft2(spectrum, s=(box, box)), dim=(-2, -1))
    best = likelihood(beads, batch.rotation, batch.shift, batch)
    likelihood.update_gain()
    assert float(likelihood.gain) == pytest.approx(3, rel=1e-3)
    best = likelihood(beads, batch.rotation, batch.shift, batch)
    for seed in range(5):
        moved = beads.positions + 0.3 * torch.randn(
            beads.positions.shape, generator=torch.Generator().manual_seed(seed)
        )
        other = likelihood(Beads(moved, beads.amplitude, beads.width), batch.rotation, batch.shift, batch)
        assert other > best


def test_rotating_molecule_and_pose_together_changes_nothing():
    batch, beads = make_batch(24), make_beads()
    common = torch.from_numpy(random_rotations(1, np.random.default_rng(5)))[0]
    likelihood = Direct(DirectSettings(), 1)
    turned = Beads(beads.positions @ common.T, beads.amplitude, beads.width)
    torch.testing.assert_close(
        likelihood(turned, batch.rotation @ common.T, batch.shift, batch),
        likelihood(beads, batch.rotation, batch.shift, batch),
    )


def test_each_optics_group_has_its_own_gain():
    batch, beads = make_batch(24, images=4, groups=3), make_beads(4)
    likelihood = Direct(DirectSettings(), 4)
    cross, power = likelihood.terms(beads, batch.rotation, batch.shift, batch)
    likelihood(beads, batch.rotation, batch.shift, batch)
    likelihood.update_gain()
    expected = [float(cross[g::3].sum() / power[g::3].sum()) for g in range(3)]
    of_all = float(cross.sum() / power.sum())
    expected = np.maximum([*expected, of_all], 0)  # the last group had no images; a gain is not negative
    np.testing.assert_allclose(likelihood.gain.numpy(), expected, rtol=1e-6)
    assert not likelihood.power_sum.any()


def test_an_image_counts_for_the_gain_by_its_share():
    batch, beads = make_batch(24, images=4), make_beads(4)
    likelihood, share = Direct(DirectSettings(), 1), torch.tensor([0.5, 0.25, 0.0, 1.0], dtype=torch.float64)
    cross, power = likelihood.terms(beads, batch.rotation, batch.shift, batch)
    with_share = likelihood(beads, batch.rotation, batch.shift, batch, share)
    np.testing.assert_allclose(likelihood.cross_sum, [float(share @ cross)], rtol=1e-5)
    np.testing.assert_allclose(likelihood.power_sum, [float(share @ power)], rtol=1e-5)
    assert torch.equal(with_share, likelihood.misfit(cross, power, batch))


@pytest.mark.parametrize(
    ("cross", "power", "expected"),
    [
        ([6.0, 8.0, 0.0], [2.0, 4.0, 0.0], [3.0, 2.0, 14 / 6]),  # a group without images: that of all together
        ([6.0, -2.0, 0.0], [2.0, 4.0, 0.0], [3.0, 0.0, 4 / 6]),
        ([-6.0, -2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.7, 0.7, 0.7]),  # no images at all: as it was
    ],
)
def test_gains_are_quotients_of_the_sums_and_not_negative(cross, power, expected):
    likelihood = Direct(DirectSettings(), 3)
    likelihood.gain.fill_(0.7)
    for name, values in (("cross_sum", cross), ("power_sum", power)):
        getattr(likelihood, name).copy_(torch.tensor(values))
    likelihood.update_gain()
    np.testing.assert_allclose(likelihood.gain.numpy(), expected)
    assert not likelihood.cross_sum.any()
    assert not likelihood.power_sum.any()


def test_a_group_with_a_gain_of_zero_counts_for_nothing_until_it_correlates_again():
    batch, beads = make_batch(24, images=4, groups=2), make_beads(4)
    likelihood = Direct(DirectSettings(), 2)
    likelihood.gain.copy_(torch.tensor([1.0, 0.0]))
    misfit = likelihood(beads, batch.rotation, batch.shift, batch)
    assert misfit[0::2].ne(0).all()
    assert misfit[1::2].eq(0).all()
    assert likelihood.power_sum[1] > 0


@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
def test_each_image_takes_the_most_probable_scale(spread):
    batch, beads = make_batch(24, images=4, groups=2), make_beads(4)
    likelihood = Direct(DirectSettings(scale_spread=spread), 3)
    likelihood.gain.copy_(torch.tensor([0.8, 1.3, 0.0]))
    cross, power = likelihood.terms(beads, batch.rotation, batch.shift, batch)
    gain = likelihood.gain[batch.optics_group]
    scale = torch.linspace(0, 40, 400001)[:, None].double()
    costs = 0.5 * scale.square() * power - scale * cross + 0.5 * ((scale - gain) / (spread * gain)).square()
    misfit = likelihood(beads, batch.rotation, batch.shift, batch)
    torch.testing.assert_close(misfit, costs.amin(0), rtol=1e-6, atol=1e-5)
    batch.optics_group[:] = 2  # a gain of 0 leaves nothing to scale
    assert likelihood(beads, batch.rotation, batch.shift, batch).eq(0).all()


def test_gradients_at_a_scale_for_each_image():
    batch, beads = make_batch(16, images=2), make_beads(2, beads=4)
    likelihood = Direct(DirectSettings(scale_spread=0.5), 1)

    def misfit(positions):
        return likelihood(Beads(positions, beads.amplitude, beads.width), batch.rotation, batch.shift, batch)

    assert torch.autograd.gradcheck(misfit, (beads.positions.clone().requires_grad_(),))
