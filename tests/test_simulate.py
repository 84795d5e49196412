from dataclasses import replace

import gemmi
import mrcfile
import numpy as np
import pytest
from pydantic import ValidationError

from cryomorph.errors import InputError
from cryomorph.geometry import random_rotations, rmsd
from cryomorph.particles.star import read_star
from cryomorph.simulate import SimulationSettings, contrasts, dock, draw_particles, map_frame, simulate
from cryomorph.structure.model import Template
from cryomorph.structure.trajectory import Ensemble

ALANINE = {"N": "N", "CA": "C", "C": "C", "O": "O", "CB": "C", "H": "H"}


def make_ensemble(conformations: int = 3, residues: int = 8, seed: int = 0) -> Ensemble:
    """Alanines strewn through some 10 Å around the point (5, -3, 11)."""
    generator = np.random.default_rng(seed)
    trace = np.array([5.0, -3.0, 11.0]) + np.cumsum(generator.normal(0, 2.2, (conformations, residues, 3)), axis=1)
    atoms = trace[:, :, None] + generator.normal(0, 1.0, (conformations, residues, len(ALANINE), 3))
    atoms[:, :, 1] = trace
    atoms = atoms.reshape(conformations, -1, 3)
    template = Template(
        source="alanines",
        coordinates=trace[0],
        residue_names=("ALA",) * residues,
        residue_ids=tuple(str(number) for number in range(1, residues + 1)),
        chain=np.zeros(residues, dtype=np.int64),
        chain_names=("A",),
        bonded=np.ones(residues - 1, dtype=np.bool_),
        atom_coordinates=atoms[0],
        atom_names=tuple(ALANINE) * residues,
        elements=tuple(ALANINE.values()) * residues,
        atom_residue=np.repeat(np.arange(residues), len(ALANINE)),
    )
    return Ensemble(template, atoms.astype(np.float32))


def one_atom(element: str, positions: list[list[float]]) -> Ensemble:
    template = Template(
        source="one atom",
        coordinates=np.array(positions[:1]),
        residue_names=("ALA",),
        residue_ids=("1",),
        chain=np.zeros(1, dtype=np.int64),
        chain_names=("A",),
        bonded=np.zeros(0, dtype=np.bool_),
        atom_coordinates=np.array(positions[:1]),
        atom_names=("CA",),
        elements=(element,),
        atom_residue=np.zeros(1, dtype=np.int64),
    )
    return Ensemble(template, np.array(positions, dtype=np.float32)[:, None])


def make_settings(**changes: object) -> SimulationSettings:
    """Small images whose contrast transfer function is 1 (phase plate, in focus), without noise."""
    values: dict[str, object] = {
        "box": 32,
        "images_per_conformation": 4,
        "defocus": 0.0,
        "spherical_aberration": 0.0,
        "amplitude_contrast": 0.0,
        "phase_shift": 90.0,
        "dose": None,
    }
    return SimulationSettings.model_validate(values | changes)


def read_images(star) -> np.ndarray:
    with mrcfile.open(star.parent / "particles.mrcs") as stack:
        return np.array(stack.data)


def all_contrasts(ensemble: Ensemble, settings: SimulationSettings, batch_size: int | None = None) -> np.ndarray:
    particles = draw_particles(len(ensemble.atom_coordinates), settings)
    return np.concatenate(list(contrasts(ensemble, particles, settings, batch_size)))


@pytest.mark.parametrize("box", [32, 33])
def test_an_atom_is_where_relions_convention_puts_it(tmp_path, box):
    point = np.array([11.0, -7.0, 4.0])
    settings = make_settings(box=box, pixel_size=1.5, images_per_conformation=6, shift=3.0)
    images = read_images(simulate(one_atom("C", [list(point), list(-point)]), settings, tmp_path))
    loop = gemmi.cif.read(str(tmp_path / "particles.star"))["particles"]
    names = ["AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst"]
    rot, tilt, psi, origin_x, origin_y = (
        np.array([float(value) for value in loop.find_values(f"_rln{name}")]) for name in names
    )
    rot, tilt, psi = np.deg2rad(rot), np.deg2rad(tilt), np.deg2rad(psi)
    x, y, z = np.where(np.arange(12)[:, None] < 6, point, -point).T
    # Rotate about z, y and z again, written out.
    x, y = np.cos(rot) * x + np.sin(rot) * y, -np.sin(rot) * x + np.cos(rot) * y
    x, z = np.cos(tilt) * x - np.sin(tilt) * z, np.sin(tilt) * x + np.cos(tilt) * z
    x, y = np.cos(psi) * x + np.sin(psi) * y, -np.sin(psi) * x + np.cos(psi) * y
    peaks = images.reshape(12, -1).argmax(1)
    np.testing.assert_allclose(peaks % box, (x - origin_x) / 1.5 + box // 2, atol=0.51)
    np.testing.assert_allclose(peaks // box, (y - origin_y) / 1.5 + box // 2, atol=0.51)


def test_contrast_of_a_carbon_atom_in_vacuum():
    settings = make_settings(images_per_conformation=1, solvent=False, voltage=200.0)
    image = all_contrasts(one_atom("C", [[0.0, 0.0, 0.0]]), settings)[0]
    assert image.sum() * 2.0**2 == pytest.approx(2 * 0.7288e-3 * 47.878 * 2.5088, rel=1e-3)


def test_protein_is_bright_at_underfocus():
    settings = make_settings(defocus=15_000.0, phase_shift=0.0, amplitude_contrast=0.07, box=64)
    images = all_contrasts(map_frame(make_ensemble()), settings)
    assert (images[:, 30:35, 30:35].mean((1, 2)) > 2 * images.std((1, 2))).all()


@pytest.mark.parametrize("box", [48, 49])
def test_image_is_the_middle_of_a_larger_one(box):
    ensemble = map_frame(make_ensemble())
    optics = {"defocus": 20_000.0, "phase_shift": 0.0, "spherical_aberration": 2.7, "b_factor": 200.0, "shift": 2.0}
    small = all_contrasts(ensemble, make_settings(box=box, **optics))
    large = all_contrasts(ensemble, make_settings(box=200, **optics))
    first = 100 - box // 2
    window = slice(first, first + box)
    np.testing.assert_allclose(small, large[:, window, window], atol=0.005 * abs(large).max())


def test_mean_and_variance_of_the_counts_are_those_of_the_dose(tmp_path):
    ensemble, count = make_ensemble(conformations=1), 300
    same = np.repeat(random_rotations(1, np.random.default_rng(3)), count, axis=0)
    settings = make_settings(images_per_conformation=count, dose=20.0)
    noisy = read_images(simulate(ensemble, settings, tmp_path, rotations=same)).astype(np.float64)
    few = make_settings(images_per_conformation=1)
    contrast = next(contrasts(map_frame(ensemble), draw_particles(1, few, same[:1]), few))[0]
    electrons = 20.0 * 2.0**2
    counts = electrons - noisy * np.sqrt(electrons)
    np.testing.assert_allclose(counts, counts.round(), atol=1e-3)
    expected = electrons * (1 - contrast)
    pixels = expected.size
    assert abs(np.sqrt(electrons) * contrast).max() > 1
    misfit = (counts.mean(0) - expected) ** 2 * count / expected
    assert misfit.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / pixels))
    ratio = counts.var(0, ddof=1) / expected
    assert ratio.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / count / pixels))
    assert ratio.std() == pytest.approx(np.sqrt(2 / count), rel=0.15)


@pytest.mark.parametrize("decibels", [20.0, 0.0, -20.0])
def test_signal_and_noise_have_the_power_ratio_asked_for(tmp_path, decibels):
    ensemble = make_ensemble()
    clean = read_images(simulate(ensemble, make_settings(), tmp_path / "clean"))
    noisy = read_images(simulate(ensemble, make_settings(snr_db=decibels, dose=1.0), tmp_path / "noisy"))
    signal = clean / clean.std((1, 2), keepdims=True) * 10 ** (decibels / 20)
    noise = (noisy - signal).reshape(len(noisy), -1)
    np.testing.assert_allclose(noise.var(1), 1, atol=5 * np.sqrt(2 / noise.shape[1]))
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(np.corrcoef(noise)[~np.eye(len(noise), dtype=bool)]).max() < 5 / np.sqrt(noise.shape[1])


def test_without_a_dose_the_images_are_the_contrast(tmp_path):
    images = read_images(simulate(make_ensemble(), make_settings(), tmp_path))
    np.testing.assert_array_equal(images, all_contrasts(map_frame(make_ensemble()), make_settings()))


def test_the_seed_decides_everything(tmp_path):
    settings = make_settings(dose=50.0, shift=2.0, defocus=(5_000.0, 9_000.0), phase_shift=0.0)
    first, again, other = (
        simulate(make_ensemble(), settings.model_copy(update={"seed": seed}), tmp_path / name)
        for seed, name in ((7, "first"), (7, "again"), (8, "other"))
    )
    np.testing.assert_array_equal(read_images(first), read_images(again))
    assert first.read_text() == again.read_text()
    assert (read_images(first) != read_images(other)).mean() > 0.9
    assert first.read_text() != other.read_text()


def test_images_do_not_depend_on_the_batch_size():
    ensemble, settings = map_frame(make_ensemble()), make_settings(shift=1.0)
    at_once = all_contrasts(ensemble, settings, 12)
    for size in (1, 5):
        np.testing.assert_allclose(all_contrasts(ensemble, settings, size), at_once, atol=1e-6 * abs(at_once).max())


def test_given_rotations_are_used_and_leave_everything_else_as_it_was(tmp_path):
    rotations = random_rotations(12, np.random.default_rng(5))
    settings = make_settings(shift=2.0)
    simulate(make_ensemble(), settings, tmp_path / "given", rotations=rotations)
    simulate(make_ensemble(), settings, tmp_path / "drawn")
    with np.load(tmp_path / "given/truth.npz") as given, np.load(tmp_path / "drawn/truth.npz") as drawn:
        np.testing.assert_array_equal(given["rotation"], rotations)
        np.testing.assert_array_equal(given["shift"], drawn["shift"])


def test_drawn_values_lie_in_their_ranges():
    settings = make_settings(
        images_per_conformation=2000, defocus=(8_000.0, 12_000.0), astigmatism=(100.0, 300.0), shift=4.0
    )
    particles = draw_particles(1, settings)
    mean, difference = (particles.defocus_u + particles.defocus_v) / 2, particles.defocus_u - particles.defocus_v
    for values, (low, high) in ((mean, (8_000, 12_000)), (difference, (100, 300))):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
    np.testing.assert_allclose(particles.shift.std(0), 4.0, rtol=0.1)
    np.testing.assert_allclose(particles.rotation.mean(0), 0, atol=0.07)
    assert set(particles.half_set) == {1, 2}


def test_given_defocus_and_astigmatism_are_taken_over(tmp_path):
    settings = make_settings(defocus=9_000, astigmatism=400, astigmatism_angle=30.0, b_factor=50.0, phase_shift=45.0)
    table = read_star(simulate(make_ensemble(), settings, tmp_path))
    np.testing.assert_allclose(table.defocus_u, 9_200)
    np.testing.assert_allclose(table.defocus_v, 8_800)
    np.testing.assert_allclose(np.rad2deg(table.astigmatism_angle), 30)
    np.testing.assert_allclose(np.rad2deg(table.phase_shift), 45)
    np.testing.assert_allclose(table.b_factor, 50)


def test_star_file_and_truth_agree(tmp_path):
    settings = make_settings(defocus=15_000.0, shift=3.0, pixel_size=1.7, voltage=200.0, amplitude_contrast=0.1)
    table = read_star(simulate(make_ensemble(), settings, tmp_path))
    with np.load(tmp_path / "truth.npz", allow_pickle=False) as truth:
        np.testing.assert_allclose(table.rotation, truth["rotation"], atol=1e-6)
        np.testing.assert_allclose(table.shift, truth["shift"], atol=1e-6)
        np.testing.assert_array_equal(truth["conformation"], np.repeat([0, 1, 2], 4))
        expected = map_frame(make_ensemble()).residue_coordinates
        np.testing.assert_allclose(truth["coordinates"], expected, atol=1e-5)
    assert set(table.image_name) == {"particles.mrcs"}
    np.testing.assert_array_equal(table.frame, np.arange(12))
    for name, value in (("pixel_size", 1.7), ("image_size", 32), ("voltage", 200.0), ("amplitude_contrast", 0.1)):
        np.testing.assert_allclose(getattr(table, name), value)
    np.testing.assert_array_equal(table.half_set, draw_particles(3, settings).half_set)


@pytest.mark.parametrize(("dtype", "mode"), [("float32", 2), ("float16", 12)])
def test_header_of_the_stack(tmp_path, dtype, mode):
    star = simulate(make_ensemble(), make_settings(dtype=dtype, pixel_size=1.25, dose=30.0), tmp_path)
    with mrcfile.open(star.parent / "particles.mrcs") as stack:
        assert stack.is_image_stack()
        assert (int(stack.header.ispg), int(stack.header.mode)) == (0, mode)
        assert stack.data.dtype == dtype
        assert stack.data.shape == (12, 32, 32)
        assert stack.voxel_size.x == stack.voxel_size.y == pytest.approx(1.25)
    assert mrcfile.validate(star.parent / "particles.mrcs")


def test_nothing_is_overwritten_unasked(tmp_path):
    star = simulate(make_ensemble(), make_settings(), tmp_path)
    before = read_images(star)
    with pytest.raises(InputError, match=r"particles\.star: exists already"):
        simulate(make_ensemble(), make_settings(seed=1), tmp_path)
    np.testing.assert_array_equal(read_images(star), before)
    simulate(make_ensemble(), make_settings(seed=1), tmp_path, overwrite=True)
    assert (read_images(star) != before).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["particles.mrcs", "particles.star", "truth.npz"]


def test_a_failing_simulation_leaves_no_files(tmp_path):
    pile = one_atom("Au", [[0.0, 0.0, 0.0]])
    with pytest.raises(InputError, match="image 1: contrast"):
        simulate(pile, make_settings(pixel_size=0.2, dose=10.0, solvent=False), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_box_that_does_not_hold_the_molecule_is_refused(tmp_path):
    with pytest.raises(InputError, match="use at least 101 pixels"):
        simulate(one_atom("C", [[50.5, 0, 0], [-50.5, 0, 0]]), make_settings(pixel_size=1.0), tmp_path)


@pytest.mark.parametrize(
    ("rotations", "message"),
    [
        (np.eye(3)[None], "expected"),
        (np.repeat(-np.eye(3)[None], 12, axis=0), "matrix 0"),
        (np.where(np.arange(12)[:, None, None] == 5, np.nan, np.eye(3)), "matrix 5"),
    ],
)
def test_rotations_that_are_none_are_refused(tmp_path, rotations, message):
    with pytest.raises(InputError, match=message):
        simulate(make_ensemble(), make_settings(), tmp_path, rotations=rotations)


@pytest.mark.parametrize(
    "changes",
    [
        {"pixel_size": -1.0},
        {"dose": 0.0},
        {"dose": float("inf")},
        {"snr_db": float("nan")},
        {"snr_db": 100.0},
        {"box": 0},
        {"images_per_conformation": 0},
        {"shift": -1.0},
        {"amplitude_contrast": 1.5},
        {"defocus": (20_000.0, 10_000.0)},
        {"astigmatism": -100.0},
        {"dtype": "int64"},
        {"doze": 1.0},
    ],
)
def test_bad_settings_are_refused(changes):
    with pytest.raises(ValidationError):
        make_settings(**changes)


def test_settings_survive_being_written_and_read():
    settings = make_settings(defocus=(5_000.0, 6_000.0))
    assert SimulationSettings.model_validate_json(settings.model_dump_json()) == settings


def test_map_frame_moves_all_conformations_together():
    ensemble = make_ensemble()
    moved = map_frame(ensemble)
    heavy = np.array(ensemble.template.elements) != "H"
    np.testing.assert_allclose(moved.atom_coordinates[:, heavy].mean((0, 1)), 0, atol=1e-5)
    difference = ensemble.atom_coordinates - moved.atom_coordinates
    np.testing.assert_allclose(difference, np.broadcast_to(difference[0, 0], difference.shape), atol=1e-5)


def test_aligned_conformations_lose_their_rigid_motion():
    start = make_ensemble(conformations=1).atom_coordinates[0]
    rotations = random_rotations(4, np.random.default_rng(6))
    tumbling = start @ np.swapaxes(rotations, 1, 2) + np.arange(4)[:, None, None]
    aligned = map_frame(replace(make_ensemble(), atom_coordinates=tumbling.astype(np.float32)), align=True)
    frames = aligned.atom_coordinates
    np.testing.assert_allclose(frames, np.broadcast_to(frames[0], frames.shape), atol=1e-4)
    assert rmsd(frames[0].astype(np.float64), start.astype(np.float64)) < 1e-4


def test_docked_template_lies_on_the_mean_conformation():
    ensemble = map_frame(make_ensemble(conformations=1))
    coordinates = ensemble.residue_coordinates
    template = make_ensemble(conformations=1).template
    turned = template.transformed(random_rotations(1, np.random.default_rng(8))[0], np.array([30.0, -20.0, 4.0]))
    docked = dock(turned, ensemble)
    np.testing.assert_allclose(docked.coordinates, coordinates[0], atol=1e-4)
    np.testing.assert_allclose(docked.atom_coordinates[1], docked.coordinates[0])


def test_template_with_other_residues_cannot_be_docked():
    with pytest.raises(InputError, match="8 residues and the conformations have 9"):
        dock(make_ensemble().template, make_ensemble(residues=9))
