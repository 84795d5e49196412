"""Contrast transfer, against closed forms and published wavelengths."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from cryomorph.optics import CTFParameters, ctf, electron_wavelength


def parameters(**given):
    standard = {
        "defocus_u": 15000.0,
        "defocus_v": 15000.0,
        "astigmatism_angle": 0.0,
        "voltage": 300.0,
        "spherical_aberration": 2.7,
        "amplitude_contrast": 0.1,
        "phase_shift": 0.0,
        "b_factor": 0.0,
    }
    values = {name: torch.tensor([value], dtype=torch.float64) for name, value in (standard | given).items()}
    return CTFParameters(**values)


def at(kx, ky, p):
    x = torch.as_tensor(kx, dtype=torch.float64).reshape(1, 1, -1)
    y = torch.as_tensor(ky, dtype=torch.float64).reshape(1, 1, -1)
    return ctf(x, y, p)[0, 0].numpy()


@pytest.mark.parametrize(("voltage", "wavelength"), [(100, 0.037014), (200, 0.025079), (300, 0.019687)])
def test_wavelength_is_the_published_one(voltage, wavelength):
    # Williams & Carter, Transmission Electron Microscopy, table 1.2, in Å.
    assert float(electron_wavelength(torch.tensor(float(voltage)))) == pytest.approx(wavelength, abs=1e-6)


def test_wavelength_follows_from_the_constants_of_nature():
    from scipy.constants import c, e, h, m_e

    for kilovolt in (80.0, 120.0, 300.0, 1000.0):
        energy = e * kilovolt * 1e3
        expected = h / np.sqrt(2 * m_e * energy * (1 + energy / (2 * m_e * c**2))) * 1e10
        assert float(electron_wavelength(torch.tensor(kilovolt, dtype=torch.float64))) == pytest.approx(
            expected, rel=1e-6
        )


def test_contrast_at_zero_frequency_is_the_amplitude_contrast():
    assert at(0.0, 0.0, parameters(amplitude_contrast=0.07)) == pytest.approx(0.07)


def test_first_zero_of_pure_defocus():
    # Without Cs and amplitude contrast: sin(π λ Δf k²) = 0 at k² = 1/(λ Δf).
    p = parameters(spherical_aberration=0.0, amplitude_contrast=0.0)
    zero = 1 / np.sqrt(float(electron_wavelength(p.voltage)) * 15000)
    assert at(zero, 0.0, p) == pytest.approx(0, abs=1e-9)
    assert at(0.5 * zero, 0.0, p) == pytest.approx(np.sin(np.pi / 4))


def test_protein_is_bright_in_underfocus():
    assert at(0.01, 0.0, parameters())[0] > at(0.0, 0.0, parameters())[0] > 0


def test_formula_written_out():
    p = parameters(defocus_u=21000.0, defocus_v=17000.0, astigmatism_angle=0.6, phase_shift=0.4, b_factor=50.0)
    kx, ky = np.random.default_rng(0).uniform(-0.3, 0.3, size=(2, 40))
    k2, theta, lam = kx**2 + ky**2, np.arctan2(ky, kx), 0.0196874868
    defocus = 0.5 * (38000 + 4000 * np.cos(2 * (theta - 0.6)))
    gamma = np.pi * lam * defocus * k2 - np.pi / 2 * 2.7e7 * lam**3 * k2**2 + 0.4
    expected = (np.sqrt(1 - 0.01) * np.sin(gamma) + 0.1 * np.cos(gamma)) * np.exp(-50 * k2 / 4)
    np.testing.assert_allclose(at(kx, ky, p), expected, atol=2e-5)


def test_astigmatism_axis_is_that_of_defocus_u():
    p = parameters(defocus_u=20000.0, defocus_v=10000.0, astigmatism_angle=np.pi / 2)
    np.testing.assert_allclose(at(0.1, 0.0, p), at(0.1, 0.0, parameters(defocus_u=10000.0, defocus_v=10000.0)))
    np.testing.assert_allclose(at(0.0, 0.1, p), at(0.0, 0.1, parameters(defocus_u=20000.0, defocus_v=20000.0)))


def test_a_phase_plate_of_half_a_turn_inverts_the_contrast():
    np.testing.assert_allclose(at(0.05, 0.02, parameters(phase_shift=np.pi)), -at(0.05, 0.02, parameters()))


def test_parameters_can_be_indexed():
    p = CTFParameters(**{field.name: torch.arange(4.0) for field in fields(CTFParameters)})
    assert p[torch.tensor([2, 0])].voltage.tolist() == [2.0, 0.0]
