"""How well seen and unseen coefficients are explained, against sums written out and what noise must give."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryomorph.held_out import Explained, HeldOut, gain
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.poses.known import KnownPoses, KnownPosesSettings
from cryomorph.selection import FreeSettings, Selection
from particle_arrays import ArrayStack
from test_likelihood import make_batch, make_beads

BOX, CPU = 32, torch.device("cpu")


class Still(torch.nn.Module):
    """Latents, conformations and beads in one: every image shows the same beads."""

    sees_images = False

    def __init__(self, beads):
        super().__init__()
        self.beads = beads

    def forward(self, batch):
        return torch.zeros(len(batch), 1)


def held_out(batch, beads, *, share=0.25, spread=0.0, calibration=None, model_gain=1.0):
    """Compare a batch with beads that are the same in every image."""
    likelihood = Direct(DirectSettings(scale_spread=spread), 1).double()
    likelihood.calibration = calibration
    likelihood.gain.fill_(model_gain)
    settings = FreeSettings(share=share)
    selection = Selection.work(BOX, settings, 0)
    likelihood.selection = selection
    reconstruction = SimpleNamespace(
        likelihood=likelihood,
        conformations=lambda z: z,
        beads=lambda z: beads.__class__(beads.positions[:1].expand(len(z), -1, -1), beads.amplitude, beads.width),
        poses=KnownPoses(KnownPosesSettings(), len(batch)),
    )
    owned = np.ones(len(batch), dtype=bool)
    return HeldOut(reconstruction, Still(beads), ArrayStack(batch), selection, len(batch), owned, CPU)


def expected_misfit(comparison, batch, beads, selection):
    """Misfit of each image by the likelihood itself, of coefficients that a selection leaves."""
    likelihood = comparison.reconstruction.likelihood
    before, likelihood.selection = likelihood.selection, selection
    same = beads.__class__(beads.positions[:1].expand(len(batch), -1, -1), beads.amplitude, beads.width)
    misfit = likelihood.misfit(*likelihood.terms(same, batch.rotation, batch.shift, batch), batch)
    likelihood.selection = before
    return misfit.numpy()


@pytest.mark.parametrize("calibrated", [False, True])
def test_work_and_free_are_the_likelihood_s_own_misfits(calibrated):
    batch, beads = make_batch(BOX, images=8), make_beads(1)
    generator = torch.Generator().manual_seed(0)
    shells = ShellCalibration(*(0.5 + torch.rand(2, 1, 16, generator=generator, dtype=torch.float64)))
    comparison = held_out(batch, beads, calibration=shells if calibrated else None, model_gain=0.3)
    found, selection = comparison.measure(), comparison.selection
    work, free = (expected_misfit(comparison, batch, beads, part) for part in (selection, selection.complement))
    np.testing.assert_allclose(found.work.sum(1), -work * 4 / 3, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.free.sum(1), -free * 4, rtol=1e-5, atol=1e-6)
    again = comparison.measure()  # with the coefficients that were kept
    np.testing.assert_array_equal(found.free, again.free)


def test_scales_are_found_from_what_was_seen_alone():
    batch, beads = make_batch(BOX, images=8), make_beads(1)
    comparison = held_out(batch, beads, spread=0.5, model_gain=0.1)
    first = comparison.measure()
    likelihood = comparison.reconstruction.likelihood
    same = beads.__class__(beads.positions[:1].expand(8, -1, -1), beads.amplitude, beads.width)
    cross, power = likelihood.terms(same, batch.rotation, batch.shift, batch)
    scale = likelihood.scale(cross, power, batch)
    np.testing.assert_allclose(
        first.work.sum(1), (scale * cross - 0.5 * scale.square() * power).numpy() * 4 / 3, rtol=1e-5
    )


def test_pure_noise_is_explained_worse_than_by_nothing_where_it_was_not_fitted():
    """The expectation is known: half the power that the model puts there."""
    images = 600
    batch, beads = make_batch(BOX, images=images), make_beads(1)
    comparison = held_out(batch, beads, model_gain=0.4)
    free = comparison.measure().free.sum(1)
    same = beads.__class__(beads.positions[:1].expand(images, -1, -1), beads.amplitude, beads.width)
    power = comparison.reconstruction.likelihood.gain.item() ** 2 * np.mean(
        Direct(DirectSettings(), 1).terms(same, batch.rotation, batch.shift, batch)[1].numpy()
    )
    assert abs(free.mean() + 0.5 * power) < 4 * free.std() / np.sqrt(len(free))


def test_the_gain_is_that_of_the_same_images():
    generator = np.random.default_rng(0)
    noise = 100 * generator.standard_normal((500, 3))
    change = 0.2 + 0.1 * generator.standard_normal((500, 3))
    before, after = Explained(noise, noise), Explained(noise, noise + change)
    found, error = gain(after, before)
    assert found == pytest.approx(change.sum(1).mean())
    assert error == pytest.approx(change.sum(1).std(ddof=1) / np.sqrt(500))
    assert abs(found - 0.6) < 4 * error


def test_the_summary_is_the_mean_over_images():
    comparison = held_out(make_batch(BOX, images=8), make_beads(1))
    (found, free), measured = comparison.summary(lambda *tensors: None), comparison.measure()
    np.testing.assert_array_equal(free.numpy(), measured.free.sum(1))
    for name, values in (("work", measured.work), ("free", measured.free)):
        assert found[name] == pytest.approx(values.sum(1).mean(), abs=1e-4)
        assert found[f"{name}_shells"] == pytest.approx(values.mean(0).tolist(), rel=1e-3, abs=1e-6)


def test_there_is_no_summary_without_poses():
    comparison = held_out(make_batch(BOX, images=8), make_beads(1))
    comparison.reconstruction.poses = SimpleNamespace(
        known=torch.zeros(8, dtype=torch.bool), best=lambda batch: (batch.rotation, batch.shift)
    )
    means, free = comparison.summary(lambda *tensors: None)
    assert not means
    assert not len(free)


def test_gain_is_a_mean_and_its_error():
    before = Explained(np.zeros((4, 2)), np.zeros((4, 2)))
    after = Explained(before.work, np.array([[1.0, 0.0], [2.0, 0.0], [1.0, 2.0], [0.0, 4.0]]))
    mean, error = gain(after, before)
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert (mean, error) == pytest.approx((values.mean(), values.std(ddof=1) / 2))
    none = Explained(*np.zeros((2, 0, 3)))
    assert gain(none, none) == (0.0, float("inf"))
