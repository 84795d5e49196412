"""Contrast transfer of the electron microscope (design equation: docs/conventions.md)."""

from dataclasses import dataclass, fields
from math import pi
from typing import Self

import torch
from torch import Tensor


@dataclass
class CTFParameters:
    """What determines the contrast transfer function of each of b images; every field has shape (b,).

    Attributes
    ----------
    defocus_u, defocus_v
        Defocus along the two principal axes in Å, positive for underfocus.
    astigmatism_angle
        Angle from the x axis to the axis of `defocus_u`, radians.
    voltage
        Acceleration voltage in kV.
    spherical_aberration
        Cs in mm.
    amplitude_contrast
        w, between 0 and 1.
    phase_shift
        Of a phase plate, radians.
    b_factor
        Of the envelope `exp(-B k²/4)`, Å².
    """

    defocus_u: Tensor
    defocus_v: Tensor
    astigmatism_angle: Tensor
    voltage: Tensor
    spherical_aberration: Tensor
    amplitude_contrast: Tensor
    phase_shift: Tensor
    b_factor: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Self:
        """Return the parameters of some of the images."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def to(self, device: torch.device) -> Self:
        """Return a copy on another device."""
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def electron_wavelength(voltage: Tensor) -> Tensor:
    """Relativistic wavelength in Å of electrons accelerated by `voltage` in kV (0.019687 Å at 300 kV).

    `λ = h / sqrt(2 m e V (1 + e V / (2 m c²)))`, with CODATA constants folded into two numbers.
    """
    volts = voltage * 1e3
    return 12.264259 / torch.sqrt(volts * (1 + 0.9784756e-6 * volts))


def ctf(frequency_x: Tensor, frequency_y: Tensor, parameters: CTFParameters) -> Tensor:
    """Contrast transfer function, positive where protein is bright (RELION's particle stacks).

    `h(k) = sqrt(1 - w²) sin γ + w cos γ`, `γ = π λ Δf(θ) k² - (π/2) Cs λ³ k⁴ + φ`,
    `Δf(θ) = ½ [(U + V) + (U - V) cos 2(θ - θ_ast)]`, times the envelope `exp(-B k²/4)`.

    Parameters
    ----------
    frequency_x, frequency_y
        Spatial frequencies in 1/Å along columns and rows, shapes broadcastable to (b, rows, columns).
    parameters
        Of b images.

    Returns
    -------
    Tensor (b, rows, columns)
    """
    p = _over_images(parameters)
    k2 = frequency_x.square() + frequency_y.square()
    gamma = aberration(frequency_x, frequency_y, parameters) + p.phase_shift
    # sqrt(1 - w²) sin γ + w cos γ = sin(γ + asin w)
    return torch.sin(gamma + torch.asin(p.amplitude_contrast)) * torch.exp(-0.25 * p.b_factor * k2)


def aberration(frequency_x: Tensor, frequency_y: Tensor, parameters: CTFParameters) -> Tensor:
    """Phase that defocus, astigmatism and spherical aberration give to a wave of each frequency, in radians.

    `γ(k) = π λ Δf(θ) k² - (π/2) Cs λ³ k⁴`; parameters and shape are those of `ctf`.
    """
    p = _over_images(parameters)
    wavelength = electron_wavelength(p.voltage)
    cs_angstrom = p.spherical_aberration * 1e7
    k2 = frequency_x.square() + frequency_y.square()
    # k² cos 2(θ - θ_ast) without the angle θ: polynomial in the components, smooth at k = 0.
    along = (frequency_x.square() - frequency_y.square()) * torch.cos(2 * p.astigmatism_angle)
    along = along + 2 * frequency_x * frequency_y * torch.sin(2 * p.astigmatism_angle)
    defocus_k2 = 0.5 * ((p.defocus_u + p.defocus_v) * k2 + (p.defocus_u - p.defocus_v) * along)
    return pi * wavelength * defocus_k2 - 0.5 * pi * cs_angstrom * wavelength**3 * k2.square()


def _over_images(parameters: CTFParameters) -> CTFParameters:
    """Return the parameters in shape (b, 1, 1)."""
    return CTFParameters(**{field.name: getattr(parameters, field.name)[:, None, None] for field in fields(parameters)})


def phase_coefficients(parameters: CTFParameters, frequency_step: Tensor) -> Tensor:
    """Phase of the contrast transfer function as a polynomial in Fourier indices.

    At indices (kx, ky) the function is `sin(π t) exp(-B k²/4)` with
    `t = c0 kx² + c1 ky² + c2 kx ky + c3 (kx² + ky²)² + c4`.

    Parameters
    ----------
    parameters
        Of b images.
    frequency_step
        Frequency of index 1 in 1/Å, shape (b,).

    Returns
    -------
    Tensor (b, 5), float64
        c0 to c4.
    """
    p = CTFParameters(**{field.name: getattr(parameters, field.name).double() for field in fields(parameters)})
    wavelength, square = electron_wavelength(p.voltage), frequency_step.double().square()
    mean, half = 0.5 * (p.defocus_u + p.defocus_v), 0.5 * (p.defocus_u - p.defocus_v)
    cosine, sine = torch.cos(2 * p.astigmatism_angle), torch.sin(2 * p.astigmatism_angle)
    per_defocus = wavelength * square
    fourth = -0.5 * p.spherical_aberration * 1e7 * wavelength**3 * square.square()
    constant = (p.phase_shift + torch.asin(p.amplitude_contrast)) / pi
    axes = (per_defocus * (mean + half * cosine), per_defocus * (mean - half * cosine), per_defocus * 2 * half * sine)
    return torch.stack([*axes, fourth, constant], dim=1)
