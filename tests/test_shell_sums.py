"""Sums over shells: compiled and plain ways agree with each other and with a loop written out."""

import numpy as np
import pytest
import torch

from cryomorph._shell_sums_numba import add_up
from cryomorph.fourier import shell_index
from cryomorph.shell_sums import add_up_planes, shell_sums

IMAGES, HIGHEST = 3, 5


@pytest.fixture(params=[1, IMAGES], ids=["one weight", "weights of each"])
def arguments(request):
    generator = torch.Generator().manual_seed(1)
    shape = IMAGES, 2 * HIGHEST + 1, HIGHEST + 1

    def draw(*size):
        return torch.randn(size, generator=generator)

    observed, model = (torch.complex(draw(*shape), draw(*shape)) for _ in range(2))
    weight = draw(request.param, *shape[1:]).square()
    return observed, model, draw(*shape), weight, draw(*shape) > 0.5


@pytest.mark.parametrize("way", [add_up, add_up_planes])
def test_each_way_is_the_sum_written_out(arguments, way):
    observed, model, transfer, weight, seen = (each.numpy() for each in arguments)
    shell = shell_index(2 * HIGHEST + 1, torch.device("cpu"))
    expected = np.zeros((4, IMAGES, HIGHEST + 1))
    for place in np.ndindex(observed.shape):
        image, row, column = place
        counts = weight[min(image, len(weight) - 1), row, column]
        signal = transfer[place] * model[place]
        terms = counts * (observed[place].conj() * signal).real, counts * abs(signal) ** 2
        first = 0 if seen[place] else 2
        expected[first : first + 2, image, shell[row, column]] += terms
    np.testing.assert_allclose(way(*arguments, shell).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_what_is_not_finite_shows(arguments):
    arguments[1][1, 0, 0] = torch.nan
    sums = shell_sums(*arguments).sum((0, 2))
    assert sums.isfinite().tolist() == [True, False, True]
