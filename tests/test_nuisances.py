"""Nuisances of simulated images: measured back from the images, and absent unless asked for."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.spatial import cKDTree

from cryomorph.errors import InputError
from cryomorph.particles.star import read_star
from cryomorph.simulate import Nuisances, contrasts, draw_particles, simulate
from cryomorph.simulate.molecules import reach
from cryomorph.simulate.nuisances import BELT_GAP, BELT_HEIGHT, BELT_THICKNESS, draw_nuisances
from test_simulate import make_ensemble, make_settings, read_images


@pytest.fixture
def ensemble():
    return make_ensemble(conformations=2)


def images_of(ensemble, folder, nuisances, **changes):
    settings = make_settings(box=48, nuisances=nuisances, **changes)
    return read_images(simulate(ensemble, settings, folder))


def test_by_default_there_are_none(ensemble):
    settings = make_settings()
    drawn = draw_nuisances(settings.nuisances, ensemble, 8, reach(ensemble), 0)
    assert (drawn.scale == 1).all()
    assert (drawn.group == 0).all()
    assert len(drawn.belt) == 0
    assert not drawn.neighbours.present.any()
    assert (drawn.occupancy == 1).all()
    assert (drawn.b_factor == 0).all()
    assert drawn.background(0, 32, 2.0) is None
    assert dict(drawn.drawn()) == {}


def test_the_contrast_of_images_is_log_normal_about_1(ensemble, tmp_path):
    plain = images_of(ensemble, tmp_path / "plain", Nuisances())
    varied = images_of(ensemble, tmp_path / "varied", Nuisances(contrast=0.4))
    truth = np.load(tmp_path / "varied" / "truth.npz")["contrast"]
    measured = (plain * varied).sum((1, 2)) / np.square(plain).sum((1, 2))
    np.testing.assert_allclose(measured, truth, rtol=1e-5)
    many = draw_nuisances(Nuisances(contrast=0.4), ensemble, 3_000, 10.0, 0).scale
    assert many.mean() == pytest.approx(1.0, abs=0.03)
    assert many.std() == pytest.approx(0.4, abs=0.03)
    assert np.log(many).std() == pytest.approx(np.sqrt(np.log1p(0.16)), abs=0.02)


def test_the_noise_does_not_depend_on_the_contrast(ensemble, tmp_path):
    """Whether it is that of a dose or of a power ratio."""
    for name, noise in (("dose", {"dose": 400}), ("power", {"dose": None, "snr_db": 0})):
        plain = images_of(ensemble, tmp_path / f"{name}-plain", Nuisances(), **noise)
        faint = images_of(ensemble, tmp_path / f"{name}-faint", Nuisances(group_contrast=(1.0, 0.01)), **noise)
        assert faint[1::2].std() == pytest.approx(1.0, abs=0.02)
        np.testing.assert_array_equal(faint[::2], plain[::2])


def test_optics_groups_have_their_own_contrast(ensemble, tmp_path):
    plain = images_of(ensemble, tmp_path / "plain", Nuisances(), defocus=10_000)
    grouped = images_of(ensemble, tmp_path / "grouped", Nuisances(group_contrast="1,0.5"), defocus=10_000)
    np.testing.assert_allclose(grouped[1::2], 0.5 * plain[1::2], atol=1e-6)
    np.testing.assert_array_equal(grouped[::2], plain[::2])
    table = read_star(tmp_path / "grouped" / "particles.star")
    assert table.optics_group.tolist() == [0, 1] * 4


def test_a_background_is_smooth_and_of_the_size_asked_for(ensemble, tmp_path):
    nuisances = Nuisances(background=0.5, background_length=40.0)
    plain = images_of(ensemble, tmp_path / "plain", Nuisances(), dose=100)
    graded = images_of(ensemble, tmp_path / "graded", nuisances, dose=100)
    drawn = draw_nuisances(nuisances, ensemble, 300, 10.0, 0)
    np.testing.assert_allclose(graded[3] - plain[3], drawn.background(3, 48, 2.0), atol=1e-5)
    fields = np.stack([drawn.background(image, 48, 2.0) for image in range(300)])
    assert fields.std() == pytest.approx(0.5, rel=0.06)
    # The correlation of a Gaussian field at its length is exp(-1/2).
    assert (fields[:, :, 20:] * fields[:, :, :-20]).mean() / np.square(fields).mean() == pytest.approx(0.607, abs=0.06)


def test_a_background_without_noise_is_refused():
    with pytest.raises(ValidationError, match="units of the noise"):
        make_settings(nuisances={"background": 0.5})


def test_a_belt_lies_about_the_molecule_and_projects_with_the_pose(ensemble):
    """What it adds to the images is the image of its atoms, at the pose and with the optics of each image."""
    nuisances = Nuisances(belt=2.0)
    settings = make_settings(box=64)
    particles = draw_particles(2, settings)
    drawn = draw_nuisances(nuisances, ensemble, len(particles), reach(ensemble), 0)
    assert len(drawn.belt) == 2 * len(ensemble.template.elements)
    distance, _ = cKDTree(ensemble.atom_coordinates.reshape(-1, 3)).query(drawn.belt)
    assert distance.min() > BELT_GAP - 1e-3
    assert distance.max() < BELT_GAP + BELT_THICKNESS + 1e-3
    assert np.abs(drawn.belt[:, 2]).max() <= BELT_HEIGHT + 1e-3
    plain = np.concatenate(list(contrasts(ensemble, particles, settings)))
    belted = np.concatenate(list(contrasts(ensemble, particles, settings, disturbances=drawn)))
    added = belted - plain
    # CTF of 1: the centre of mass of what is added is the projected centre of the belt's atoms.
    at = (np.arange(64) - 32) * 2.0
    for image in range(len(particles)):
        found = np.array([(added[image] * at).sum(), (added[image] * at[:, None]).sum()]) / added[image].sum()
        expected = (drawn.belt.mean(0) @ particles.rotation[image].T)[:2] + particles.shift[image]
        np.testing.assert_allclose(found, expected, atol=0.5)
    total = torch.tensor(added).sum((1, 2))
    assert (total.std() / total.mean()).abs() < 1e-3


def test_neighbours_are_in_their_share_of_images_and_at_their_place(ensemble):
    nuisances = Nuisances(neighbours=0.5)
    settings = make_settings(box=96, images_per_conformation=20)
    particles = draw_particles(2, settings)
    drawn = draw_nuisances(nuisances, ensemble, len(particles), reach(ensemble), 0)
    present = drawn.neighbours.present
    assert 10 < present.sum() < 30
    plain = np.concatenate(list(contrasts(ensemble, particles, settings)))
    crowded = np.concatenate(list(contrasts(ensemble, particles, settings, disturbances=drawn)))
    added = crowded - plain
    # The working box is larger for what reaches further, to float32 rounding with the same result.
    assert np.abs(added[~present]).max() < 1e-5
    at = (np.arange(96) - 48) * 2.0
    for image in np.flatnonzero(present):
        peak = np.array([(added[image] * at).sum(), (added[image] * at[:, None]).sum()]) / added[image].sum()
        assert np.linalg.norm(peak - drawn.neighbours.shift[image]) < reach(ensemble)
    assert draw_nuisances(Nuisances(neighbours=1.0), ensemble, 9, 10.0, 0).neighbours.present.all()


def test_faint_residues_scatter_less(ensemble, tmp_path):
    """Images are linear in occupancies: 0, one half and 1 lie on a line."""
    images = [
        images_of(ensemble, tmp_path / str(share), Nuisances(faint="A:2-4", occupancy=share)) for share in (0.0, 0.5, 1)
    ]
    np.testing.assert_allclose(images[1], 0.5 * (images[0] + images[2]), atol=1e-5)
    np.testing.assert_allclose(images[2], images_of(ensemble, tmp_path / "all", Nuisances()), atol=1e-6)
    assert np.abs(images[0] - images[2]).max() > 0.1 * images[2].max()


@pytest.mark.parametrize(("physics", "tolerance"), [("projection", 1e-3), ("multislice", 0.06)])
def test_blurred_residues_lose_what_their_b_factor_says(ensemble, tmp_path, physics, tolerance):
    """Of a molecule that is blurred as a whole `exp(-B k²/4)` is left; multiple scattering is not linear in it."""
    make = {"physics": physics, "multislice": {"ice": 0}}
    plain, part, blurred = (
        np.fft.rfft2(images_of(ensemble, tmp_path / name, nuisances, **make)[0])
        for name, nuisances in {
            "plain": Nuisances(),
            "part": Nuisances(blurred="A:2-4", blur=120.0),
            "blurred": Nuisances(blurred="A", blur=120.0),
        }.items()
    )
    k = np.hypot(np.fft.fftfreq(48, 2.0)[:, None], np.fft.rfftfreq(48, 2.0))
    seen = (np.abs(plain) > 0.05 * np.abs(plain).max()) & (k < 0.2)
    np.testing.assert_allclose((blurred / plain)[seen], np.exp(-0.25 * 120.0 * k**2)[seen], atol=tolerance)
    lost, most = np.linalg.norm(plain - part), np.linalg.norm(plain - blurred)
    assert 0.05 * most < lost < 0.95 * most


@pytest.mark.parametrize("option", ["faint", "blurred"])
def test_residues_that_are_not_there_are_refused(ensemble, tmp_path, option):
    with pytest.raises(InputError, match=rf"--{option}: 'B:2': .* has no chain 'B'"):
        images_of(ensemble, tmp_path, Nuisances(**{option: "B:2"}))


def test_an_image_has_the_same_nuisances_however_many_there_are(ensemble):
    nuisances = Nuisances(contrast=0.3, neighbours=0.5)
    few, many = (draw_nuisances(nuisances, ensemble, count, 10.0, 5) for count in (4, 9))
    np.testing.assert_array_equal(few.scale, many.scale[:4])
    np.testing.assert_array_equal(few.neighbours.shift, many.neighbours.shift[:4])


@pytest.mark.parametrize("changes", [{"group_contrast": "1,0"}, {"contrast": -1}, {"neighbours": 2}, {"haze": 1}])
def test_bad_settings_are_refused(changes):
    with pytest.raises(ValidationError):
        Nuisances.model_validate(changes)
