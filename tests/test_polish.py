"""Poses of a scan, moved to the nearest optimum."""

from dataclasses import replace

import pytest
import roma
import torch

from cryomorph.scan.polish import polish
from scan_cases import molecule, particles, seen, windowed


@pytest.fixture(scope="module")
def clear(tmp_path_factory):
    """Clear images of one conformation."""
    beads = molecule()
    batch, gain = seen(beads, particles(images=8), 96, strength=1.5)
    likelihood, batch = windowed(batch, beads, gain, tmp_path_factory.mktemp("windows"))
    return likelihood, batch, replace(beads, positions=beads.positions.expand(8, -1, -1))


def away(batch, degrees, distance, seed=0):
    """Poses so far from the true ones."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.nn.functional.normalize(torch.randn(len(batch), 3, generator=generator), dim=1)
    move = torch.nn.functional.normalize(torch.randn(len(batch), 2, generator=generator), dim=1)
    turn = roma.rotvec_to_rotmat(torch.deg2rad(torch.tensor(degrees)) * axis)
    return batch.rotation @ turn, batch.shift + distance * move


def errors(batch, rotation, shift):
    angle = torch.rad2deg(roma.rotmat_geodesic_distance(rotation, batch.rotation))
    return angle, (shift - batch.shift).norm(dim=1)


def misfit_of(likelihood, beads, rotation, shift, batch):
    with torch.no_grad():
        return likelihood.misfit(*likelihood.terms(beads, rotation, shift, batch), batch)


@pytest.mark.parametrize("shifts", [True, False])
def test_poses_converge_to_the_optimum(clear, shifts):
    likelihood, batch, beads = clear
    start = away(batch, 4.0, 1.0 if shifts else 0.0)
    rotation, shift, misfit = polish(likelihood, beads, *start, batch, shifts=shifts)
    angle, distance = errors(batch, rotation, shift)
    assert angle.max() < 1
    assert distance.max() < 0.2
    torch.testing.assert_close(misfit, misfit_of(likelihood, beads, rotation, shift, batch), rtol=1e-5, atol=1e-2)
    assert (misfit < misfit_of(likelihood, beads, *start, batch)).all()
    assert (misfit < misfit_of(likelihood, beads, batch.rotation, batch.shift, batch) + 1).all()
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(8, 3, 3), rtol=0, atol=1e-5)
    if not shifts:
        assert torch.equal(shift, batch.shift)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_no_pose_gets_worse(clear, steps):
    """Not even where nothing is near."""
    likelihood, batch, beads = clear
    start = away(batch, 60.0, 6.0)
    before = misfit_of(likelihood, beads, *start, batch)
    *pose, misfit = polish(likelihood, beads, *start, batch, shifts=True, steps=steps)
    assert (misfit <= before + 1e-3).all()
    torch.testing.assert_close(misfit, misfit_of(likelihood, beads, *pose, batch), rtol=1e-5, atol=1e-2)


def test_sums_of_the_likelihood_and_graphs_are_left_alone(clear):
    likelihood, batch, beads = clear
    positions = beads.positions.clone().requires_grad_()
    with torch.no_grad():
        result = polish(likelihood, replace(beads, positions=positions), *away(batch, 2.0, 0.5), batch, shifts=True)
    assert not any(value.requires_grad for value in result)
    assert positions.grad is None
    assert not likelihood.cross_sum.any()
    assert not likelihood.power_sum.any()
