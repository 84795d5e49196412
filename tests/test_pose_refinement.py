"""Corrections of poses: against the exponential map of SciPy, by hand, and by finite differences."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.errors import InputError
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.poses._corrections import CorrectionSettings, PoseCorrections
from cryomorph.poses.known import KnownPoses, KnownPosesSettings
from cryomorph.poses.refine import RefinedPoses, RefinedPosesSettings
from dense_likelihood import coarse_batch, coarse_beads

PARTICLES = 12
SETTINGS = CorrectionSettings(rotation_spread=4.0, shift_spread=1.5)


def bases(count=PARTICLES, seed=0):
    """Random base poses, in double precision."""
    generator = np.random.default_rng(seed)
    rotation = torch.from_numpy(Rotation.random(count, rng=generator).as_matrix())
    return rotation, torch.from_numpy(generator.normal(size=(count, 2)))


def corrections(u=None):
    made = PoseCorrections(SETTINGS, PARTICLES).double()
    if u is not None:
        made.table.weight.data = torch.as_tensor(u)
    return made


def random_rows(seed=1):
    return np.random.default_rng(seed).normal(size=(PARTICLES, 5))


def all_rows():
    return torch.arange(PARTICLES)


def test_poses_start_as_they_are_given():
    batch = coarse_batch(24)
    source = RefinedPoses(RefinedPosesSettings(), 3)
    measure = source(batch, coarse_beads(), Direct(DirectSettings(), 2))
    assert torch.equal(measure.rotation[:, 0], batch.rotation)
    assert torch.equal(measure.shift[:, 0], batch.shift)
    assert torch.equal(measure.weight, torch.ones(3, 1))
    assert torch.equal(source.cost(batch), torch.zeros(3))


def test_a_correction_is_a_rotation_of_the_map_frame_and_a_shift_of_the_image():
    (rotation, shift), u = bases(), random_rows()
    turned, moved = corrections(u)(all_rows(), rotation, shift)
    expected = Rotation.from_matrix(rotation.numpy()) * Rotation.from_rotvec(np.deg2rad(4.0) * u[:, :3])
    np.testing.assert_allclose(turned.detach(), expected.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(moved.detach(), shift.numpy() + 1.5 * u[:, 3:], atol=1e-12)


def test_rows_are_those_of_the_particles_and_cost_what_the_prior_says():
    (rotation, shift), made = bases(), corrections(random_rows())
    rows = torch.tensor([7, 2])
    for some, every in zip(made(rows, rotation[rows], shift[rows]), made(all_rows(), rotation, shift), strict=True):
        torch.testing.assert_close(some, every[rows])
    np.testing.assert_allclose(made.cost(rows).detach(), 0.5 * (random_rows()[[7, 2]] ** 2).sum(1))


def test_corrections_pass_exact_gradients_also_where_they_are_zero():
    rotation, shift = bases(4)
    for rows in (np.zeros((4, 5)), random_rows()[:4]):
        made = PoseCorrections(SETTINGS, 4).double()

        def corrected(u, made=made):
            made.table.forward = lambda index: u
            return made(torch.arange(4), rotation, shift)

        assert torch.autograd.gradcheck(corrected, torch.from_numpy(rows).requires_grad_())


def test_the_misfit_follows_its_slope_by_the_corrections():
    batch, beads = coarse_batch(24), coarse_beads()
    likelihood = Direct(DirectSettings(), 2)
    source = RefinedPoses(RefinedPosesSettings(), 3)
    torch.nn.init.normal_(source.corrections.table.weight, std=0.5)

    def misfit():
        return likelihood(beads, *source.best(batch), batch).sum()

    misfit().backward()
    table = source.corrections.table.weight
    slope = table.grad.to_dense()
    for place in np.ndindex(3, 5):
        ends = []
        for step in (0.05, -0.05):
            before = table[place].item()
            with torch.no_grad():
                table[place] = before + step
                ends.append(misfit().item())
                table[place] = before
        assert slope[place].item() == pytest.approx(
            (ends[0] - ends[1]) / 0.1, rel=0.02, abs=0.01 * float(slope.abs().max())
        )


def test_corrections_are_learned_when_a_share_of_the_training_is_done():
    batch, beads = coarse_batch(24), coarse_beads()
    source = RefinedPoses(RefinedPosesSettings(start=0.4), 3)
    for done, learning in ((0.0, False), (0.39, False), (0.4, True), (1.0, True)):
        source.done = done
        measure = source(batch, beads, Direct(DirectSettings(), 2))
        for part in (measure.rotation, measure.shift, source.cost(batch)):
            assert part.requires_grad is learning
        assert torch.equal(measure.rotation[:, 0], batch.rotation)


def test_a_motion_of_the_molecule_is_taken_out_and_nothing_else():
    """The same rotation of all, and the shifts that a translation of the molecule makes."""
    rotation, _ = bases()
    turn, move = np.array([0.3, -0.2, 0.5]), np.array([1.0, 2.0, -0.7])
    made = corrections(np.hstack([np.tile(turn, (PARTICLES, 1)), rotation.numpy()[:, :2] @ move]))
    made.remove_common([(all_rows(), rotation)], lambda *tensors: None)
    np.testing.assert_allclose(made.table.weight.detach(), 0, atol=1e-12)

    made = corrections(random_rows())
    made.remove_common([(all_rows(), rotation)], lambda *tensors: None)
    left = made.table.weight.detach().clone()
    np.testing.assert_allclose(left[:, :3], random_rows()[:, :3] - random_rows()[:, :3].mean(0))
    np.testing.assert_allclose(np.einsum("bki,bk->i", rotation[:, :2], left[:, 3:]), 0, atol=1e-12)
    made.remove_common([(all_rows(), rotation)], lambda *tensors: None)
    torch.testing.assert_close(made.table.weight.detach(), left)


def test_a_motion_of_the_molecule_is_the_same_for_all_processes():
    rotation, _ = bases()
    whole, rank0, rank1 = (corrections(random_rows()) for _ in range(3))
    whole.remove_common([(all_rows()[:7], rotation[:7]), (all_rows()[7:], rotation[7:])], lambda *tensors: None)
    own, sums = (all_rows()[::2], all_rows()[1::2]), []
    copy.deepcopy(rank0).remove_common([(own[0], rotation[own[0]])], lambda *tensors: sums.extend(tensors))
    rank1.remove_common(
        [(own[1], rotation[own[1]])],
        lambda *tensors: [mine.add_(other) for mine, other in zip(tensors, sums, strict=True)],
    )
    torch.testing.assert_close(rank1.table.weight[own[1]], whole.table.weight[own[1]])
    assert torch.equal(rank1.table.weight[own[0]], rank0.table.weight[own[0]])


def test_rows_whose_base_is_new_start_again():
    made = PoseCorrections(SETTINGS, PARTICLES)
    optimizer = made.optimizer()
    (made.cost(all_rows()) + made.table(all_rows()).sum(1)).sum().backward()
    optimizer.step()
    assert (made.table.weight == -SETTINGS.learning_rate).all()
    made.restart(optimizer, torch.tensor([3]))
    moved = made.table.weight != 0
    assert (~moved).all(1).nonzero().tolist() == [[3]]
    assert (optimizer.state[made.table.weight]["steps"] == 0).flatten().nonzero().tolist() == [[3]]


@pytest.mark.parametrize(("cls", "settings"), [(KnownPoses, KnownPosesSettings), (RefinedPoses, RefinedPosesSettings)])
def test_particles_without_poses_are_an_input_error(cls, settings):
    batch = replace(coarse_batch(24), rotation=None)
    with pytest.raises(InputError, match="the particles have no poses"):
        cls(settings(), 3)(batch, coarse_beads(), Direct(DirectSettings(), 2))
