"""Approaching images without poses: towards what they show, and nowhere if they show nothing."""

import logging

import numpy as np
import pytest
import torch

from cryomorph.geometry import rmsd, superpose
from cryomorph.priors.bonds import BondsPrior, BondsPriorSettings
from cryomorph.priors.log_distance import LogDistancePrior, LogDistancePriorSettings
from cryomorph.search.approach import ApproachSettings, approach
from cryomorph.search.relaxing import relax
from cryomorph.structure.modes import displaced, template_modes

IMAGES = 200
SETTINGS = ApproachSettings(modes=6, rounds=10)


@pytest.fixture
def start(dimer):
    return torch.from_numpy(dimer.coordinates).float()


@pytest.fixture
def geometry(dimer):
    """The priors of distances, as strong as by default."""
    bonds, distances = BondsPrior(BondsPriorSettings(), dimer), LogDistancePrior(LogDistancePriorSettings(), dimer)
    rest = torch.from_numpy(dimer.coordinates)
    return lambda x: bonds(x, rest.to(x.dtype)) + distances(x, rest.to(x.dtype))


def bent(template, geometry, amplitudes):
    """A template bent along its softest modes, by Å rms, and relaxed."""
    moved = displaced(template.coordinates, template_modes(template, len(amplitudes)), amplitudes)
    return relax(torch.from_numpy(moved).float()[None], geometry, 30.0, 3.0)[0]


class Images:
    """Scores of images whose mean is least at a target: whatever the pose, with noise that depends on what moved."""

    def __init__(self, start, target=None, noise=1.0, seed=0):
        self.start, self.target = start.double().numpy(), target
        self.pull = noise * np.random.default_rng(seed).normal(size=(IMAGES, start.numel()))
        self.asked = 0

    def __call__(self, x):
        self.asked += len(x)
        points = x.double().numpy()
        rotation, translation = superpose(points, self.start)
        moved = points @ np.swapaxes(rotation, -1, -2) + translation[:, None] - self.start
        misfit = moved.reshape(len(x), -1) @ self.pull.T
        if self.target is not None:
            misfit += 10 * rmsd(points, self.target.double().numpy())[:, None] ** 2
        return torch.from_numpy(misfit).float()


def distance(a, b):
    return float(rmsd(a.double().numpy(), b.double().numpy()))


def bond_error(x, template):
    lengths = x.diff(dim=-2).norm(dim=-1).double().numpy()
    wanted = np.linalg.norm(np.diff(template.coordinates, axis=0), axis=1)
    return np.abs(lengths - wanted)[..., template.bonded].max()


def test_what_images_show_is_approached(dimer, start, geometry):
    target = bent(dimer, geometry, [4.0, -2.5, 1.5])
    assert distance(start, target) > 3  # Å
    path = approach(dimer, start, Images(start, target), geometry, SETTINGS)
    assert distance(path.conformations[-1], target) < 0.25 * distance(start, target)
    assert torch.equal(path.conformations[0], start)
    assert len(path.conformations) == len(path.misfit) > 1
    assert (path.misfit.diff() < 0).all()
    assert bond_error(path.conformations, dimer) < 0.3


@pytest.mark.parametrize("seed", range(5))
def test_noise_moves_nothing(dimer, start, geometry, seed):
    path = approach(dimer, start, Images(start, seed=seed), geometry, SETTINGS)
    assert len(path.conformations) == 1


def test_noise_that_is_loud_does_not_hide_the_target(dimer, start, geometry):
    target = bent(dimer, geometry, [4.0])
    path = approach(dimer, start, Images(start, target, noise=3.0), geometry, SETTINGS)
    assert distance(path.conformations[-1], target) < 2.0


def test_conformations_out_of_reach_are_never_chosen_and_tell_nothing(dimer, start, geometry):
    target = bent(dimer, geometry, [3.0, 2.0])
    images = Images(start, target)
    edge = float(start.norm(dim=-1).max()) + 0.5
    reached = []

    def score(x):
        misfit = images(x)
        outside = x.norm(dim=-1).amax(1) > edge
        misfit[outside] = torch.inf
        reached.append(bool(outside.any()))
        return misfit

    path = approach(dimer, start, score, geometry, SETTINGS)
    assert any(reached)
    assert len(path.conformations) > 1
    assert path.misfit.isfinite().all()
    assert path.conformations.isfinite().all()
    assert (path.conformations.norm(dim=-1) <= edge).all()


def test_nothing_in_reach_but_the_start(dimer, start, geometry):
    def score(x):
        return torch.full((len(x), IMAGES), 1.0 if torch.equal(x[0], start) else torch.inf)

    assert len(approach(dimer, start, score, geometry, SETTINGS).conformations) == 1


def test_a_start_out_of_reach_is_refused(dimer, start, geometry):
    with pytest.raises(ValueError, match="cannot be compared"):
        approach(dimer, start, lambda x: torch.full((len(x), IMAGES), torch.inf), geometry, SETTINGS)


def test_no_rounds_ask_for_the_start_alone(dimer, start, geometry):
    images = Images(start)
    path = approach(dimer, start, images, geometry, SETTINGS.model_copy(update={"rounds": 0}))
    assert torch.equal(path.conformations, start[None])
    assert images.asked == 1


def test_a_network_that_falls_apart_ends_the_approach(dimer, start, geometry, caplog):
    apart = start + 40 * torch.from_numpy(dimer.chain)[:, None]
    with caplog.at_level(logging.WARNING, "cryomorph"):
        path = approach(dimer, apart, Images(start), geometry, SETTINGS)
    assert torch.equal(path.conformations, apart[None])
    assert "of chain B" in caplog.text


def test_the_same_approach_twice(dimer, start, geometry):
    images = Images(start, bent(dimer, geometry, [3.0]))
    first, second = (approach(dimer, start, images, geometry, SETTINGS) for _ in range(2))
    assert torch.equal(first.conformations, second.conformations)


def test_progress_counts_conformations(dimer, start, geometry):
    class Counting:
        total = done = 0
        finished = False

        def start(self, description, total, unit="images"):
            self.total = total

        def advance(self, amount=1, note=""):
            self.done += amount

        def finish(self):
            self.finished = True

    images, progress = Images(start, bent(dimer, geometry, [3.0])), Counting()
    approach(dimer, start, images, geometry, SETTINGS, progress)
    assert progress.finished
    assert images.asked - 1 == progress.done <= progress.total


def test_relaxing_mends_bonds_and_keeps_the_displacement(dimer, start, geometry):
    modes = template_modes(dimer, 2)
    torn = torch.from_numpy(displaced(dimer.coordinates, modes, 5 * np.eye(2))).float()
    relaxed = relax(torn, geometry, 30.0, 3.0)
    assert bond_error(torn, dimer) > 1.0
    assert bond_error(relaxed, dimer) < 0.3
    assert all(distance(x, start) > 2 for x in relaxed)
    assert not relaxed.requires_grad


def test_conformations_relax_alone(dimer, geometry):
    torn = torch.from_numpy(displaced(dimer.coordinates, template_modes(dimer, 2), 4 * np.eye(2))).float()
    together = relax(torn, geometry, 30.0, 3.0)
    torch.testing.assert_close(relax(torn[1:], geometry, 30.0, 3.0), together[1:], rtol=0, atol=1e-4)
