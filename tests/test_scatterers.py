"""Amplitudes from images: density about the molecule and faint residues, found where they are and only there."""

import gemmi
import numpy as np
import pytest
import torch

from cryomorph.amplitudes import Slopes, Unknown, minimise, numbers_of_residues
from cryomorph.config import parse_config
from cryomorph.errors import InputError
from cryomorph.fitted import FittedRun
from cryomorph.geometry import random_rotations
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.likelihood.matched_filter import MatchedFilter, MatchedFilterSettings
from cryomorph.report.summary import what_was_run
from cryomorph.run import RunFolder
from cryomorph.simulate import Nuisances, SimulationSettings
from cryomorph.structure.beads import bead_model
from cryomorph.structure.model import read_template
from cryomorph.structure.scatterers import ScatteringSettings, lattice, scatterers
from cryomorph.workflows import simulate_images, train
from dense_likelihood import coarse_batch
from small_runs import assert_same_run, run_settings


def test_places_are_about_the_molecule_and_not_in_it(dimer):
    settings = ScatteringSettings(surroundings=True, reach=18.0, gap=6.0, spacing=5.0)
    places, spacing = lattice(dimer.coordinates, settings)
    distance = np.linalg.norm(places[:, None] - dimer.coordinates[None], axis=-1).min(1)
    assert spacing == 5.0
    assert (distance > 6).all()
    assert (distance <= 18).all()
    # As many as the space between the two surfaces holds, to the lattice's accuracy.
    points = np.random.default_rng(0).uniform(-50, 50, (20_000, 3))
    nearest = np.linalg.norm(points[:, None] - dimer.coordinates[None], axis=-1).min(1)
    volume = ((nearest > 6) & (nearest <= 18)).mean() * 100**3
    assert len(places) == pytest.approx(volume / 125, rel=0.15)


def test_a_lattice_that_is_too_large_becomes_coarser(dimer):
    places, spacing = lattice(dimer.coordinates, ScatteringSettings(surroundings=True, reach=60.0, spacing=2.0))
    assert spacing > 2
    assert 1000 < len(places) <= 2500


@pytest.mark.parametrize("kind", ["ca", "residue"])
def test_before_anything_is_found_beads_are_the_molecules(dimer, kind):
    molecule = bead_model(dimer, kind)
    coordinates = torch.from_numpy(dimer.coordinates).float()[None]
    whole = scatterers(molecule, dimer.coordinates, ScatteringSettings(surroundings=True, occupancy=True))
    for found, expected in zip(vars(whole(coordinates)).values(), vars(molecule(coordinates)).values(), strict=True):
        assert torch.equal(found, expected)


def test_what_was_found_scatters(dimer):
    molecule = bead_model(dimer, "residue")
    whole = scatterers(molecule, dimer.coordinates, ScatteringSettings(surroundings=True, spacing=7.0))
    whole.extra[[3, 8]] = torch.tensor([2.0, 5.0])
    whole.factor[4] = 0.25
    coordinates = torch.from_numpy(dimer.coordinates).float()[None] + torch.tensor([[[1.0]], [[2.0]]])
    beads, plain = whole(coordinates), molecule(coordinates)
    assert torch.equal(beads.positions[:, -2:], whole.places[[3, 8]].expand(2, -1, -1))
    assert beads.amplitude[-2:].tolist() == [2.0, 5.0]
    assert beads.width[-2:].tolist() == [3.5, 3.5]
    ratio = beads.amplitude[:-2] / plain.amplitude
    assert torch.equal(ratio, torch.where(molecule.residue == 4, 0.25, 1.0))
    again = scatterers(molecule, dimer.coordinates, ScatteringSettings(surroundings=True, spacing=7.0))
    again.load_state_dict(whole.state_dict())
    assert torch.equal(again(coordinates).positions, beads.positions)


def test_blurred_residues_are_wider_by_their_b_factor(dimer):
    """A bead's transform `exp(-2π² σ² k²)` is multiplied by `exp(-B k²/4)`."""
    molecule = bead_model(dimer, "residue")
    whole = scatterers(molecule, dimer.coordinates, ScatteringSettings(b_factors=True))
    whole.b_factor[4] = 80.0
    coordinates = torch.from_numpy(dimer.coordinates).float()[None]
    beads, plain, k = whole(coordinates), molecule(coordinates), 0.15
    damping = torch.exp(-2 * np.pi**2 * k**2 * (beads.width.square() - plain.width.square()))
    expected = torch.where(molecule.residue == 4, np.exp(-0.25 * 80.0 * k**2), 1.0)
    torch.testing.assert_close(damping, expected, check_dtype=False)


def test_both_likelihoods_see_surroundings_and_blur_alike(dimer):
    """Values and gradients by the coordinates."""
    batch = coarse_batch(32)
    whole = scatterers(bead_model(dimer, "ca"), dimer.coordinates, ScatteringSettings(surroundings=True, reach=12.0))
    whole.extra[::20] = 30.0
    whole.b_factor[3:9] = torch.tensor([20.0, 80.0, 160.0, 300.0, 500.0, 40.0])
    rotation, shift = batch.rotation.float(), batch.shift.float()
    found = []
    for likelihood in (MatchedFilter(MatchedFilterSettings(), 1), Direct(DirectSettings(), 1)):
        x = torch.from_numpy(dimer.coordinates).float().repeat(len(batch), 1, 1).requires_grad_()
        terms = likelihood.terms(whole(x), rotation, shift, batch)
        gradients = [torch.autograd.grad(term.sum(), x, retain_graph=True)[0] for term in terms]
        found.append((*terms, *gradients))
    for windows, direct in zip(*found, strict=True):
        torch.testing.assert_close(windows, direct, rtol=2e-3, atol=0.05, check_dtype=False)


def test_curvature_is_the_mean_over_directions():
    """Against the products of plane waves at frequencies in many directions."""
    generator = np.random.default_rng(0)
    power, frequency = torch.tensor([[3.0, 1.0]]), torch.tensor([[0.02, 0.05]])
    a, b = generator.normal(0, 10, (4, 3)), generator.normal(0, 10, (5, 3))
    width_a, width_b = np.full(4, 2.0), np.array([1.0, 1.0, 2.0, 3.0, 3.0])
    direction = random_rotations(40_000, generator)[:, 0]
    expected = np.zeros((4, 5))
    for weight, k in zip(power[0].numpy(), frequency[0].numpy(), strict=True):
        wave_a, wave_b = (np.exp(2j * np.pi * k * direction @ at.T) for at in (a, b))
        damping = np.exp(-2 * np.pi**2 * k**2 * (width_a[:, None] ** 2 + width_b**2))
        expected += weight * damping * (wave_a.conj().T @ wave_b).real / len(direction)
    found = Slopes(torch.zeros(9), torch.zeros(9), power, frequency).curvature(a, b, width_a, width_b)
    np.testing.assert_allclose(found, expected, atol=0.03)


@pytest.mark.parametrize("high", [np.inf, 0.4])
def test_the_minimum_between_bounds_has_no_way_down(high):
    generator = np.random.default_rng(1)
    root = generator.normal(size=(12, 12))
    curvature, slope = root @ root.T + np.eye(12), 3 * generator.normal(size=12)
    a = minimise(curvature, slope, np.zeros(12), 0.0, high)
    gradient = curvature @ a - slope
    inside = (a > 0) & (a < high)
    assert np.abs(gradient[inside]).max(initial=0) < 1e-4
    assert (gradient[a == 0] > -1e-4).all()
    assert (gradient[a == high] < 1e-4).all()
    assert (a == 0).any()


@pytest.mark.parametrize("sharper", [0.0, 40.0])
def test_what_all_b_factors_share_is_no_residues(sharper):
    """Residues that are sharper or more blurred together, and those that differ, by slopes at B-factors of 0."""
    residue = np.repeat(np.arange(8), 2)
    curvature = 0.01 * (np.eye(16) + np.random.default_rng(0).uniform(0, 0.05, (16, 16)))
    kernels = [np.zeros((16, 16))] * 2 + [curvature + curvature.T]
    true = np.where(np.arange(8) < 4, 0.0, 100.0)
    slope = kernels[2] @ (true - sharper)[residue]
    unknown = Unknown("b_factor", 1, 150.0, 50.0, 0.0, 500.0, np.zeros(8), np.ones(16), slope)
    found, common = numbers_of_residues([unknown], residue, kernels)
    np.testing.assert_allclose(found["b_factor"], true, atol=2)
    assert common == pytest.approx(sharper, abs=2)


def test_amplitudes_that_nothing_could_judge_are_refused(simulated):
    for changes in ({"free": {"share": 0}}, {"calibration": {"shells": "none"}}):
        settings = run_settings(simulated, scattering={"surroundings": True}, **changes)
        with pytest.raises(InputError, match="judge what is found"):
            parse_config(settings, "test")


@pytest.fixture(scope="module")
def images(simulated, tmp_path_factory):
    """Images of the bent helices: with a belt, and with a faint end."""
    folder = tmp_path_factory.mktemp("nuisances")
    for name, nuisances in {
        "belt": Nuisances(belt=6.0),
        "faint": Nuisances(faint="A:17-24", occupancy=0.2),
    }.items():
        settings = SimulationSettings(
            images_per_conformation=100, box=40, pixel_size=2.5, dose=400, defocus=(5000, 9000), nuisances=nuisances
        )
        models, template = simulated / "ensemble.pdb", simulated / "straight.pdb"
        simulate_images(models, folder / name, settings, template=template)
    return folder


def trained(images, out, scattering, **changes):
    schedule = {"training": {"epochs": 5, "batch_size": 8}, "calibration": {"epochs": [0, 3]}}
    settings = run_settings(images, scattering=scattering, **(schedule | changes))
    return train(parse_config(settings, "test"), out)


def scattering_of(run):
    state = RunFolder(run.path).load_checkpoint()["reconstruction"]
    return state["beads.extra"], state["beads.factor"], state["beads.b_factor"]


def test_a_belt_is_found_where_it_is(images, tmp_path, caplog):
    caplog.set_level("INFO")
    run = trained(images / "belt", tmp_path / "run", {"surroundings": True})
    assert "density about the molecule: kept" in caplog.text
    extra, _, _ = scattering_of(run)
    template = read_template(RunFolder(run.path).template)
    places, _ = lattice(template.coordinates, ScatteringSettings(surroundings=True))
    belt = np.load(images / "belt" / "truth.npz")["belt"]
    distance = np.linalg.norm(places[:, None] - belt[None], axis=-1).min(1)
    amplitude = extra.numpy()
    assert amplitude[distance < 5].mean() > 5 * amplitude[distance > 10].mean()
    again = trained(images / "belt", tmp_path / "again", {"surroundings": True})
    assert_same_run(run.path, again.path)


def test_faint_residues_are_found(images, tmp_path, caplog):
    caplog.set_level("INFO")
    run = trained(images / "faint", tmp_path / "run", {"occupancy": True})
    assert "occupancy: kept" in caplog.text
    _, factor, _ = scattering_of(run)
    assert factor[18:].mean() < 0.7 * factor[:14].mean()


@pytest.fixture(scope="module")
def still(simulated, tmp_path_factory):
    """Images of the straight helices, which do not move: sharp, and with blurred residues."""
    folder = tmp_path_factory.mktemp("still")
    for name, nuisances in {"sharp": Nuisances(), "blurred": Nuisances(blurred="A:9-16", blur=200.0)}.items():
        settings = SimulationSettings(
            images_per_conformation=256, box=40, pixel_size=2.5, dose=2000, defocus=(5000, 9000), nuisances=nuisances
        )
        template = simulated / "straight.pdb"
        simulate_images(template, folder / name, settings, template=template)
    return folder


@pytest.mark.parametrize("occupancy", [False, True])
def test_blurred_residues_are_found(still, tmp_path, caplog, occupancy):
    """By their B-factors, up to what the prior takes off, and not as faint ones."""
    caplog.set_level("INFO")
    found = {}
    for name in ("sharp", "blurred"):
        scattering = {"b_factors": True, "occupancy": occupancy}
        run = trained(still / name, tmp_path / name, scattering, training={"epochs": 2}, calibration={"epochs": [0, 1]})
        _, *found[name] = scattering_of(run)
    what = "occupancy and B-factors" if occupancy else "B-factors"
    assert f"{what}: kept" in caplog.text
    (_, sharp), (factor, b_factor) = found["sharp"], found["blurred"]
    blurred = torch.arange(24).ge(8) & torch.arange(24).lt(16)
    assert 110 < b_factor[blurred].mean() < 220
    assert b_factor[~blurred].mean() < 30
    assert sharp.mean() < 30
    assert (factor - 1).abs().max() < (0.2 if occupancy else 1e-6)
    residues = [residue for chain in gemmi.read_structure(str(RunFolder(run.path).scattering))[0] for residue in chain]
    np.testing.assert_allclose([residue[0].b_iso for residue in residues], b_factor, atol=0.01)
    rows = dict(what_was_run(FittedRun(run.path), None, [])["rows"])
    assert f"B-factors {b_factor.min():.0f} to {b_factor.max():.0f}\u00a0Å²" in rows["scattering"]
