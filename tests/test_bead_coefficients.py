"""Coefficients by way of a grid are those of the sum over all beads."""

import numpy as np
import pytest
import torch

from cryomorph.gridding.projections import bead_coefficients
from cryomorph.likelihood.direct import projection_coefficients


@pytest.mark.parametrize(("box", "beads"), [(24, 5), (63, 200), (96, 30)])
def test_agrees_with_the_sum_over_all_beads(box, beads):
    generator = torch.Generator().manual_seed(box)
    # Some beads are outside the box, which is periodic in both.
    points = 20 * torch.randn(5, beads, 2, generator=generator)
    amplitude = 5 + torch.rand(beads, generator=generator)
    width = torch.tensor([1.4, 1.9, 2.6]).repeat(beads)[:beads]
    pixel_size = torch.tensor([2.0, 1.3, 2.0, 1.3, 2.7])
    found = bead_coefficients(points, amplitude, width, pixel_size, box)
    expected = projection_coefficients(
        points.double(), amplitude.double(), width.double(), pixel_size.double(), box
    ).to(torch.complex64)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6 * float(expected.abs().max()))


def test_a_point_at_the_origin_has_a_flat_phase_and_the_transform_of_a_gaussian():
    box, pixel_size, width = 32, 1.5, 1.8
    found = bead_coefficients(
        torch.zeros(1, 1, 2), torch.tensor([7.0]), torch.tensor([width]), torch.tensor([pixel_size]), box
    )[0].numpy()
    ky, kx = np.arange(-15, 16)[:, None] / (box * pixel_size), np.arange(16) / (box * pixel_size)
    expected = 7 / pixel_size**2 * np.exp(-2 * np.pi**2 * width**2 * (kx**2 + ky**2))
    np.testing.assert_allclose(found, expected, atol=2e-6 * expected.max())


def test_positions_that_are_not_finite_show():
    points = torch.zeros(2, 3, 2)
    points[1, 2, 0] = torch.nan
    found = bead_coefficients(points, torch.ones(3), torch.full((3,), 1.5), torch.full((2,), 2.0), 24)
    assert torch.isfinite(found[0]).all()
    assert torch.isnan(found[1].abs()).all()
