import numpy as np
import pytest

from cryomorph.errors import InputError
from cryomorph.structure.frame import place_template
from structure_builders import backbone, template_of


@pytest.fixture
def helix():
    template = template_of(backbone(20), ["ALA"] * 20)
    return template.moved(-template.coordinates.mean(0))


@pytest.mark.parametrize("box", [64, 65])
def test_auto_finds_the_centre_and_the_corner(helix, box):
    docked = helix.moved(np.array([3.0, -4.0, 0.0]))
    in_corner = docked.moved(np.full(3, (box // 2) * 1.5))
    for template, word in ((docked, "centre"), (in_corner, "first voxel")):
        placed, remark = place_template(template, box, 1.5, "auto")
        np.testing.assert_allclose(placed.coordinates, docked.coordinates, atol=1e-9)
        np.testing.assert_allclose(placed.atom_coordinates, docked.atom_coordinates, atol=1e-9)
        assert f"map's {word}" in remark
        assert "5.0 Å" in remark


def test_a_stated_frame_is_not_questioned(helix):
    corner = helix.moved(np.full(3, 40.0))
    np.testing.assert_array_equal(place_template(corner, 200, 1.0, "centre")[0].coordinates, corner.coordinates)
    np.testing.assert_allclose(place_template(corner, 80, 1.0, "corner")[0].coordinates, helix.coordinates, atol=1e-9)


def test_a_model_that_is_not_docked_is_refused(helix):
    with pytest.raises(InputError, match="--template-frame"):
        place_template(helix.moved(np.array([500.0, 0.0, 0.0])), 100, 1.0, "auto")


def test_a_model_larger_than_the_box_is_refused_with_the_numbers(helix):
    with pytest.raises(InputError, match=r"20 pixels of 1 Å \(20 Å\) only 10 Å"):
        place_template(helix, 20, 1.0, "centre")
