"""Widths, information and junk of all particles of a run, and their way into files."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from cryomorph.config import open_particles
from cryomorph.conformations.nma import NMA, NMASettings
from cryomorph.errors import InputError
from cryomorph.fitted import FittedRun
from cryomorph.particles.star import read_star
from cryomorph.results import MEASURES, export_particles
from cryomorph.run import RunFolder
from cryomorph.selection import Selection
from cryomorph.uncertainty import Uncertainty, find_uncertainty, junk_probability, residue_deviation
from cryomorph.workflows import background_radius


def mixed(particles, junk, seed=0):
    """Evidence of particles, whose images speak for one by about 4 nats, and of noise, which does not."""
    generator = np.random.default_rng(seed)
    # Normal distributions of which one is e^x times the other: the variance is twice the mean.
    return np.concatenate([generator.normal(4, np.sqrt(8), particles), generator.normal(-4, np.sqrt(8), junk)])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_probabilities_of_junk_are_as_often_right_as_they_say(share):
    particles, junk = round(8000 * (1 - share)), round(8000 * share)
    probability = junk_probability(mixed(particles, junk))
    truth = np.arange(8000) >= particles
    np.testing.assert_allclose(probability.mean(), share, atol=0.015)
    for low, high in ((0.0, 0.1), (0.3, 0.7), (0.9, 1.0)):
        inside = (probability >= low) & (probability <= high)
        if inside.sum() > 100:
            np.testing.assert_allclose(truth[inside].mean(), probability[inside].mean(), atol=0.1)


def test_evidence_of_thousands_of_nats_is_no_harm():
    probability = junk_probability(np.array([5000.0, 3000.0, -2000.0, -5000.0]))
    np.testing.assert_allclose(probability, [0, 0, 1, 1], atol=1e-6)


def test_residues_are_off_as_far_as_modes_take_them(helix):
    model = NMA(NMASettings(modes=3, adapt=False), helix)
    covariance = torch.tensor([[0.04, 0.01, 0.0], [0.01, 0.09, 0.0], [0.0, 0.0, 0.01]], dtype=torch.float64)
    found = residue_deviation(model, torch.zeros(2, 3), covariance.expand(2, 3, 3))
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(3), covariance.numpy(), 20000)
    moved = np.einsum("sk,kc->sc", draws, model.vectors.numpy()).reshape(20000, -1, 3)
    np.testing.assert_allclose(found[1], np.sqrt(np.square(moved).sum(2).mean(0)), rtol=0.02)
    # A mode is normalised such that its weight is what residues move, root mean square.
    np.testing.assert_allclose(found[0].square().mean().sqrt(), np.sqrt(0.04 + 0.09 + 0.01), rtol=1e-3)


@pytest.fixture
def uncertainty(finished):
    return RunFolder(finished).load_posterior()


def test_a_finished_run_says_how_sure_it_is_of_every_particle(finished, uncertainty):
    run = FittedRun(finished)
    count, dimensions = run.latents.shape
    followed = uncertainty.directions.shape[1]
    assert uncertainty.latents.shape == (count, dimensions)
    assert uncertainty.covariance.shape == (count, followed, followed)
    for name in MEASURES:
        assert getattr(uncertainty, name).shape == (count,)
    for field in fields(Uncertainty):
        assert np.isfinite(getattr(uncertainty, field.name)).all(), field.name
    widths = np.linalg.eigvalsh(uncertainty.full(np.arange(count)))
    assert widths.min() > 0
    assert widths.max() < 1.1  # hardly wider than the prior, by the shape of other posteriors
    assert uncertainty.deviation.min() > 0
    assert uncertainty.information.min() >= 0
    assert uncertainty.residues.shape == (len(run.template),)


def test_the_file_is_what_anyone_finds_who_opens_the_run(finished, uncertainty):
    run = FittedRun(finished)
    stack = open_particles(run.config.particles)
    again = find_uncertainty(
        run.reconstruction,
        stack.with_background_radius(background_radius(run.template, stack)),
        lambda batch, observed: torch.from_numpy(run.latents)[batch.index],
        latent_prior=float(run.reconstruction.latent_prior),
        steps=0,  # the run's own are the most probable ones
        selection=Selection.work(stack.box, run.config.free, run.config.seed),
    )
    np.testing.assert_allclose(again.latents, uncertainty.latents, atol=1e-4)
    np.testing.assert_allclose(again.deviation, uncertainty.deviation, rtol=1e-3)
    np.testing.assert_allclose(again.explained, uncertainty.explained, rtol=1e-3, atol=1e-3)


def with_junk(folder, rows):
    run = RunFolder(folder)
    arrays = {name: np.array(value) for name, value in vars(run.load_posterior()).items()}
    arrays["junk"][:] = 0.01
    arrays["junk"][rows] = 0.9
    run.save_posterior(Uncertainty(**arrays))


def test_junk_is_left_out_and_what_remains_says_how_sure_it_is(copied, tmp_path):
    with_junk(copied, [3, 11])
    assert export_particles(copied, tmp_path / "all.star") == 48
    assert export_particles(copied, tmp_path / "good.star", max_junk=0.5) == 46
    text = (tmp_path / "good.star").read_text()
    for name in ("cryomorphDeviation", "cryomorphInformation", "cryomorphExplained", "cryomorphJunk"):
        assert f"_{name}" in text
    assert len(read_star(tmp_path / "good.star")) == 46


def test_a_run_without_uncertainty_is_exported_but_knows_no_junk(copied, tmp_path):
    (copied / "posterior.npz").unlink()
    assert export_particles(copied, tmp_path / "all.star") == 48
    assert "cryomorphJunk" not in (tmp_path / "all.star").read_text()
    with pytest.raises(InputError, match=r"posterior\.npz: not there; run the same train command again"):
        export_particles(copied, tmp_path / "good.star", max_junk=0.5)


def test_the_command_leaves_junk_out(cryomorph, copied, tmp_path):
    with_junk(copied, [0])
    out = tmp_path / "good.star"
    assert "47 particles" in cryomorph("export", copied, "--particles", out, "--max-junk", 0.5).out
    models = cryomorph("export", copied, "--conformations", tmp_path / "c.cif", "--max-junk", 0.5)
    assert "47 conformations" in models.out
