"""The plain scan, against every rotation compared by itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.geometry import angle_between
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.likelihood.matched_filter import MatchedFilter, MatchedFilterSettings
from cryomorph.scan import plain
from cryomorph.scan.grid import super_fibonacci
from cryomorph.scan.plain import PlainScan
from dense_likelihood import coarse_batch, coarse_beads, dense_misfit

GAIN = torch.tensor([0.6, 1.4])
ROTATIONS = torch.from_numpy(super_fibonacci(60)).float()
LIKELIHOODS = [(Direct, DirectSettings()), (MatchedFilter, MatchedFilterSettings())]

likelihoods = pytest.mark.parametrize(("kind", "settings"), LIKELIHOODS, ids=["direct", "matched_filter"])


def make(kind, settings):
    likelihood = kind(settings, 2)
    likelihood.gain.copy_(GAIN)
    return likelihood


def dense(batch, beads, gain):
    """Misfit (b, n) at every rotation, pixel by pixel."""
    columns = [
        dense_misfit(beads.positions.double().numpy(), beads, gain, replace(batch, rotation=rotation.expand(3, 3, 3)))
        for rotation in ROTATIONS
    ]
    return np.stack(columns, axis=1)


@likelihoods
def test_the_lowest_of_all_misfits_are_found(kind, settings):
    batch, beads = coarse_batch(24), coarse_beads()
    found = PlainScan(ROTATIONS).lowest(batch, beads, make(kind, settings), 7)
    expected = dense(batch, beads, GAIN.double().numpy())
    order = np.argsort(expected, axis=1)[:, :7]
    lowest = np.take_along_axis(expected, order, 1)
    np.testing.assert_allclose(found.misfit, lowest, atol=1e-3 * np.abs(expected).max())
    assert np.diff(lowest).min() > 0
    np.testing.assert_allclose(found.rotation, ROTATIONS.numpy()[order])
    assert torch.equal(found.shift, batch.shift[:, None].expand(-1, 7, -1))
    assert not found.conformation.any()


@likelihoods
def test_before_a_gain_is_known_the_best_scale_of_each_pose_is_taken(kind, settings):
    batch, beads = coarse_batch(24), coarse_beads()
    likelihood = make(kind, settings)
    found = PlainScan(ROTATIONS).lowest_normalised(batch, beads, likelihood, 60)
    at_one, at_two = (dense(batch, beads, np.full(2, scale)) for scale in (1.0, 2.0))
    power = at_two - 2 * at_one
    scale = np.linspace(0, 3, 1001)[:, None, None]
    best = np.sort((0.5 * scale**2 * power - scale * (0.5 * power - at_one)).min(0), axis=1)
    assert (best < 0).any()
    assert (best == 0).any()  # no scale that is not negative is better than an empty image
    np.testing.assert_allclose(found.misfit, best, atol=1e-3 * np.abs(best).max())
    likelihood.gain.fill_(1e-6)
    again = PlainScan(ROTATIONS).lowest_normalised(batch, beads, likelihood, 60)
    assert torch.equal(again.misfit, found.misfit)


@pytest.mark.parametrize("at_once", [1, 4, 50, 10_000])
def test_chunks_of_any_size_give_the_same(monkeypatch, at_once):
    batch, beads = coarse_batch(24), coarse_beads()
    expected = PlainScan(ROTATIONS).lowest(batch, beads, make(*LIKELIHOODS[0]), 9)
    monkeypatch.setattr(plain, "AT_ONCE", at_once)
    found = PlainScan(ROTATIONS).lowest(batch, beads, make(*LIKELIHOODS[0]), 9)
    torch.testing.assert_close(found.misfit, expected.misfit)
    assert torch.equal(found.rotation, expected.rotation)


def test_a_scan_leaves_the_sums_of_the_gain_as_they_are_and_keeps_no_graph():
    batch, beads = coarse_batch(24), coarse_beads()
    likelihood = make(*LIKELIHOODS[0])
    beads.positions.requires_grad_()
    for scan in (PlainScan(ROTATIONS).lowest, PlainScan(ROTATIONS).lowest_normalised):
        assert not scan(batch, beads, likelihood, 3).misfit.requires_grad
    assert not likelihood.cross_sum.any()
    assert not likelihood.power_sum.any()


def test_misfits_are_those_of_the_likelihood_with_scales_of_images_as_well():
    batch, beads = coarse_batch(24), coarse_beads()
    likelihood = make(Direct, DirectSettings(scale_spread=0.4))
    found = PlainScan(ROTATIONS).lowest(batch, beads, likelihood, 2)
    for place in range(2):
        again = likelihood(beads, found.rotation[:, place], found.shift[:, place], batch)
        torch.testing.assert_close(found.misfit[:, place], again)


def test_every_image_has_its_own_conformation():
    batch, beads = coarse_batch(24), coarse_beads()
    together = PlainScan(ROTATIONS).lowest(batch, beads, make(*LIKELIHOODS[0]), 5)
    for row in torch.arange(3).split(1):
        alone = PlainScan(ROTATIONS).lowest(
            batch[row], replace(beads, positions=beads.positions[row]), make(*LIKELIHOODS[0]), 5
        )
        torch.testing.assert_close(alone.misfit, together.misfit[row], rtol=1e-4, atol=1e-3)
        assert float(angle_between(alone.rotation.numpy(), together.rotation[row].numpy()).max()) < 1e-3
