import numpy as np
import pytest

from cryomorph.errors import InputError
from cryomorph.structure.scattering import atomic_variance, electron_scattering, forward_scattering


@pytest.mark.parametrize(
    ("element", "expected"), [("H", 0.529), ("C", 2.509), ("N", 2.2135), ("O", 1.983), ("S", 5.161)]
)
def test_forward_scattering_is_that_of_the_international_tables(element, expected):
    assert forward_scattering(element) == pytest.approx(expected, abs=1e-3)


def test_variance_is_the_curvature_of_the_scattering_factor():
    a, b = electron_scattering("C")
    k = 1e-3
    factor = (a * np.exp(-b * (k / 2) ** 2)).sum()
    # A Gaussian of variance v falls off as exp(-2 π² v k²).
    assert -np.log(factor / a.sum()) / (2 * np.pi**2 * k**2) == pytest.approx(atomic_variance("C"), rel=1e-4)


def test_deuterium_scatters_as_hydrogen():
    assert forward_scattering("D") == forward_scattering("H")


@pytest.mark.parametrize("element", ["X", "", "Qq", "Og"])
def test_unknown_element_is_named(element):
    with pytest.raises(InputError, match=f"'{element}'"):
        electron_scattering(element)
