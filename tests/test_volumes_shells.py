import mrcfile
import numpy as np
import pytest

from cryomorph.errors import InputError
from cryomorph.structure.scattering import forward_scattering
from cryomorph.volumes.model_map import model_map, model_mask, scattering
from cryomorph.volumes.mrc import read_map, write_map
from cryomorph.volumes.shells import HALVES, MODEL, mean_correlation, resolution, shell_correlation, shell_of


@pytest.mark.parametrize("box", [16, 17])
def test_correlation_of_known_maps(box):
    generator = np.random.default_rng(0)
    signal, noise = generator.normal(size=(2, box, box, box))
    np.testing.assert_allclose(shell_correlation(signal, 3 * signal), 1, rtol=1e-5)
    np.testing.assert_allclose(shell_correlation(signal, -signal), -1, rtol=1e-5)
    assert np.abs(shell_correlation(signal, noise)[4:]).max() < 0.25
    # Noise of the same power as the signal in one of the two: a correlation of 1 / sqrt(2).
    np.testing.assert_allclose(shell_correlation(signal, signal + noise)[4:], np.sqrt(0.5), atol=0.15)


@pytest.mark.parametrize("box", [12, 13])
def test_correlation_agrees_with_a_plain_loop(box):
    generator = np.random.default_rng(2)
    a, b = generator.normal(size=(2, box, box, box))
    full = [np.fft.fftn(x) for x in (a, b)]
    k = np.fft.fftfreq(box, 1 / box)
    radius = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)
    for shell in range((box - 1) // 2 + 1):
        x, y = (f[radius == shell] for f in full)
        plain = (x * y.conj()).sum().real / np.sqrt((np.abs(x) ** 2).sum() * (np.abs(y) ** 2).sum())
        assert shell_correlation(a, b)[shell] == pytest.approx(plain, abs=1e-5)
    assert shell_of(box).shape == (box, box, box // 2 + 1)


def test_resolution_is_read_between_shells():
    curve = np.array([1.0, 1.0, 0.9, 0.7, 0.3, 0.1, 0.0, 0.2])
    assert resolution(curve, MODEL, 100.0) == pytest.approx(100 / 3.5)
    assert resolution(curve, HALVES, 100.0) == pytest.approx(100 / (4 + 0.157 / 0.2))
    assert resolution(np.ones(8), HALVES, 100.0) == pytest.approx(100 / 7)
    assert resolution(np.zeros(8), HALVES, 100.0) == np.inf
    assert mean_correlation(curve, 3) == pytest.approx((1 + 4 * 0.9 + 9 * 0.7) / 14)


@pytest.mark.parametrize("box", [40, 41])
def test_a_model_map_is_the_gaussian_written_out(box):
    """One Gaussian off the centre; a resolution widens it by `d / (π sqrt(2))`."""
    place, width, pixel, resolution_ = np.array([[5.3, -7.1, 2.2]]), 2.5, 1.5, 6.0
    density = model_map(place, np.array([3.0]), np.array([width]), box=box, pixel_size=pixel, resolution=resolution_)
    variance = width**2 + resolution_**2 / (2 * np.pi**2)
    along = (np.arange(box) - box // 2) * pixel
    square = (
        (along[:, None, None] - place[0, 2]) ** 2 + (along[:, None] - place[0, 1]) ** 2 + (along - place[0, 0]) ** 2
    )
    expected = 3.0 * np.exp(-0.5 * square / variance) / (2 * np.pi * variance) ** 1.5
    np.testing.assert_allclose(density, expected, atol=2e-4 * expected.max())


def test_atoms_scatter_as_the_tables_say_and_traces_as_residues(helix):
    amplitude, width = scattering(helix, len(helix.atom_names))
    carbon = helix.elements.index("C")
    assert amplitude[carbon] == forward_scattering("C")
    assert 0.4 < width[carbon] < 0.6
    amplitude, width = scattering(helix, len(helix))
    assert len(amplitude) == len(helix)
    assert width.min() > 1


def test_a_mask_is_one_at_atoms_and_falls_off():
    mask = model_mask(np.array([[4.0, 0.0, -2.0]]), 40, 2.0)
    at = (20 - 1, 20, 20 + 2)  # z, y, x
    assert mask[at] == 1
    assert mask[19, 20, 22 + 3] == 1  # 6 Å
    assert mask[19, 20, 22 + 5] == pytest.approx(0.5)  # 10 Å, half way down
    assert mask[19, 20, 22 + 7] == pytest.approx(0, abs=1e-6)
    assert model_mask(np.array([[100.0, 0, 0]]), 40, 2.0).max() == 0


@pytest.mark.parametrize("box", [30, 31])
def test_programs_find_an_atom_of_the_map_where_the_model_has_it(tmp_path, box):
    """A voxel's place is the header's origin plus its index times the voxel's edge, as ChimeraX has it."""
    place = np.array([6.0, -9.0, 12.0])
    density = model_map(place[None], np.ones(1), np.ones(1), box=box, pixel_size=1.5, resolution=4.0)
    write_map(tmp_path / "map.mrc", density, 1.5)
    with mrcfile.open(tmp_path / "map.mrc") as file:
        assert file.is_single_image() is False
        assert file.is_volume()
        index = np.array(np.unravel_index(file.data.argmax(), file.data.shape))[::-1]
        origin = np.array([file.header.origin[axis] for axis in "xyz"])
        found = origin + index * float(file.voxel_size.x)
        assert file.header.nxstart == file.header.nystart == file.header.nzstart == 0
    np.testing.assert_allclose(found, place, atol=1e-4)
    assert mrcfile.validate(tmp_path / "map.mrc")
    again, pixel_size = read_map(tmp_path / "map.mrc")
    np.testing.assert_array_equal(again, density)
    assert pixel_size == pytest.approx(1.5)


def test_what_is_no_map_is_refused(tmp_path):
    (tmp_path / "text.mrc").write_text("no map")
    with pytest.raises(InputError, match=r"text\.mrc: not a readable map"):
        read_map(tmp_path / "text.mrc")
    with mrcfile.new(tmp_path / "flat.mrc") as file:
        file.set_data(np.zeros((4, 6, 6), dtype=np.float32))
    with pytest.raises(InputError, match=r"4 × 6 × 6 voxels; expected a cube"):
        read_map(tmp_path / "flat.mrc")
