"""Ellipsoidal support lifting as a pose source, against dense evaluation of images made with known poses."""

import json
import math
from dataclasses import replace

import gemmi
import numpy as np
import pytest
import torch

from cryomorph.config import parse_config
from cryomorph.errors import InputError
from cryomorph.geometry import angle_between
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.poses.esl import ESLPoses, ESLSettings
from cryomorph.run import RunFolder
from cryomorph.scan.grid import ProductGrid
from cryomorph.workflows import train
from dense_lifting import solved
from dense_likelihood import coarse_batch, coarse_beads, dense_images, dense_misfit
from small_runs import run_settings

IMAGES, WANTED = 3, 200
GAIN = np.array([0.6, 1.4])
PRODUCT = ProductGrid.of_at_least(WANTED)
ROTATIONS = len(PRODUCT)
GRID = PRODUCT.rotations(*np.divmod(np.arange(ROTATIONS), PRODUCT.in_plane))
TRUE = [17, 90, 151]
"""Rotations of the grid that the images show."""


@pytest.fixture(scope="module")
def beads():
    return coarse_beads(IMAGES)


@pytest.fixture(scope="module")
def batch(beads):
    """Images of beads in weak noise, without rotations."""
    posed = replace(coarse_batch(24, IMAGES), rotation=torch.from_numpy(GRID[TRUE]).float())
    clear = dense_images(beads.positions.double().numpy(), beads, GAIN, posed)
    return replace(posed, image=0.1 * posed.image + torch.from_numpy(clear).float(), rotation=None)


@pytest.fixture(scope="module")
def misfits(batch, beads):
    """At every rotation of the grid, pixel by pixel, (b, n)."""
    positions = beads.positions.double().numpy()
    turned = (replace(batch, rotation=torch.from_numpy(rotation).expand(IMAGES, 3, 3)) for rotation in GRID)
    return np.stack([dense_misfit(positions, beads, GAIN, one) for one in turned], axis=1)


def likelihood():
    made = Direct(DirectSettings(), 2)
    made.gain.copy_(torch.from_numpy(GAIN))
    return made


def source(particles=IMAGES, **settings):
    return ESLPoses(ESLSettings(rotations=WANTED, **settings), particles)


def on_grid(measure):
    """The measure as weights of all rotations of the grid, (b, n)."""
    weights = np.zeros((IMAGES, ROTATIONS))
    for image, (rotation, weight) in enumerate(zip(measure.rotation.numpy(), measure.weight.numpy(), strict=True)):
        number = angle_between(rotation[:, None], GRID[None]).argmin(1)
        np.add.at(weights[image], number, weight)
    return weights


@pytest.mark.parametrize(("j0", "eta"), [(15.0, 2 / 3), (6.0, 0.5)])
def test_measure_is_the_solution_of_the_lifted_problem_over_the_whole_grid(batch, beads, misfits, j0, eta):
    measure = source(j0=j0, eta=eta)(batch, beads, likelihood())
    expected = np.stack([solved(values, j0, eta) for values in misfits])
    np.testing.assert_allclose(on_grid(measure), expected, atol=2e-3)
    assert measure.weight.shape[1] == (expected > 0).sum(1).max()  # no rotation without weight for any image
    assert torch.equal(measure.shift, batch.shift[:, None].expand_as(measure.shift))


def test_the_true_pose_is_found_and_remembered_with_the_entropy(batch, beads):
    poses = source(particles=10)
    rows = torch.tensor([7, 2, 4])
    mine = replace(batch, index=rows)
    measure = poses(mine, beads, likelihood())
    rotation, shift = poses.best(mine)
    np.testing.assert_allclose(rotation, GRID[TRUE], atol=1e-6)
    assert torch.equal(shift, batch.shift)
    weight = measure.weight.double()
    expected = -torch.where(weight > 0, weight * weight.clamp(min=1e-300).log(), 0).sum(1)
    torch.testing.assert_close(poses.entropy(mine), expected.float())
    assert poses.known.nonzero()[:, 0].tolist() == [2, 4, 7]


def test_where_nothing_was_looked_for_nothing_is_known(batch):
    poses = source()
    assert not poses.known.any()
    assert torch.equal(poses.best(batch)[0], torch.eye(3).expand(IMAGES, 3, 3))
    torch.testing.assert_close(poses.entropy(batch), torch.full((IMAGES,), math.log(ROTATIONS)))


def test_the_first_measure_does_not_hang_on_the_gain(batch, beads):
    unknown = likelihood()
    unknown.gain.fill_(1e4)
    poses = source()
    measure, again = (poses.first_measure(batch, beads, made) for made in (likelihood(), unknown))
    assert torch.equal(measure.weight, again.weight)
    assert torch.equal(measure.rotation, again.rotation)
    np.testing.assert_allclose(poses.best(batch)[0], GRID[TRUE], atol=1e-6)


def test_weights_are_constants_to_the_objective(batch, beads):
    moving = replace(beads, positions=beads.positions.clone().requires_grad_())
    made = likelihood()
    measure = source()(batch, moving, made)
    assert not measure.weight.requires_grad
    assert not measure.rotation.requires_grad
    assert not made.power_sum.any()


def test_poses_survive_their_state_dict(batch, beads):
    poses, other = source(), source()
    poses(batch, beads, likelihood())
    other.load_state_dict(poses.state_dict())
    assert torch.equal(other.best(batch)[0], poses.best(batch)[0])
    assert torch.equal(other.entropy(batch), poses.entropy(batch))


def test_processes_hand_each_other_what_they_found(batch, beads):
    whole, first, second = source(), source(), source()
    whole(batch, beads, likelihood())
    for poses, rows in ((first, torch.tensor([0, 2])), (second, torch.tensor([1]))):
        poses(batch[rows], replace(beads, positions=beads.positions[rows]), likelihood())
    owned, sent = torch.tensor([True, False, True]), []
    first.gather(None, owned, lambda table: sent.append(table.clone()))
    second.gather(None, ~owned, lambda table: table.add_(sent.pop(0)))
    assert torch.equal(second.best(batch)[0], whole.best(batch)[0])
    torch.testing.assert_close(second.entropy(batch), whole.entropy(batch))


def test_settings_without_support_are_refused(simulated):
    with pytest.raises(InputError, match="no support"):
        parse_config(run_settings(simulated, poses={"kind": "esl", "rotations": 10**6, "j0": 1, "eta": 1}), "test")


def star_without_angles(simulated, path):
    document = gemmi.cif.read(str(simulated / "particles.star"))
    loop = next(block.find_loop("_rlnAngleRot").get_loop() for block in document if block.find_loop("_rlnAngleRot"))
    for name in ("Rot", "Tilt", "Psi"):
        loop.remove_column(f"_rlnAngle{name}")
    document.write_file(str(path))
    return path


def test_a_run_needs_no_poses_and_ends_with_those_it_found(simulated, tmp_path):
    """The axis of the helix is found in the plane of the image; how it is turned about itself hardly shows."""
    star = star_without_angles(simulated, tmp_path / "unposed.star")
    settings = run_settings(
        simulated,
        particles={"path": str(star), "datadir": str(simulated)},
        poses={"kind": "esl", "rotations": 400},
    )
    run = train(parse_config(settings, "test"), tmp_path / "run")
    found = run.load_poses()
    with np.load(simulated / "truth.npz") as truth:
        axes = found.rotation[:, :2, 2], truth["rotation"][:, :2, 2]
    along = np.abs((axes[0] * axes[1]).sum(1)) / np.linalg.norm(axes[0], axis=1) / np.linalg.norm(axes[1], axis=1)
    assert np.degrees(np.arccos(np.median(along))) < 15
    assert (found.entropy > 0).all()
    assert found.entropy.max() <= math.log(15) + 1e-6
    assert run.calibration.is_file()  # with the poses that the first gain was estimated with
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert all(row["gain"] > 0 and row["misfit"] < 0 for row in rows)
    assert RunFolder(run.path).load_checkpoint()["reconstruction"]["poses.found_rotation"].any()
