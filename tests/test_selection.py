"""Coefficients that are kept out of the fit: their share of every shell, and that nothing of them gets into it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.config import parse_config
from cryomorph.errors import InputError
from cryomorph.fourier import band, image_coefficients, multiplicity, shell_index
from cryomorph.latents.encoder import EncoderLatents
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.likelihood.matched_filter import MatchedFilter, MatchedFilterSettings
from cryomorph.selection import FreeSettings, Selection
from test_likelihood import make_batch, make_beads
from test_matched_filter import assert_agree, prepared, rigid, shells, single, terms_and_gradients

CPU = torch.device("cpu")


def work(box, share=0.25, block=3, seed=0):
    return Selection.work(box, FreeSettings(share=share, block=block), seed)


@pytest.mark.parametrize("box", [32, 33, 128])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_every_coefficient_is_free_in_one_pattern(box, share):
    selection = work(box, share)
    assert len(selection) == round(1 / share)
    free = (~selection.patterns).sum(0)
    expected = torch.ones_like(free)
    expected[:6, :6] = 0  # nothing of the lowest shells is left out
    assert torch.equal(free, expected)


def test_every_shell_gives_its_share():
    box = 128
    free = work(box, 0.1).complement.plane * multiplicity(box, CPU)
    shell = shell_index(box, CPU).flatten()
    of_shells = torch.zeros(len(free), band(box) + 1).index_add_(1, shell, free.flatten(1))
    every = torch.zeros(band(box) + 1).index_add_(0, shell, multiplicity(box, CPU).flatten())
    share = of_shells / every
    # Blocks are three coefficients wide: some shells by themselves have more or less, a few together do not.
    together = of_shells.unfold(1, 6, 6).sum(-1) / every.unfold(0, 6, 6).sum(-1)
    assert float((together[:, 2:] - 0.1).abs().max()) < 0.05
    assert float((share[:, 20:].mean(1) - 0.1).abs().max()) < 0.01


def test_blocks_are_whole_and_mirrored():
    plane = work(64, 0.25, block=4).plane
    assert torch.equal(plane, plane.flip(1))
    quadrant = plane[:, band(64) :]
    corners = quadrant[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(quadrant, corners[:, : quadrant.shape[1], : quadrant.shape[2]])


def test_the_choice_depends_on_the_seed_alone():
    assert torch.equal(work(40, seed=3).patterns, work(40, seed=3).patterns)
    assert not torch.equal(work(40, seed=3).patterns, work(40, seed=4).patterns)


def test_halves_complement_each_other():
    half = Selection.half(48, 2, 0)
    index = torch.arange(5)
    assert torch.equal(half.of(index) ^ half.complement.of(index), torch.ones_like(half.of(index)))
    assert abs(float(half.plane.float().mean()) - 0.5) < 0.05


def test_a_share_of_nothing_is_no_selection():
    with pytest.raises(ValueError, match="leaves nothing out"):
        work(32, share=0.0)


def test_settings_are_checked():
    with pytest.raises(InputError, match=r"free\.share"):
        parse_config({"particles": {"path": "a.star"}, "template": {"path": "a.cif"}, "free": {"share": 0.7}}, "test")


@pytest.mark.parametrize("engine", ["torch", "numba"])
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("box", [24, 63, 80])
def test_both_likelihoods_leave_out_the_same(box, calibrated, engine):
    batch, beads = make_batch(box, images=6, groups=2, seed=box), make_beads(6, beads=30)
    exact, matched = Direct(DirectSettings(), 2), MatchedFilter(MatchedFilterSettings(engine=engine), 2)
    exact.selection = matched.selection = work(box)
    if calibrated:
        exact.calibration = matched.calibration = shells(box)
    found = terms_and_gradients(matched, single(beads), single(batch), moved=1.3)
    assert_agree(found, terms_and_gradients(exact, beads, batch, moved=1.3), 3e-5)


@pytest.mark.parametrize("astigmatism", [False, True])
@pytest.mark.parametrize("box", [96, 97])
def test_windows_and_the_small_grid_leave_out_the_same(box, astigmatism, tmp_path):
    batch, beads = make_batch(box, images=6, groups=2, seed=7), rigid(make_beads(6, beads=40))
    if not astigmatism:
        batch.ctf.defocus_v = batch.ctf.defocus_u.clone()
    exact = Direct(DirectSettings(), 2)
    exact.calibration, exact.selection = shells(box), work(box)
    known = exact.calibration, exact.selection
    likelihood, windowed = prepared(batch, beads, tmp_path, *known, storage="float32", margin=30.0)
    assert likelihood._cut_pairs is not None
    expected = terms_and_gradients(exact, beads, batch, moved=0.7)
    assert_agree(terms_and_gradients(likelihood, single(beads), windowed, moved=0.7), expected, 1e-4)


def with_other_free_coefficients(batch, selection):
    """Return the batch, its images changed where the selection says that they do not count, and nowhere else."""
    box = batch.image.shape[-1]
    highest = band(box)
    other = torch.randn(batch.image.shape, generator=torch.Generator().manual_seed(9), dtype=batch.image.dtype)
    change = image_coefficients(other) * ~selection.of(batch.index)
    spectrum = torch.zeros(len(batch), box, box // 2 + 1, dtype=change.dtype)
    spectrum[:, torch.arange(-highest, highest + 1) % box, : highest + 1] = change
    moved = torch.fft.fftshift(torch.fft.irfft2(spectrum, s=(box, box)), dim=(-2, -1))
    return replace(batch, image=batch.image + moved)


@pytest.mark.parametrize("likelihood", [Direct(DirectSettings(), 1), MatchedFilter(MatchedFilterSettings(), 1)])
def test_what_is_kept_out_has_no_influence(likelihood):
    batch, beads = make_batch(48, images=8), make_beads(8)
    likelihood.selection = work(48)
    changed = with_other_free_coefficients(batch, likelihood.selection)
    assert float((changed.image - batch.image).abs().mean()) > 0.1
    before = likelihood.terms(single(beads), batch.rotation.float(), batch.shift.float(), single(batch))
    after = likelihood.terms(single(beads), batch.rotation.float(), batch.shift.float(), single(changed))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("box", [16, 48])
def test_encoders_do_not_see_what_is_kept_out(box):
    torch.manual_seed(0)
    settings = EncoderLatents.Settings(filters=(4, 8), hidden=8, box=box)
    latents = EncoderLatents(settings, {"all": slice(0, 3)}, particles=8).double()
    batch = make_batch(48, images=8)
    selection = work(48)
    changed = with_other_free_coefficients(batch, selection)
    assert not torch.allclose(latents(batch), latents(changed))
    latents.selection = selection
    torch.testing.assert_close(latents(batch), latents(changed))
    assert np.isfinite(latents(batch).detach().numpy()).all()
