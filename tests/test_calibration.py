"""Calibration of Fourier shells, against images whose noise and signal are known, and sums written out in NumPy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryomorph.calibration import CalibrationSettings, ShellSums, calibrate, gain_sums
from cryomorph.fourier import band
from cryomorph.geometry import random_rotations
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.optics import CTFParameters
from cryomorph.particles.batch import ParticleBatch
from cryomorph.poses.known import KnownPoses, KnownPosesSettings
from cryomorph.structure.beads import Beads

BOX, PIXEL, GAIN = 32, 3.0, 2.5
SHELLS = band(BOX) + 1
AXIS = np.fft.fftfreq(BOX, 1 / BOX)
RADIUS = np.hypot(AXIS, AXIS[:, None])
SHELL = np.minimum(np.rint(RADIUS), band(BOX)).astype(int)
COUNTS = (band(BOX) >= RADIUS) & (np.abs(AXIS) <= band(BOX)) & (np.abs(AXIS[:, None]) <= band(BOX))
NOISE = np.stack([2 - 1.5 * np.arange(SHELLS) / SHELLS, 0.5 + 0.1 * np.arange(SHELLS)])
SIGNAL = np.stack([1.5 - np.arange(SHELLS) / SHELLS, 0.3 + 0.6 * np.sin(np.arange(SHELLS) / 4) ** 2])


def make_batch(images, seed=0):
    """Particles of two optics groups, without images."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high):
        return low + (high - low) * torch.rand(images, generator=generator)

    return ParticleBatch(
        index=torch.arange(images),
        image=None,
        pixel_size=torch.full((images,), PIXEL),
        optics_group=torch.arange(images) % 2,
        rotation=torch.from_numpy(random_rotations(images, np.random.default_rng(seed))).float(),
        shift=torch.stack([uniform(-6, 6), uniform(-6, 6)], dim=1),
        ctf=CTFParameters(
            defocus_u=uniform(8000, 20000),
            defocus_v=uniform(8000, 20000),
            astigmatism_angle=uniform(0, 3),
            voltage=uniform(200, 300),
            spherical_aberration=uniform(0, 2.7),
            amplitude_contrast=uniform(0.05, 0.2),
            phase_shift=uniform(0, 1),
            b_factor=uniform(0, 60),
        ),
    )


def make_beads(images, beads=9):
    generator = torch.Generator().manual_seed(1)
    positions = 12 * torch.randn(beads, 3, generator=generator)
    return Beads(
        positions.expand(images, -1, -1), 100 * torch.rand(beads, generator=generator), torch.full((beads,), 2.0)
    )


def spectra(batch, beads):
    """Spectra of the projected beads under the contrast transfer function, in NumPy; complex (b, D, D)."""
    points = np.einsum("bij,bnj->bni", batch.rotation.double(), beads.positions.double())[..., :2]
    points = points + batch.shift.double().numpy()[:, None]
    k = AXIS / (BOX * PIXEL)
    wave = [np.exp(-2j * np.pi * k * points[..., axis, None]) for axis in (0, 1)]  # (b, B, D)
    k2 = k**2 + k[:, None] ** 2
    volts = batch.ctf.voltage.double().numpy()[:, None, None] * 1e3
    wavelength = 12.2643 / np.sqrt(volts * (1 + 0.978476e-6 * volts))
    parameters = {name: value.double().numpy()[:, None, None] for name, value in vars(batch.ctf).items()}
    u, v, w = parameters["defocus_u"], parameters["defocus_v"], parameters["amplitude_contrast"]
    angle = np.arctan2(k[:, None], k) - parameters["astigmatism_angle"]
    gamma = np.pi * wavelength * 0.5 * (u + v + (u - v) * np.cos(2 * angle)) * k2 + parameters["phase_shift"]
    gamma -= 0.5 * np.pi * parameters["spherical_aberration"] * 1e7 * wavelength**3 * k2**2
    transfer = np.sqrt(1 - w**2) * np.sin(gamma) + w * np.cos(gamma)
    transfer *= np.exp(-0.25 * parameters["b_factor"] * k2)
    amplitude, width = beads.amplitude.double().numpy(), beads.width.double().numpy()
    envelope = np.exp(-2 * (np.pi * width[0]) ** 2 * k2)
    return transfer * envelope * np.einsum("n,bny,bnx->byx", amplitude, wave[1], wave[0]) / PIXEL**2


def with_images(batch, beads, signal, noise, seed=0):
    """Add images with the signal and noise of shells (2, shells) of the two groups."""
    group = batch.optics_group.numpy()
    white = np.random.default_rng(seed).normal(size=(len(batch), BOX, BOX))
    coloured = np.fft.fft2(white) * np.sqrt(noise[group][:, SHELL])
    seen = coloured + GAIN * signal[group][:, SHELL] * spectra(batch, beads) * COUNTS
    images = np.fft.fftshift(np.fft.ifft2(seen).real, axes=(1, 2))
    batch.image = torch.from_numpy(images).float()
    return batch


def sums_of(batch, beads):
    sums = ShellSums.zeros(2, SHELLS, batch.shift.device)
    poses = KnownPoses(KnownPosesSettings(), 1)
    sums.add(
        SimpleNamespace(beads=lambda x: beads, poses=poses, likelihood=SimpleNamespace(selection=None)), None, batch
    )
    return sums


@pytest.fixture(scope="module")
def measured():
    batch, beads = make_batch(1200), make_beads(1200)
    return sums_of(with_images(batch, beads, SIGNAL, NOISE), beads)


def test_noise_and_signal_of_shells_are_found(measured):
    found, kept = calibrate(measured, "both", 8)
    assert (kept == 1).all()  # nothing was kept out
    np.testing.assert_allclose(found.noise[:, 1:], NOISE[:, 1:], rtol=0.06)
    cross, power = gain_sums(measured, found)
    gain = (cross / power)[:, None].numpy()
    clear = measured.model_power.numpy() / NOISE * (GAIN * SIGNAL) ** 2 > 2500  # relative standard error 0.02
    assert clear.sum() > 12
    np.testing.assert_allclose((gain * found.signal.numpy())[clear], (GAIN * SIGNAL)[clear], rtol=0.1)
    weight = measured.model_power / found.noise
    torch.testing.assert_close((found.signal * weight).sum(1), weight.sum(1))


def test_what_is_not_asked_for_is_one(measured):
    both, noise, signal = (calibrate(measured, shells, 8)[0] for shells in ("both", "noise", "signal"))
    assert torch.equal(noise.noise, both.noise)
    assert torch.equal(signal.signal, both.signal)
    assert (noise.signal == 1).all()
    assert (signal.noise == 1).all()


def test_sums_are_those_of_numpy():
    batch, beads = make_batch(3), make_beads(3)
    with_images(batch, beads, SIGNAL, NOISE)
    sums = sums_of(batch, beads)
    model = spectra(batch, beads)
    image = np.fft.fft2(np.fft.ifftshift(batch.image.double().numpy(), axes=(1, 2)))
    for group in (0, 1):
        mine = np.arange(3) % 2 == group
        for shell in range(SHELLS):
            at = COUNTS & (shell == SHELL)
            assert sums.count[group, shell] == at.sum() * mine.sum()
            y, m = image[mine][:, at], model[mine][:, at]
            assert sums.cross[group, shell] == pytest.approx((y.conj() * m).real.sum() / BOX**2, rel=1e-3, abs=1e-3)
            assert sums.model_power[group, shell] == pytest.approx((np.abs(m) ** 2).sum() / BOX**2, rel=1e-3, abs=1e-6)
            assert sums.image_power[group, shell] == pytest.approx((np.abs(y) ** 2).sum() / BOX**2, rel=1e-4)


def test_misfit_of_a_calibrated_likelihood_is_the_whitened_residual():
    batch, beads = make_batch(3), make_beads(3)
    with_images(batch, beads, SIGNAL, NOISE)
    likelihood = Direct(DirectSettings(), 2)
    likelihood.calibration = ShellCalibration(torch.from_numpy(NOISE), torch.from_numpy(SIGNAL))
    likelihood.gain.copy_(torch.tensor([1.3, 0.7]))
    found = likelihood(beads, batch.rotation, batch.shift, batch)
    group = batch.optics_group.numpy()
    image = np.fft.fft2(np.fft.ifftshift(batch.image.double().numpy(), axes=(1, 2)))
    model = np.array([1.3, 0.7])[group][:, None, None] * SIGNAL[group][:, SHELL] * spectra(batch, beads)
    residual = (np.abs(image - model) ** 2 - np.abs(image) ** 2) / NOISE[group][:, SHELL]
    np.testing.assert_allclose(found, 0.5 * (residual * COUNTS).sum((1, 2)) / BOX**2, rtol=1e-3)


def test_gain_is_the_one_the_likelihood_finds_on_the_same_images(measured):
    batch, beads = make_batch(40), make_beads(40)
    with_images(batch, beads, SIGNAL, NOISE)
    sums = sums_of(batch, beads)
    likelihood = Direct(DirectSettings(), 2)
    likelihood.calibration, _ = calibrate(sums, "both", 8)
    likelihood(beads, batch.rotation, batch.shift, batch)
    cross, power = gain_sums(sums, likelihood.calibration)
    torch.testing.assert_close(cross, likelihood.cross_sum, rtol=1e-5, atol=0)
    torch.testing.assert_close(power, likelihood.power_sum, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("noise", "signal"), [(4.0, 1.0), (1.0, 0.5), (2.0, 3.0)])
def test_flat_calibration_scales_the_terms(noise, signal):
    batch, beads = make_batch(3), make_beads(3)
    with_images(batch, beads, SIGNAL, NOISE)
    likelihood = Direct(DirectSettings(), 2)
    cross, power = likelihood.terms(beads, batch.rotation, batch.shift, batch)
    likelihood.calibration = ShellCalibration(torch.full((2, SHELLS), noise), torch.full((2, SHELLS), signal))
    scaled_cross, scaled_power = likelihood.terms(beads, batch.rotation, batch.shift, batch)
    torch.testing.assert_close(scaled_cross, cross * signal / noise)
    torch.testing.assert_close(scaled_power, power * signal**2 / noise)


def even_sums(count, noise, cross=0.0, model=0.0, free_cross=0.0, free_power=0.0):
    """Sums of one group in which all shells are alike, unless arrays are given."""
    values = (count, np.multiply(count, noise), cross, model, free_cross, free_power)
    return ShellSums(
        *(torch.from_numpy(np.broadcast_to(np.asarray(value, float), SHELLS).copy())[None] for value in values)
    )


def test_a_shell_is_taken_with_its_neighbours_until_they_say_enough():
    """A power is known to 5 % from 800 coefficients."""
    noise = np.where(np.arange(SHELLS) == 7, 4.0, 1.0)
    alone = calibrate(even_sums(800.0, noise), "noise", 8)[0].noise[0]
    np.testing.assert_allclose(alone, noise)
    three = calibrate(even_sums(300.0, noise), "noise", 8)[0].noise[0]
    expected = np.convolve(np.pad(noise, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    np.testing.assert_allclose(three[2:-2], expected[2:-2])
    everything = calibrate(even_sums(10.0, noise), "noise", 8)[0].noise[0]
    np.testing.assert_allclose(everything[[0, 7, SHELLS - 1]], noise.mean(), rtol=0.2)
    assert everything.std() < 0.3


def test_shells_that_say_nothing_of_the_signal_have_that_of_their_neighbours():
    """Beyond shell 5 the model has no power; below, the gain is 2 and falls to 1 in shell 5."""
    model = np.where(np.arange(SHELLS) <= 5, 1e4, 1e-9)
    gain = np.where(np.arange(SHELLS) < 5, 2.0, 1.0)
    wild = np.where(np.arange(SHELLS) <= 5, model * gain, -3e-5)
    signal = calibrate(even_sums(1e6, 1.0, wild, model), "signal", 8)[0].signal[0].numpy()
    np.testing.assert_allclose(signal[:6] / signal[5], gain[:6], rtol=1e-6)
    assert (signal[6:] >= signal[5] * (1 - 1e-6)).all()
    assert (signal[6:] <= signal[0] * (1 + 1e-6)).all()


def test_noise_that_poses_follow_is_no_signal():
    """Models turn towards the noise, without getting stronger: by as much as they gain in the fit they lose outside."""
    generator = np.random.default_rng(0)
    images, free, strength, ways = 4000, 0.1, 3.0, np.arange(SHELLS) // 5
    sums = {name: np.zeros(SHELLS) for name in ("cross", "power", "free_cross", "free_power")}
    for shell in range(SHELLS):  # a shell's model can turn in so many ways, each with noise of its own
        noise, noise_free = generator.normal(size=(2, images, ways[shell] + 1))
        model = np.concatenate([np.full((images, 1), strength), noise[:, 1:]], axis=1)
        model *= strength / np.linalg.norm(model, axis=1, keepdims=True)
        truth = strength * np.eye(ways[shell] + 1)[0]
        sums["cross"][shell] = ((truth + noise) * model).sum()
        sums["free_cross"][shell] = free * ((truth + noise_free) * model).sum()
        sums["power"][shell] = (model**2).sum()
        sums["free_power"][shell] = free * sums["power"][shell]
    fitted = sums["cross"] / sums["power"]
    assert fitted[-1] > 1.1
    found, kept = calibrate(even_sums(images, 1.0, sums["cross"], *list(sums.values())[1:]), "signal", int(ways.sum()))
    weight = found.signal[0].numpy() * sums["power"]
    gain = float(kept) * (weight * fitted).sum() / (weight * found.signal[0].numpy()).sum()
    np.testing.assert_allclose(gain * found.signal[0].numpy(), 1, atol=0.05)


def grouped(*groups):
    return ShellSums(*(torch.cat(parts) for parts in zip(*(vars(sums).values() for sums in groups), strict=True)))


def test_a_group_of_few_images_follows_the_others_in_what_is_fitted():
    """Free coefficients of the first lose a quarter of the gain in the highest shell; of the second there are few."""
    shell = np.arange(SHELLS) / SHELLS
    left = np.exp(-0.3 * shell**2)
    many = even_sums(1e6, 1.0, 1e4, 1e4, 1e3 * left, 1e3)
    few = even_sums(1e3, 1.0, 10.0, 10.0, np.where(shell > 0.5, 1.0, 0.9), 1.0)
    own = even_sums(1e5, 1.0, 1e3, 1e3, 1e2, 1e2)
    found, _ = calibrate(grouped(many, few, own), "signal", 8)
    for group, expected in enumerate((0.5 * (1 + left), 0.5 * (1 + left), np.ones(SHELLS))):
        signal = found.signal[group].numpy()
        np.testing.assert_allclose(signal / signal[0], expected / expected[0], atol=0.02)


@pytest.mark.parametrize("latents", [0, 3])
def test_no_more_noise_is_fitted_than_numbers_can(latents):
    """Half of the gain is missing outside in all but the lowest shells: far more than a few numbers explain."""
    shell, images, power = np.arange(SHELLS) / SHELLS, 1000.0, 4000.0
    left = np.exp(-8 * shell**2)
    sums = even_sums(images, 1.0, power, power, 0.1 * power * left, 0.1 * power)
    found, kept = calibrate(sums, "signal", latents)
    signal = found.signal[0].numpy()
    gain = float(kept) * signal * (signal.sum() / (signal**2).sum())
    assert (power * (1 - gain)).sum() == pytest.approx(0.5 * (5 + latents) * images, rel=0.02)


@pytest.mark.parametrize("shells", ["noise", "signal", "both"])
def test_nothing_is_negative_or_infinite_whatever_the_images_are(shells):
    low_passed = np.where(np.arange(SHELLS) < 8, 1.0, 0.0)
    cases = {
        "no images": even_sums(0.0, 0.0),
        "no model": even_sums(1000.0, 1.0),
        "anticorrelated": even_sums(1000.0, 1.0, -100.0, 50.0),
        "low-pass filtered": even_sums(1000.0, low_passed, 100.0 * low_passed, 50.0),
        "without noise": even_sums(1000.0, 0.1, 100.0, 100.0),
        "one image": even_sums(1.0, 1.0, 0.01, 0.02),
    }
    for case, sums in cases.items():
        found, kept = calibrate(sums, shells, 8)
        assert (kept == 1).all()
        assert torch.isfinite(found.noise).all(), case
        assert torch.isfinite(found.signal).all(), case
        assert (found.noise > 0).all(), case
        assert (found.signal >= 0).all(), case
        if case in ("no images", "no model", "anticorrelated"):
            torch.testing.assert_close(found.signal, torch.ones_like(found.signal))
    floor = calibrate(cases["low-pass filtered"], "noise", 8)[0].noise[0]
    assert floor.min() > 0.09 * floor.mean()


def test_settings_say_what_they_take():
    assert CalibrationSettings().shells in ("none", "noise", "signal", "both")
    with pytest.raises(ValueError, match="shells"):
        CalibrationSettings(shells="everything")
