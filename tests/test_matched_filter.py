"""The matched-filter likelihood, against the direct one: the same sums, from a window instead of the image."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryomorph.likelihood import _cut
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.likelihood.matched_filter import MatchedFilter, MatchedFilterSettings
from cryomorph.optics import CTFParameters
from cryomorph.particles.batch import ParticleBatch
from particle_arrays import ArrayStack
from test_likelihood import make_batch, make_beads

GROUPS = 2
ENGINES = ["torch", "numba"]


def single(batch_or_beads):
    """Return the same in single precision."""
    values = {
        name: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in vars(batch_or_beads).items()
    }
    if isinstance(batch_or_beads, ParticleBatch):
        values["ctf"] = CTFParameters(**{name: value.float() for name, value in vars(batch_or_beads.ctf).items()})
    return replace(batch_or_beads, **values)


def terms_and_gradients(likelihood, beads, batch, moved=0.0):
    """Return both terms, and the gradients of a mixture of them by positions, shifts and rotations."""
    positions, rotation = beads.positions.clone().requires_grad_(), batch.rotation.clone().requires_grad_()
    shift = (batch.shift + moved).clone().requires_grad_()
    cross, power = likelihood.terms(replace(beads, positions=positions), rotation, shift, batch)
    gradients = torch.autograd.grad((cross - 0.3 * power).sum(), (positions, shift, rotation))
    return [cross.detach(), power.detach(), *gradients]


def assert_agree(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * float(b.abs().max()))


def shells(box, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise, signal = (0.5 + torch.rand(GROUPS, (box + 1) // 2, generator=generator) for _ in range(2))
    return ShellCalibration(noise, signal)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize(("box", "seed"), [(24, 0), (25, 1), (48, 2), (63, 3), (80, 4)])
def test_terms_and_gradients_are_those_of_the_direct_likelihood(box, seed, calibrated, engine):
    """Random defocus, astigmatism, phase shift, envelope, pixel sizes, widths; shifts other than the known ones."""
    batch, beads = make_batch(box, groups=GROUPS, seed=seed), make_beads(beads=30, seed=seed)
    exact, matched = Direct(DirectSettings(), GROUPS), MatchedFilter(MatchedFilterSettings(engine=engine), GROUPS)
    if calibrated:
        exact.calibration = matched.calibration = shells(box)
    expected = terms_and_gradients(exact, beads, batch, moved=1.3)
    assert_agree(terms_and_gradients(matched, single(beads), single(batch), moved=1.3), expected, 3e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_narrow_beads_too(engine):
    """Atoms are far narrower than a pixel: nothing of them fades out before Nyquist."""
    batch, beads = make_batch(48, seed=5), make_beads(beads=30)
    beads = replace(beads, width=0.4 + 0.1 * torch.rand(30, generator=torch.Generator().manual_seed(1)).double())
    expected = terms_and_gradients(Direct(DirectSettings(), 1), beads, batch)
    matched = MatchedFilter(MatchedFilterSettings(engine=engine), 1)
    assert_agree(terms_and_gradients(matched, single(beads), single(batch)), expected, 5e-5)


def template_of(beads):
    return replace(
        beads, positions=beads.positions[:1].float(), amplitude=beads.amplitude.float(), width=beads.width.float()
    )


def prepared(batch, beads, folder, calibration=None, selection=None, **settings):
    """Return a likelihood with its windows made, and the batch as it comes from there."""
    likelihood = MatchedFilter(MatchedFilterSettings(**settings), int(batch.optics_group.max()) + 1)
    likelihood.calibration, likelihood.selection = calibration, selection
    source = likelihood.prepare(ArrayStack(single(batch)), template_of(beads), folder)
    return likelihood, source.batch(np.arange(len(batch)))


@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 3e-5), ("float16", 5e-4)])
@pytest.mark.parametrize("box", [80, 81])
def test_prepared_windows_say_what_the_images_say(box, storage, tolerance, tmp_path):
    batch, beads = make_batch(box, images=5, groups=GROUPS, seed=6), make_beads(5, beads=30)
    exact = Direct(DirectSettings(), GROUPS)
    expected = terms_and_gradients(exact, beads, batch, moved=0.7)
    likelihood, windowed = prepared(batch, beads, tmp_path, storage=storage, margin=30.0)
    assert windowed.image is None
    assert windowed.statistic.dtype == getattr(torch, storage)
    assert windowed.statistic.shape[1] < 0.8 * (1.25 * box) ** 2
    assert_agree(terms_and_gradients(likelihood, single(beads), windowed, moved=0.7), expected, tolerance)
    assert likelihood.remarks() == []


def rigid(beads):
    """Every image shows the template."""
    return replace(beads, positions=beads.positions[:1].expand(len(beads.positions), -1, -1).clone())


@pytest.mark.parametrize("astigmatism", [0, 1])
@pytest.mark.parametrize(("box", "width"), [(96, (2.5, 3.5)), (97, (0.4, 1.5)), (160, (4.5, 5.5))])
def test_the_grid_of_the_molecule_does_as_well_as_the_box(box, width, astigmatism, tmp_path):
    """Beads that Nyquist cuts off and others; several pixel sizes, calibrated shells."""
    batch, beads = make_batch(box, images=4, groups=GROUPS, seed=7), rigid(make_beads(4, beads=40))
    if not astigmatism:
        batch.ctf.defocus_v = batch.ctf.defocus_u.clone()
    beads = replace(beads, width=torch.linspace(*width, 40).double())
    exact = Direct(DirectSettings(), GROUPS)
    exact.calibration = shells(box)
    likelihood, windowed = prepared(batch, beads, tmp_path, exact.calibration, storage="float32", margin=30.0)
    assert likelihood._cut_pairs is not None
    assert likelihood._cut_pairs.rows.size < 0.8 * likelihood._box_pairs.rows.size
    assert likelihood._cut_pairs.astigmatic == bool(astigmatism)
    expected = terms_and_gradients(exact, beads, batch)
    assert_agree(terms_and_gradients(likelihood, single(beads), windowed), expected, 6e-5)


def test_a_molecule_that_fills_the_box_stays_on_it(tmp_path):
    batch, beads = make_batch(40, seed=7), make_beads(beads=40)
    likelihood, windowed = prepared(batch, beads, tmp_path, storage="float32", margin=40.0)
    assert likelihood._cut_pairs is None
    expected = terms_and_gradients(Direct(DirectSettings(), 1), beads, batch)
    assert_agree(terms_and_gradients(likelihood, single(beads), windowed), expected, 3e-5)


def test_the_box_can_be_asked_for(tmp_path):
    batch, beads = make_batch(96, seed=7), make_beads(beads=40)
    likelihood, _ = prepared(batch, beads, tmp_path, pairs="box")
    assert likelihood._cut_pairs is None


def test_a_conformation_too_large_for_its_grid_goes_through_the_box(tmp_path):
    batch, beads = make_batch(96, images=4, seed=7), rigid(make_beads(4, beads=40))
    likelihood, windowed = prepared(batch, beads, tmp_path, storage="float32", margin=40.0)
    assert likelihood._cut_pairs is not None
    large = replace(beads, positions=1.4 * beads.positions)
    expected = terms_and_gradients(Direct(DirectSettings(), 1), large, batch)
    assert_agree(terms_and_gradients(likelihood, single(large), windowed), expected, 3e-5)


def test_room_is_what_the_largest_distance_needs():
    grid = SimpleNamespace(cut=_cut.CutGrid(64, 1.0, 20.0, 4.0, 20, 0.3))
    for angle in np.linspace(0, np.pi, 7):
        ends = torch.tensor([[[np.cos(angle), np.sin(angle)], [-np.cos(angle), -np.sin(angle)]]]).float()
        at = torch.tensor([[[30.0, -20.0]]])
        centred = _cut.CutPairs.centred(grid, 9.7 * ends + at)
        torch.testing.assert_close(centred, 9.7 * ends, rtol=0, atol=1e-4)
        assert _cut.CutPairs.centred(grid, 10.05 * ends + at) is None


def test_a_bead_outside_the_window_is_compared_with_an_empty_image_and_said(tmp_path):
    batch, beads = make_batch(80, images=2, seed=8), make_beads(2, beads=10)
    likelihood, windowed = prepared(batch, beads, tmp_path, storage="float32", margin=12.0)
    without_last = replace(single(beads), amplitude=beads.amplitude.float() * (torch.arange(10) < 9))
    inside, _ = likelihood.terms(without_last, windowed.rotation, windowed.shift, windowed)
    assert likelihood.remarks() == []
    positions = beads.positions.clone()  # the last bead goes far out in the plane of the image
    positions[:, 9] = torch.einsum("nij,j->ni", batch.rotation.mT, torch.tensor([75.0, 0, 0]).double())
    gone = replace(beads, positions=positions)
    cross, power = likelihood.terms(single(gone), windowed.rotation, windowed.shift, windowed)
    torch.testing.assert_close(cross, inside)
    _, exact_power = Direct(DirectSettings(), 1).terms(gone, batch.rotation, batch.shift, batch)
    torch.testing.assert_close(power.double(), exact_power, rtol=3e-5, atol=0)
    assert "0.1 of the bead positions lay outside" in likelihood.remarks()[0]
    assert likelihood.remarks() == []
    likelihood.terms(single(gone), windowed.rotation, windowed.shift, windowed)
    for _ in range(200):  # few of all positions
        likelihood.terms(without_last, windowed.rotation, windowed.shift, windowed)
    assert likelihood.remarks() == []


def test_beads_of_the_template_are_within_windows_of_large_pixels(tmp_path):
    batch, beads = make_batch(48, images=2, seed=8), make_beads(2, beads=10)
    coarse = replace(batch, pixel_size=torch.full_like(batch.pixel_size, 4.5))
    likelihood, windowed = prepared(coarse, beads, tmp_path, storage="float32")
    assert not likelihood.windows.rows.whole
    likelihood.terms(single(beads), windowed.rotation, windowed.shift, windowed)
    assert likelihood.remarks() == []


def test_a_position_that_is_not_finite_shows():
    batch, beads = single(make_batch(24)), single(make_beads())
    beads.positions[1, 2, 0] = torch.nan
    misfit = MatchedFilter(MatchedFilterSettings(), 1)(beads, batch.rotation, batch.shift, batch)
    assert torch.isfinite(misfit).tolist() == [True, False, True]


def test_windows_of_another_likelihood_are_refused(tmp_path):
    batch, beads = make_batch(24), make_beads()
    _, windowed = prepared(batch, beads, tmp_path)
    with pytest.raises(ValueError, match="prepared by another likelihood"):
        MatchedFilter(MatchedFilterSettings(), 1).terms(single(beads), windowed.rotation, windowed.shift, windowed)
    with pytest.raises(ValueError, match="needs the images"):
        MatchedFilter(MatchedFilterSettings(), 1).terms(
            single(beads), windowed.rotation, windowed.shift, replace(windowed, statistic=None)
        )


def test_windows_for_other_beads_are_refused(tmp_path):
    batch, beads = make_batch(24), make_beads()
    likelihood, windowed = prepared(batch, beads, tmp_path)
    for width in (beads.width.float()[:-1], beads.width.float() + 0.1):
        with pytest.raises(ValueError, match="prepared for other beads"):
            likelihood.terms(replace(single(beads), width=width), windowed.rotation, windowed.shift, windowed)


def test_noise_correlates_with_a_projection_as_much_as_its_power_says(tmp_path):
    """`⟨n, h * v⟩` of noise has the variance `‖h * v‖²`, both in units of the noise, whatever its power in a shell."""
    batch, beads = make_batch(24, images=400, groups=GROUPS, seed=3), make_beads(400)
    noise = 0.5 + torch.rand(GROUPS, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    calibration = ShellCalibration(noise=noise, signal=torch.ones_like(noise))
    likelihood, windowed = prepared(batch, beads, tmp_path, calibration=calibration, margin=30.0)
    noisy = likelihood.without_signal(windowed, torch.Generator().manual_seed(1))
    assert noisy.statistic.shape == windowed.statistic.shape
    assert noisy.image is None
    cross, power = likelihood.terms(single(beads), windowed.rotation, windowed.shift, noisy)
    score = cross / power.sqrt()
    assert abs(score.mean()) < 4 / 20
    assert abs(score.var() - 1) < 4 * (2 / 400) ** 0.5
    again = likelihood.without_signal(windowed, torch.Generator().manual_seed(1))
    torch.testing.assert_close(again.statistic, noisy.statistic, rtol=0, atol=0)
