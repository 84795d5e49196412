"""The posterior over all poses and conformations, against sums over many more of them by the direct likelihood."""

import math
from dataclasses import replace

import numpy as np
import pytest
import roma
import torch

from cryomorph.components import Settings
from cryomorph.conformations.base import ConformationModel
from cryomorph.latents.table import TableLatents, TableLatentsSettings
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.poses.search import SearchedPoses, SearchedPosesSettings
from cryomorph.reconstruction import Reconstruction
from cryomorph.scan.fast import RingScan
from cryomorph.scan.grid import ProductGrid, super_fibonacci
from cryomorph.search.everywhere import latent_density, look_everywhere, squared_distance, weigh
from cryomorph.search.joint import JointSearch, SearchSettings
from cryomorph.search.library import Library
from cryomorph.search.modes import Objective, climb
from cryomorph.structure.beads import Beads
from scan_cases import molecule, particles, seen, windowed

BOX, WIDTH, BEADS = 32, 6.0, 24
PLACES = torch.linspace(-2.4, 2.4, 9)[:, None]
"""Latents of the library."""


class Swinging(ConformationModel):
    """Moves every third pair of residues along z, 5 Å for one unit of the only latent coordinate."""

    Settings = Settings

    def __init__(self, template) -> None:
        torch.nn.Module.__init__(self)
        self.latent_dim = 1
        self.register_buffer("template", template)

    def displacement(self, z):
        moved = torch.zeros(len(z), *self.template.shape, dtype=z.dtype)
        moved[:, torch.arange(len(self.template)) // 2 % 3 == 0, 2] = 5 * z
        return moved


class Balls(torch.nn.Module):
    """A bead at each residue."""

    def forward(self, x):
        return Beads(x, torch.ones(x.shape[1]), torch.full((x.shape[1],), WIDTH))


class Prepared(JointSearch):
    """A search whose library is given."""

    def learned(self, source):
        scan = self._scan(self._grid)
        return scan, Library.free(PLACES, self.reconstruction.conformations(PLACES))


class Source:
    """Batches of few particles."""

    def __init__(self, batch) -> None:
        self.particles = batch

    def __len__(self) -> int:
        return len(self.particles)

    def batch(self, rows):
        return self.particles[torch.from_numpy(rows)]


def shape(symmetric=False):
    """Residues of a lopsided molecule, or of one that looks the same after half a turn about z."""
    positions = molecule(beads=BEADS, seed=2).positions[0]
    if symmetric:
        half = positions[: BEADS // 2]
        positions = torch.stack([half, half * torch.tensor([-1.0, -1.0, 1.0])], dim=1).flatten(0, 1)
    return positions


def make(folder, strength, *, z=0.3, images=3, template=None, settings=None):
    """A search in images of one conformation, true poses taken as found; images and gain for other likelihoods."""
    model = Swinging(shape() if template is None else template)
    shown = Balls()(model(torch.full((1, 1), z)))
    batch = particles(BOX, images=images, pixel_sizes=(4.0,), seed=4)
    with torch.no_grad():
        pictures, gain = seen(shown, batch, BOX, strength=strength, seed=1)
        likelihood, windows = windowed(
            pictures, Balls()(model(torch.zeros(1, 1))), gain, folder, scale_spread=0.0, margin=30.0
        )
    # Shifts are known: priors this narrow leave nothing of them open.
    poses = SearchedPoses(SearchedPosesSettings(shift_spread=0.01), images)
    poses.rotation.copy_(batch.rotation)
    poses.shift.copy_(batch.shift)
    reconstruction = Reconstruction(model, Balls(), poses, likelihood, [], 0.0)
    latents = TableLatents(TableLatentsSettings(), {"shape": slice(0, 1)}, images)
    torch.nn.init.constant_(latents.table.weight, z)
    settings = SearchSettings(**({"directions": 150, "in_plane": 30} | (settings or {})))
    source = Source(windows)
    none = np.empty((0, BEADS, 3))
    return Prepared(settings, reconstruction, latents, source, range(BEADS), none, seed=0), pictures


@torch.no_grad()
def densely(search, images, rotations):
    """Logarithm of the posterior of each image at rotations (n, 3, 3) and the library's places, (b, n, L)."""
    direct = Direct(DirectSettings(scale_spread=0.0), 1)
    direct.gain.copy_(search.likelihood.gain)
    beads = Balls()(search.reconstruction.conformations(PLACES))
    parts = torch.split(torch.arange(len(rotations)), 1000)
    every = []
    for number in range(len(images)):
        for place in range(len(PLACES)):
            for part in parts:
                many = images[torch.full_like(part, number)]
                molecules = replace(beads, positions=beads.positions[place : place + 1].expand(len(part), -1, -1))
                every.append(direct.misfit(*direct.terms(molecules, rotations[part], many.shift, many), many))
    misfit = torch.cat(every).view(len(images), len(PLACES), -1).transpose(1, 2).double()
    log = latent_density(PLACES, 1.0) - misfit
    return log - log.flatten(1).logsumexp(1)[:, None, None]


def far(rotations, pose):
    return torch.rad2deg(roma.rotmat_geodesic_distance(rotations[None], pose[:, None])) > 15


@torch.no_grad()
def dense_mode(search, images, mode, number):
    """Logarithm of the mass within 22 degrees and all of the latents about a mode of one image, by the direct
    likelihood."""
    direct = Direct(DirectSettings(scale_spread=0.0), 1)
    direct.gain.copy_(search.likelihood.gain)
    step = math.radians(2.5)
    axis = step * torch.arange(-8.0, 9.0)
    turns = torch.cartesian_prod(axis, axis, axis)
    turns = turns[turns.norm(dim=1) < math.radians(22)]
    z = torch.linspace(-3, 3, 25)[:, None]
    rotations = mode.rotation[number] @ roma.rotvec_to_rotmat(turns)
    x = search.reconstruction.conformations(z)
    values = []
    for part, near in zip(torch.split(rotations, 200), torch.split(turns, 200), strict=True):
        pair = torch.cartesian_prod(torch.arange(len(part)), torch.arange(len(z)))
        many = images[torch.full((len(pair),), number)]
        terms = direct.terms(Balls()(x[pair[:, 1]]), part[pair[:, 0]], many.shift, many)
        haar = torch.sinc(near.norm(dim=1) / (2 * math.pi)).square().log()
        prior = -0.5 * z[:, 0].square() - 0.5 * math.log(2 * math.pi)
        values.append((haar[:, None] + prior - direct.misfit(*terms, many).view(len(part), -1)).flatten())
    log_cell = 3 * math.log(step) + math.log(0.25) - math.log(8 * math.pi**2)
    return float(torch.cat(values).double().logsumexp(0)) + log_cell


ALONG = np.ones((1, 1), np.float32)
"""Directions of latent space: all."""


@pytest.mark.parametrize(("strength", "tolerance"), [(0.3, 0.5), (0.7, 0.15)])
@torch.no_grad()
def test_a_climbed_mode_has_the_mass_of_a_dense_sum(strength, tolerance, tmp_path):
    """The narrower it is the more it is like a normal distribution, which is all that is approximate here."""
    search, images = make(tmp_path, strength, images=1)
    batch = search.stack.particles
    objective = Objective(search.reconstruction, torch.ones(1, 1), 1.0, 0.01, 0.0)
    mode = climb(objective, *search.poses.best(batch), search.latents(batch), batch)
    assert mode.turn < math.radians(3)
    assert float(mode.log_mass) == pytest.approx(dense_mode(search, images, mode, 0), abs=tolerance)


@torch.no_grad()
def test_sums_over_the_grid_are_those_of_all_its_poses(tmp_path):
    search, _ = make(tmp_path, 0.2)
    batch, grid = search.stack.particles, ProductGrid(20, 12)
    scan = RingScan(search.likelihood, grid, shift_range=8.0, shift_step=8.0)
    beads = Balls()(search.reconstruction.conformations(PLACES[3:6]))
    every = scan.lowest(scan.see(batch), beads, 3 * len(scan))
    parts = torch.randint(3, (3, 12, 20), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    gain = search.likelihood.gain[batch.optics_group]
    log_sum, mean = scan.masses(scan.see(batch), beads, gain, parts, 4, every.misfit[:, 0])
    rotations = torch.from_numpy(grid.rotations(*np.divmod(np.arange(240), 12)))
    which = (every.rotation[:, :, None] - rotations).abs().sum((3, 4)).argmin(2)  # direction by direction
    part = parts.transpose(1, 2).flatten(1).gather(1, which)
    for conformation in range(3):
        for number in range(3):
            mine = (every.conformation == conformation) & (part == number)
            misfit = every.misfit.double()
            expected = (-misfit).masked_fill(~mine, -torch.inf).logsumexp(1)
            torch.testing.assert_close(log_sum[:, conformation, number], expected, atol=1e-3, rtol=0)
            weight = torch.exp(-misfit - expected[:, None]) * mine
            torch.testing.assert_close(mean[:, conformation, number], (weight * misfit).sum(1), atol=1e-3, rtol=0)
    assert (log_sum[:, :, 3] == -torch.inf).all()


def test_broad_posteriors_are_those_of_a_dense_sum(tmp_path):
    """Weak images: neither grid misses anything, and two of different rotations agree."""
    search, images = make(tmp_path, 0.1, images=2, settings={"directions": 250, "in_plane": 36})
    found = look_everywhere(search, search.stack, ALONG)
    rotations = torch.from_numpy(super_fibonacci(4000)).float()
    log = densely(search, images, rotations)
    elsewhere = (log.exp().sum(2) * far(rotations, search.poses.rotation)).sum(1)
    np.testing.assert_allclose(found.elsewhere, elsewhere, atol=0.01)
    members = log.exp().sum(1)
    np.testing.assert_allclose(found.conformations, torch.special.entr(members).sum(1).exp(), rtol=0.02)
    states = math.log(search.settings.directions * search.settings.in_plane / len(rotations))
    # Of the second image one mode is climbed, and counts as one pose.
    poses = torch.special.entr(log.exp()).sum((1, 2)) - torch.special.entr(members).sum(1)
    np.testing.assert_allclose(found.entropy[0], poses[0] + states, atol=0.1)
    assert found.elsewhere.min() < 0.985  # the images say something: without them it is 0.999


@pytest.mark.parametrize("symmetric", [False, True])
def test_clear_images_leave_one_pose_or_those_that_look_the_same(symmetric, tmp_path):
    search, _ = make(tmp_path, 0.7, template=shape(symmetric))
    found = look_everywhere(search, search.stack, ALONG)
    np.testing.assert_allclose(found.elsewhere, 0.5 if symmetric else 0.0, atol=0.01)
    np.testing.assert_allclose(found.entropy, math.log(2) if symmetric else 0.0, atol=0.01)
    np.testing.assert_allclose(found.kept, 1, atol=1e-3)


def test_conformations_elsewhere_are_uncertainty_where_they_differ(tmp_path):
    """Half of the probability is in the symmetric pose, and the particles have other latents than there."""
    search, _ = make(tmp_path, 0.7, template=shape(symmetric=True), images=1)
    batch = search.stack.particles
    objective = Objective(search.reconstruction, torch.ones(1, 1), 1.0, 0.01, 0.0)
    with torch.no_grad():
        mode = climb(objective, *search.poses.best(batch), search.latents(batch), batch)
        torch.nn.init.constant_(search.latents.table.weight, 1.5)
        x, own = (search.reconstruction.conformations(z) for z in (mode.latents, search.latents(batch)))
    found = look_everywhere(search, search.stack, ALONG)
    expected = 0.5 * float(squared_distance(x, own).mean())
    assert expected > 0.5
    assert found.square[0] == pytest.approx(expected, rel=0.05)
    assert found.residues.mean() == pytest.approx(found.square[0], rel=1e-4)


def test_noise_leaves_the_prior(tmp_path):
    search, _ = make(tmp_path, 0.01)
    found = look_everywhere(search, search.stack, ALONG)
    ball = (math.radians(15) - math.sin(math.radians(15))) / math.pi
    np.testing.assert_allclose(found.elsewhere, 1 - ball, atol=1e-3)
    prior = torch.special.entr(latent_density(PLACES, 1.0).exp()).sum()
    np.testing.assert_allclose(found.conformations, float(prior.exp()), rtol=0.02)
    poses = math.log(search.settings.directions * search.settings.in_plane)
    np.testing.assert_allclose(found.entropy, poses, atol=0.1)
    assert np.abs(found.square - distances_of_prior(search)).max() < 0.1 * found.square.min()


def distances_of_prior(search):
    """Mean over the prior of square distances to the conformation that particles have, Å², superposed."""
    model = search.reconstruction.conformations
    with torch.no_grad():
        own = model(search.latents(search.stack.particles))[:1]
        each = [squared_distance(model(place[None]), own).mean() for place in PLACES]
    return float((torch.stack(each) * latent_density(PLACES, 1.0).exp()).sum())


def test_places_are_weighed_by_the_prior_and_by_what_they_stand_for():
    z = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [3.0, 0.0]])
    expected = torch.tensor([0.5 * math.exp(-1.0), 2.0, 1.5 * math.exp(-9.0)], dtype=torch.float64)
    torch.testing.assert_close(latent_density(z, 2.0).exp(), expected / expected.sum())
    assert latent_density(z[:1], 2.0) == 0


def test_climbed_modes_count_in_place_of_their_part_of_the_grid():
    """Two conformations; two modes, of which the first is climbed and the second left to the grid, and the rest."""
    grid = torch.tensor([[[0.1, 0.5, 0.3], [0.3, 1.5, 0.7]]], dtype=torch.float64)
    surprise = torch.log(torch.full_like(grid, 10.0))
    modes, narrow = torch.tensor([[1.0, 77.0]], dtype=torch.float64), torch.tensor([[True, False]])
    weights = weigh(modes.log(), narrow, grid.log(), surprise)
    torch.testing.assert_close(weights.modes, torch.tensor([[0.25, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(weights.elsewhere, torch.tensor([0.75], dtype=torch.float64))
    members = torch.tensor([[0.25 * 0.25 + 0.8 / 4, 0.25 * 0.75 + 2.2 / 4]], dtype=torch.float64)
    torch.testing.assert_close(weights.members, members)
    # Poses of a mass of 0.1: of a conformation with a mass of 0.7 there are seven.
    within = 0.5 * math.log(5) + 1.5 * math.log(15) + 0.3 * math.log(3) + 0.7 * math.log(7)
    shares = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    expected = float(torch.special.entr(shares).sum()) + within / 4
    torch.testing.assert_close(weights.entropy, torch.tensor([expected], dtype=torch.float64))
