"""Simulated images of which each shows a conformation of its own, and the sets that they are divided into."""

from dataclasses import replace

import gemmi
import mrcfile
import numpy as np
import pytest
from pydantic import ValidationError

from command_line import refused
from conftest import helix_model
from cryomorph.config import read_indices
from cryomorph.errors import InputError
from cryomorph.evaluation import read_truth
from cryomorph.files import read_arrays
from cryomorph.geometry import random_rotations, superpose
from cryomorph.particles.star import read_star
from cryomorph.simulate import (
    Mixture,
    Motion,
    MovingDomains,
    SimulationSettings,
    contrasts,
    draw_particles,
    draw_split,
    map_frame,
    molecules,
    set_in_motion,
    simulate,
)
from cryomorph.structure.modes import displaced, template_modes
from cryomorph.structure.trajectory import Ensemble
from small_runs import folder_state

MASSES = {"C": 12.011, "N": 14.007, "O": 15.999}
SMALL = {"images_per_conformation": 6, "box": 40, "defocus": 8_000.0}
MOTION = {"modes": 4, "mixture": "0,2.5;0.25", "rotation": 5.0}


@pytest.fixture
def still(dimer):
    return map_frame(Ensemble(dimer, dimer.atom_coordinates[None].astype(np.float32)))


def moving(ensemble, images, seed=0, **motion):
    start = np.repeat(np.arange(len(ensemble)), images)
    return set_in_motion(ensemble, Motion.model_validate(motion), start, seed)


def everything(ensemble):
    return np.arange(len(ensemble))


def chains(template):
    return [np.flatnonzero(template.chain == number) for number in range(len(template.chain_names))]


def centres_of_mass(template, atoms):
    mass = np.array([MASSES[element] for element in template.elements])
    chain = template.chain[template.atom_residue]
    return np.stack([np.average(atoms[:, chain == c], 1, mass[chain == c]) for c in np.unique(chain)], axis=1)


def distances(points):
    return np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)


def test_weights_follow_the_mixture(still):
    weights = moving(still, 2000, modes=3, mixture="-1,0.5,4;0.25").weights
    assert weights.shape == (2000, 2, 3)
    means = np.array([-1, 0.5, 4])
    component = np.abs(weights[..., None] - means).argmin(-1)
    count = weights.size
    for number, mean in enumerate(means):
        chosen = weights[component == number]
        assert len(chosen) / count == pytest.approx(1 / 3, abs=5 * np.sqrt(2 / 9 / count))
        assert chosen.mean() == pytest.approx(mean, abs=5 * 0.25 / np.sqrt(len(chosen)))
        assert chosen.std() == pytest.approx(0.25, rel=0.05)
    # Neither what mode, nor what chain, nor what image it is says anything about another weight.
    flat = weights.reshape(2000, -1)
    assert abs(np.corrcoef(flat.T)[~np.eye(6, dtype=bool)]).max() < 5 / np.sqrt(2000)
    assert abs(np.corrcoef(flat[1:, 0], flat[:-1, 0])[0, 1]) < 5 / np.sqrt(2000)


def test_displacement_of_a_chain_follows_from_its_weights(still):
    shown = moving(still, 20, modes=5)
    step = np.linalg.norm(shown.residues(everything(shown)) - still.residue_coordinates, axis=-1)
    for number, rows in enumerate(chains(still.template)):
        expected = np.linalg.norm(shown.weights[:, number], axis=-1) / np.sqrt(5)
        np.testing.assert_allclose(np.sqrt(np.square(step[:, rows]).mean(1)), expected, rtol=1e-9)


def test_modes_are_those_of_each_chain_alone(still):
    shown = moving(still, 3, modes=5)
    for number, rows in enumerate(chains(still.template)):
        modes = template_modes(still.conformation(0), 5, rows=rows)
        expected = displaced(still.residue_coordinates[0, rows], modes, shown.weights[:, number] / np.sqrt(5))
        np.testing.assert_allclose(shown.residues(everything(shown))[:, rows], expected, atol=1e-9)


def test_atoms_of_a_residue_move_with_its_representative_one(still):
    shown = moving(still, 4, modes=3)
    step = shown.atoms(everything(shown)) - still.atom_coordinates
    atoms = still.template.representative_atoms[still.template.atom_residue]
    assert np.linalg.norm(step, axis=-1).max() > 0.5
    np.testing.assert_allclose(step, step[:, atoms], atol=1e-5)


def test_turned_chains_keep_their_shape_and_their_centre_of_mass(still):
    shown = moving(still, 8, modes=3, rotation=20.0)
    straight = replace(shown, rotation=np.broadcast_to(np.eye(3), shown.rotation.shape))
    turned, before = (m.atoms(everything(m)).astype(np.float64) for m in (shown, straight))
    template = still.template
    np.testing.assert_allclose(centres_of_mass(template, turned), centres_of_mass(template, before), atol=1e-4)
    for number in range(2):
        inside = template.chain[template.atom_residue] == number
        np.testing.assert_allclose(distances(turned[:, inside]), distances(before[:, inside]), atol=1e-4)
        found, _ = superpose(before[:, inside], turned[:, inside])
        np.testing.assert_allclose(found, shown.rotation[:, number], atol=1e-4)
    assert np.linalg.norm(turned - before, axis=-1).max() > 1


def test_chains_turn_about_x_first_then_about_y_and_z(still):
    matrices = moving(still, 3000, rotation=10.0).rotation
    # What the product Z Y X gives away of its angles.
    x = np.arctan2(matrices[..., 2, 1], matrices[..., 2, 2])
    y = -np.arcsin(matrices[..., 2, 0])
    z = np.arctan2(matrices[..., 1, 0], matrices[..., 0, 0])
    zero, one = np.zeros_like(x), np.ones_like(x)

    def matrix(*entries):
        return np.stack(entries, axis=-1).reshape(*x.shape, 3, 3)

    about_x = matrix(one, zero, zero, zero, np.cos(x), -np.sin(x), zero, np.sin(x), np.cos(x))
    about_y = matrix(np.cos(y), zero, np.sin(y), zero, one, zero, -np.sin(y), zero, np.cos(y))
    about_z = matrix(np.cos(z), -np.sin(z), zero, np.sin(z), np.cos(z), zero, zero, zero, one)
    np.testing.assert_allclose(matrices, about_z @ about_y @ about_x, atol=1e-12)
    angles = np.rad2deg(np.stack([x, y, z], axis=-1)).reshape(3000, -1)
    np.testing.assert_allclose(angles.max(0), 10, atol=0.05)
    np.testing.assert_allclose(angles.min(0), -10, atol=0.05)
    np.testing.assert_allclose(np.quantile(angles, [0.25, 0.5, 0.75], axis=0), [[-5] * 6, [0] * 6, [5] * 6], atol=0.8)
    assert abs(np.corrcoef(angles.T)[~np.eye(6, dtype=bool)]).max() < 5 / np.sqrt(3000)


def test_modes_without_amplitude_leave_the_model_as_it_is(still):
    shown = moving(still, 3, modes=4, mixture="0;0")
    expected = np.repeat(still.atom_coordinates, 3, axis=0)
    np.testing.assert_allclose(shown.atoms(everything(shown)), expected, atol=1e-5)


def test_the_model_at_rest_has_its_atoms_about_the_origin(still):
    np.testing.assert_allclose(still.atom_coordinates[0].mean(0), 0, atol=1e-5)


def test_each_conformation_of_an_ensemble_moves_along_modes_of_its_own(still):
    """Of one molecule in two orientations, so that each has the modes of the other, turned."""
    turn = random_rotations(1, np.random.default_rng(4))[0]
    two = replace(still, atom_coordinates=np.stack([x := still.atom_coordinates[0], (x @ turn.T).astype(np.float32)]))
    shown = moving(two, 5, modes=3)
    np.testing.assert_array_equal(shown.start, [0] * 5 + [1] * 5)
    step = shown.residues(everything(shown)) - two.residue_coordinates[shown.start]
    step[5:] = step[5:] @ turn
    for number, rows in enumerate(chains(still.template)):
        vectors = template_modes(still.conformation(0), 3, rows=rows).vectors.reshape(3, -1)
        found = step[:, rows].reshape(10, -1) @ vectors.T / np.sqrt(len(rows) / 3)
        np.testing.assert_allclose(np.abs(found), np.abs(shown.weights[:, number]), atol=1e-4)


def test_rows_may_be_asked_for_in_any_order(still):
    two = replace(still, atom_coordinates=np.concatenate([still.atom_coordinates, still.atom_coordinates + 1]))
    shown = moving(two, 4, **MOTION)
    rows = np.array([6, 1, 7, 0])
    np.testing.assert_allclose(shown.atoms(rows), shown.atoms(everything(shown))[rows], atol=1e-5)
    residues = still.template.representative_atoms
    np.testing.assert_allclose(shown.residues(rows), shown.atoms(rows)[:, residues], atol=1e-5)


def test_groups_move_in_place_of_chains(still):
    shown = moving(still, 2, rotation=5.0, groups="A:1-9,A:10-20+B")
    assert [domain.name for domain in shown.domains] == ["A:1-9", "A:10-20+B"]
    change = distances(shown.residues(everything(shown))) - distances(still.residue_coordinates)
    together = np.arange(32) < 9
    np.testing.assert_allclose(change[:, together[:, None] == together], 0, atol=1e-9)
    assert abs(change).max() > 0.1
    with pytest.raises(InputError, match="--groups"):
        moving(still, 2, rotation=5.0, groups="A")


def test_more_modes_than_a_chain_has_are_refused(still):
    with pytest.raises(InputError, match="31 normal modes are wanted; 12 residues have 30"):
        moving(still, 2, modes=31)


def test_the_motion_of_an_image_depends_on_the_seed_alone(still):
    few, many, other = moving(still, 3, **MOTION), moving(still, 7, **MOTION), moving(still, 3, seed=1, **MOTION)
    np.testing.assert_array_equal(few.weights, many.weights[:3])
    np.testing.assert_array_equal(few.rotation, many.rotation[:3])
    assert (few.weights != other.weights).all()


def test_images_are_those_of_the_same_conformations_held_in_memory(still):
    settings = SimulationSettings.model_validate({**SMALL, "dose": None})
    shown = moving(still, 6, **MOTION)
    eager = Ensemble(still.template, shown.atoms(everything(shown)))
    particles = replace(draw_particles(1, settings), conformation=np.arange(6))
    lazy_images, images = (np.concatenate(list(contrasts(m, particles, settings, 4))) for m in (shown, eager))
    assert abs(images).max() > 0
    np.testing.assert_allclose(lazy_images, images, atol=1e-6 * abs(images).max())


def test_no_more_than_some_atoms_are_in_memory_however_many_images_there_are(still, tmp_path, monkeypatch):
    asked = []
    atoms, residues = MovingDomains.atoms, MovingDomains.residues

    def watch(method):
        def watched(self, rows):
            asked.append(len(rows))
            return method(self, rows)

        return watched

    monkeypatch.setattr(MovingDomains, "atoms", watch(atoms))
    monkeypatch.setattr(MovingDomains, "residues", watch(residues))
    monkeypatch.setattr(molecules, "_ATOMS_AT_ONCE", 7 * len(still.template.elements))
    settings = SimulationSettings.model_validate({**SMALL, "images_per_conformation": 100, "motion": MOTION})
    simulate(still, settings, tmp_path, template=still.template)
    assert max(asked) <= 32  # images at once
    assert sum(asked) == 4 * 100  # the mean for the template, the box, images, truth
    with np.load(tmp_path / "truth.npz") as truth:
        assert truth["coordinates"].shape == (100, 32, 3)


def test_truth_knows_every_image_and_what_was_drawn(still, tmp_path):
    settings = SimulationSettings.model_validate({**SMALL, "motion": MOTION, "seed": 3})
    simulate(still, settings, tmp_path, template=still.template)
    shown = moving(still, 6, seed=3, **MOTION)
    truth = read_truth(tmp_path / "truth.npz")
    np.testing.assert_array_equal(truth.conformation, np.arange(6))
    np.testing.assert_allclose(truth.coordinates, shown.residues(everything(shown)), atol=1e-5)
    np.testing.assert_allclose(truth.rotation, read_star(tmp_path / "particles.star").rotation, atol=1e-6)
    drawn = read_arrays(tmp_path / "truth.npz", "domains", "mode_weights", "domain_rotation", "coordinates")
    assert drawn["coordinates"].dtype == np.float32
    assert list(drawn["domains"]) == ["A", "B"]
    np.testing.assert_array_equal(drawn["mode_weights"], shown.weights)
    np.testing.assert_array_equal(drawn["domain_rotation"], shown.rotation)
    docked = np.array(gemmi.read_structure(str(tmp_path / "template.cif"))[0]["A"][0]["CA"][0].pos.tolist())
    turn, move = superpose(still.template.coordinates, truth.coordinates.mean(0))
    np.testing.assert_allclose(docked, turn @ still.template.coordinates[0] + move, atol=2e-3)


def test_the_same_seed_gives_the_same_files(still, tmp_path):
    for name, seed in (("first", 7), ("again", 7), ("other", 8)):
        settings = SimulationSettings.model_validate({**SMALL, "motion": MOTION, "seed": seed, "split": (3, 2, 1)})
        simulate(still, settings, tmp_path / name, template=still.template)
    for name in ("first", "again"):
        with mrcfile.open(tmp_path / name / "particles.mrcs", "r+") as stack:
            stack.header.label[:] = b""  # the time
    first, again, other = (folder_state(tmp_path / name) for name in ("first", "again", "other"))
    names = {"particles.mrcs", "particles.star", "truth.npz", "template.cif"}
    assert first.keys() == names | {"train.txt", "validation.txt", "test.txt"}
    assert first == again
    assert all(first[name] != other[name] for name in names)


@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        ((50, 30, 20), (50, 30, 20)),
        ((5, 3, 2), (5, 3, 2)),
        ((0.8, 0.1, 0.1), (80, 10, 10)),
        ((0.5, 0.25, 0.0), (50, 25)),
        ((1 / 3, 1 / 3, 1 / 3), (33, 34, 33)),
        ((1, 0, 0), (1,)),
    ],
)
def test_sets_are_disjoint_and_of_the_sizes_wanted(split, sizes):
    sets = draw_split(split, 100, seed=2)
    assert tuple(len(rows) for rows in sets.values()) == sizes
    rows = np.concatenate(list(sets.values()))
    assert len(np.unique(rows)) == len(rows)
    assert rows.min() >= 0
    assert rows.max() < 100
    assert all((np.diff(part) > 0).all() for part in sets.values())


def test_sets_are_drawn_at_random():
    rows = draw_split((500, 250, 250), 1000, seed=0)["train"]
    assert (rows != draw_split((500, 250, 250), 1000, seed=1)["train"]).any()
    assert rows.mean() == pytest.approx(499.5, abs=50)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ((80, 20, 1), "split: 101 images are wanted, and there are 100"),
        ((0.9, 0.1, 0.1), "split: the fractions add up to 1.1, more than 1"),
        ((0, 0, 0), "split: all sets are empty"),
    ],
)
def test_sets_that_cannot_be_are_refused(split, message):
    with pytest.raises(InputError, match=message):
        draw_split(split, 100, seed=0)


def test_sets_of_somebody_else_are_left_alone(still, tmp_path):
    (tmp_path / "train.txt").write_text("mine")
    with pytest.raises(InputError, match=r"train\.txt: exists already"):
        simulate(still, SimulationSettings.model_validate({**SMALL, "split": "2,2,2"}), tmp_path)
    simulate(still, SimulationSettings.model_validate(SMALL), tmp_path)
    assert (tmp_path / "train.txt").read_text() == "mine"


def test_overwriting_takes_all_files_of_the_earlier_simulation(still, tmp_path):
    settings = SimulationSettings.model_validate({**SMALL, "split": "2,2,2"})
    simulate(still, settings, tmp_path / "new", template=still.template)
    simulate(still, SimulationSettings.model_validate(SMALL), tmp_path / "new", overwrite=True)
    assert folder_state(tmp_path / "new").keys() == {"particles.mrcs", "particles.star", "truth.npz"}


def test_settings_of_motions_survive_being_written_and_read():
    for motion in ({"rotation": 3}, {"modes": 2}, MOTION):
        settings = SimulationSettings.model_validate({"motion": motion, "split": "0.5,0.25,0.25"})
        assert SimulationSettings.model_validate_json(settings.model_dump_json()) == settings


def test_the_mixture_is_paper_bs_unless_given():
    assert Motion(modes=2).mixture == Mixture.model_validate("0,2.5;0.25")
    assert Motion(rotation=2).mixture is None


@pytest.mark.parametrize(
    "motion",
    [
        {},
        {"modes": -1},
        {"rotation": -1.0},
        {"rotation": float("inf")},
        {"modes": 1, "mixture": {"means": [], "deviation": 1}},
        {"modes": 1, "mixture": {"means": [1], "deviation": -1}},
        {"modes": 1, "mixture": "nan;1"},
        {"modes": 1, "mode": 1},
    ],
)
def test_bad_motions_are_refused(motion):
    with pytest.raises(ValidationError):
        Motion.model_validate(motion)


@pytest.fixture
def model(tmp_path):
    helix_model({"A": 20, "B": 12}).write_pdb(str(tmp_path / "model.pdb"))
    return tmp_path / "model.pdb"


def test_a_single_model_becomes_images_of_many_conformations(cryomorph, model, tmp_path):
    out = tmp_path / "new"
    motion = ["--modes", 3, "--mixture", "0,2.5;0.25", "--chain-rotation", 2.5]
    images = ["--images", 20, "--box", 40, "--snr-db", 0, "--split", "16,2,2", "--template", model]
    result = cryomorph("simulate", model, "--out", out, *motion, *images)
    assert result.code == 0, result.err
    truth = read_truth(out / "truth.npz")
    assert len(np.unique(truth.coordinates[:, 0, 0])) == len(read_star(out / "particles.star")) == 20
    sets = [read_indices(out / f"{name}.txt") for name in ("train", "validation", "test")]
    np.testing.assert_array_equal(np.sort(np.concatenate(sets)), np.arange(20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mixture", "0,1;1"], "motion: a mixture is one of weights of normal modes; give the number of modes too"),
        (["--groups", "A,B"], "motion: with neither modes nor rotations nothing moves"),
        (["--modes", 3, "--mixture", "0,2.5"], "motion.mixture: expected MEAN,MEAN;DEVIATION .* found '0,2.5'"),
        (["--modes", 3, "--mixture", "0,x;1"], "motion.mixture: expected MEAN,MEAN;DEVIATION"),
        (["--modes", 3, "--mixture", "0,1;-1"], "motion.mixture.deviation: "),
        (["--modes", -1], "motion.modes: "),
        (["--modes", 31], "31 normal modes are wanted; 12 residues have 30"),
        (["--chain-rotation", 200], "motion.rotation: "),
        (["--chain-rotation", 2, "--groups", "A,C"], "no chain 'C'"),
        (["--split", "8,1"], "split: expected TRAIN,VALIDATION,TEST"),
        (["--split", "8,1,x"], "split: expected TRAIN,VALIDATION,TEST"),
        (["--split", "8,-1,1"], "split.1: "),
        (["--split", "8,1,2"], "split: 11 images are wanted, and there are 10"),
        (["--modes", 3, "--mixture", "90;1"], "box: 128 pixels of 2 Å reach 128 Å"),
    ],
)
def test_motions_and_sets_that_cannot_be_end_in_one_line(cryomorph, model, tmp_path, arguments, message):
    refused(cryomorph("simulate", model, "--out", tmp_path / "new", *arguments), message)
    assert not (tmp_path / "new").exists()
