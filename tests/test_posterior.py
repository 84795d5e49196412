"""The posterior of one particle, against the exact one of a linear model and against repeated noise."""

from dataclasses import replace

import numpy as np
import pytest
import roma
import torch

from cryomorph import posterior
from cryomorph.fourier import image_coefficients
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.particles.stack import ParticleStack
from cryomorph.poses.known import KnownPoses, KnownPosesSettings
from cryomorph.poses.refine import RefinedPoses, RefinedPosesSettings
from cryomorph.poses.search import SearchedPoses, SearchedPosesSettings
from cryomorph.posterior import best_start, find_posterior, posteriors
from cryomorph.priors.bonds import BondsPriorSettings
from cryomorph.reconstruction import Reconstruction
from cryomorph.selection import Selection
from cryomorph.structure.beads import Beads
from dense_likelihood import coarse_batch, coarse_beads, dense_images

BOX, GAIN, DIMENSIONS = 32, 60.0, 3


class LinearModel(torch.nn.Module):
    """Five beads that move along a few directions: `x(z) = x_0 + z U`, z in Å."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.register_buffer("template", coarse_beads(1).positions[0])
        self.register_buffer("directions", torch.randn(DIMENSIONS, 5, 3, generator=generator))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.template + torch.einsum("bk,knc->bnc", z, self.directions)


class WideBeads(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Beads:
        return replace(coarse_beads(1), positions=x)


class Spring(torch.nn.Module):
    """A geometric prior whose curvature is known: `3 Σ |x - x_0|²`."""

    settings = BondsPriorSettings(weight=3.0)

    def forward(self, x: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        return (x - coarse_beads(1).positions).square().sum((1, 2))


def make(*, gain=GAIN, spread=0.0, priors=(), strength=1.0) -> Reconstruction:
    likelihood = Direct(DirectSettings(scale_spread=spread), 2)
    likelihood.gain.fill_(gain)
    poses = KnownPoses(KnownPosesSettings(), 1000)
    return Reconstruction(LinearModel(), WideBeads(), poses, likelihood, list(priors), strength).eval()


def optics(images):
    return coarse_batch(BOX, images=images)


def dense(z, batch, gain=GAIN):
    """Images (b, D D) without noise, in NumPy."""
    model = LinearModel()
    x = model.template.double().numpy() + np.einsum("bk,knc->bnc", z, model.directions.double().numpy())
    return dense_images(x, coarse_beads(1), np.full(2, gain), batch).reshape(len(z), -1)


def dense_changes(z, batch, gain=GAIN, step=1e-4):
    """Their changes with z, shape (b, k, D D)."""
    return np.stack(
        [
            (dense(z + step * one, batch, gain) - dense(z - step * one, batch, gain)) / (2 * step)
            for one in np.eye(DIMENSIONS)
        ],
        axis=1,
    )


def with_noise(clean, seed=0):
    noise = np.random.default_rng(seed).normal(size=clean.shape)
    return torch.from_numpy((clean + noise).reshape(-1, BOX, BOX)).float()


def find(reconstruction, batch, image, **settings):
    start = torch.zeros(len(batch), DIMENSIONS)
    chosen = {"box": BOX, "latent_prior": 1.0} | settings
    return find_posterior(reconstruction, batch, image_coefficients(image), start, **chosen)


@pytest.fixture
def truth():
    return np.random.default_rng(3).normal(0, 0.7, (6, DIMENSIONS))


def exact(z, batch, image, *, prior, extra=0.0):
    """Mean and covariance of the model linearised about z (b, k), in double precision."""
    changes = dense_changes(z, batch)
    residual = image.double().numpy().reshape(len(z), -1) - dense(z, batch)
    precision = np.einsum("bkp,blp->bkl", changes, changes) + prior * np.eye(DIMENSIONS) + extra
    towards = np.einsum("bkp,bp->bk", changes, residual) - prior * z - (z @ extra if np.ndim(extra) else 0)
    return z + np.linalg.solve(precision, towards[..., None])[..., 0], np.linalg.inv(precision)


def dense_turns(z, batch, spread, step=1e-5):
    """Changes of the images with poses, in units of what they may be off."""
    changes = []
    for one in np.eye(5) * step:
        sides = []
        for sign in (1, -1):
            off = sign * one * spread
            turn = roma.rotvec_to_rotmat(torch.from_numpy(off[:3]))
            rotation, shift = batch.rotation.double() @ turn, batch.shift.double() + torch.from_numpy(off[3:])
            sides.append(dense(z, replace(batch, rotation=rotation, shift=shift)))
        changes.append((sides[0] - sides[1]) / (2 * step))
    return np.stack(changes, axis=1)


def with_refined_poses(rotation_spread, shift_spread):
    reconstruction = make()
    settings = RefinedPosesSettings(rotation_spread=rotation_spread, shift_spread=shift_spread)
    reconstruction.poses = RefinedPoses(settings, 1000)
    return reconstruction


def test_poses_that_may_be_off_widen_it_as_if_they_were_coordinates_too(truth):
    batch = optics(len(truth))
    image = with_noise(dense(truth, batch))
    found = find(with_refined_poses(4.0, 2.0), batch, image, steps=20)
    spread = np.array([*3 * [np.deg2rad(4.0)], 2.0, 2.0])
    z = found.mean.numpy()
    changes = np.concatenate([dense_changes(z, batch), dense_turns(z, batch, spread)], axis=1)
    precision = np.einsum("bkp,blp->bkl", changes, changes) + np.eye(DIMENSIONS + 5)
    expected = np.linalg.inv(precision)[:, :DIMENSIONS, :DIMENSIONS]
    np.testing.assert_allclose(found.covariance, expected, rtol=0.04, atol=3e-3 * expected.max())
    known = find(make(), batch, image, steps=20)
    assert (found.covariance.diagonal(dim1=1, dim2=2) > 1.05 * known.covariance.diagonal(dim1=1, dim2=2)).any()
    # Their evidence: what of the volume of both together, latents and poses, the image leaves.
    fewer = 0.5 * (np.linalg.slogdet(precision)[1] - np.linalg.slogdet(precision[:, :DIMENSIONS, :DIMENSIONS])[1])
    np.testing.assert_allclose((known.evidence - found.evidence).numpy(), fewer, atol=0.05)


def test_poses_hardly_off_are_known(truth):
    batch = optics(len(truth))
    image = with_noise(dense(truth, batch))
    found, known = (find(one, batch, image) for one in (with_refined_poses(1e-4, 1e-4), make()))
    torch.testing.assert_close(found.covariance, known.covariance, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.evidence, known.evidence, rtol=0, atol=1e-3)


def test_a_pose_found_among_all_rotations_is_worth_less_evidence(truth):
    batch = optics(len(truth))
    image = with_noise(dense(truth, batch))
    searched, refined = make(), with_refined_poses(3.0, 1.0)
    searched.poses = SearchedPoses(SearchedPosesSettings(), 1000)
    searched.poses.rotation[: len(truth)] = batch.rotation
    searched.poses.shift[: len(truth)] = batch.shift
    # The volume of all rotations is 8π², that of a normal distribution (2π)^(3/2) σ³.
    spread = np.deg2rad(3.0)
    worth = np.log(8 * np.pi**2 / ((2 * np.pi) ** 1.5 * spread**3))
    difference = find(refined, batch, image).evidence - find(searched, batch, image).evidence
    np.testing.assert_allclose(difference, worth, rtol=1e-4)


@pytest.mark.parametrize("prior", [1.0, 30.0])
def test_mean_and_covariance_are_those_of_the_linear_model(truth, prior):
    batch = optics(len(truth))
    image = with_noise(dense(truth, batch))
    found = find(make(), batch, image, latent_prior=prior, steps=20)
    mean, covariance = exact(found.mean.numpy(), batch, image, prior=prior)
    width = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    assert width.max() < 0.4
    assert width.max() > 1e-3
    np.testing.assert_array_less(np.abs(found.mean.numpy() - mean), 0.1 * width)  # smaller steps are not taken
    np.testing.assert_allclose(found.covariance, covariance, rtol=0.02, atol=0.01 * width.min() ** 2)


def test_geometric_priors_narrow_it_by_their_curvature(truth):
    batch = optics(len(truth))
    image = with_noise(dense(truth, batch))
    found = find(make(priors=[Spring()], strength=50.0), batch, image, steps=20)
    u = LinearModel().directions.flatten(1).double().numpy()
    extra = 2 * 3.0 * 50.0 * u @ u.T
    mean, covariance = exact(found.mean.numpy(), batch, image, prior=1.0, extra=extra)
    np.testing.assert_allclose(found.covariance, covariance, rtol=0.02, atol=1e-3 * covariance.max())
    np.testing.assert_allclose(found.mean, mean, atol=0.1 * np.sqrt(covariance.max()))


def standardised(found, truth):
    """Errors in units of what is claimed, uncorrelated if the covariance is right, shape (b, k)."""
    factor = np.linalg.cholesky(found.covariance.numpy())
    return np.linalg.solve(factor, (found.mean.numpy() - truth)[..., None])[..., 0]


def test_errors_over_repeated_noise_are_as_large_as_claimed():
    one = optics(1)[torch.zeros(200, dtype=torch.int64)]
    truth = np.random.default_rng(5).normal(0, 0.1, (200, DIMENSIONS))  # drawn from the prior, as it is used
    found = find(make(), one, with_noise(dense(truth, one)), latent_prior=100.0)
    errors = standardised(found, truth)
    np.testing.assert_allclose(np.cov(errors.T), np.eye(DIMENSIONS), atol=0.25)
    np.testing.assert_allclose(errors.mean(0), 0, atol=0.2)


def test_without_signal_it_is_the_prior():
    batch = optics(4)
    found = find(make(gain=0.0), batch, with_noise(np.zeros((4, BOX * BOX))), latent_prior=2.0)
    torch.testing.assert_close(found.mean, torch.zeros(4, DIMENSIONS, dtype=torch.float64))
    torch.testing.assert_close(found.covariance, 0.5 * torch.eye(DIMENSIONS, dtype=torch.float64).expand(4, -1, -1))
    torch.testing.assert_close(found.evidence, torch.zeros(4, dtype=torch.float64))


def test_halves_of_the_coefficients_say_half_each_and_know_nothing_of_each_others_noise():
    one = optics(1)[torch.zeros(400, dtype=torch.int64)]
    one = replace(one, index=torch.arange(400))
    truth = np.random.default_rng(5).normal(0, 0.1, (400, DIMENSIONS))
    image = with_noise(dense(truth, one))
    half = Selection.half(BOX, 1, seed=0)
    both, first, second = (
        find(make(), one, image, latent_prior=1e-2, selection=chosen) for chosen in (None, half, half.complement)
    )
    information = [np.linalg.inv(part.covariance.numpy()) for part in (both, first, second)]
    np.testing.assert_allclose(
        information[0], information[1] + information[2], rtol=0.02, atol=0.02 * information[0].max()
    )
    errors = [standardised(part, truth) for part in (first, second)]
    for part in errors:
        np.testing.assert_allclose(np.cov(part.T), np.eye(DIMENSIONS), atol=0.25)
    np.testing.assert_allclose(errors[0].T @ errors[1] / 400, 0, atol=0.2)


def test_a_scale_of_the_images_own_widens_it(truth):
    batch = optics(len(truth))
    image = with_noise(dense(truth, batch))
    fixed, free = (find(make(spread=spread), batch, image) for spread in (0.0, 0.5))
    values = torch.linalg.eigvalsh(free.covariance - fixed.covariance)
    assert values.min() > -0.02 * fixed.covariance.max()
    assert values.max() > 0


def test_latents_stay_where_they_are_outside_the_directions(truth):
    batch = optics(len(truth))
    image = with_noise(dense(truth, batch))
    directions = torch.linalg.qr(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])).Q
    found = find(make(), batch, image, directions=directions)
    outside = torch.linalg.cross(directions[:, 0], directions[:, 1]).double()
    torch.testing.assert_close(found.mean @ outside, torch.zeros(len(truth), dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.covariance @ outside, outside.expand(len(truth), -1), atol=1e-6, rtol=0)


def test_the_best_of_several_starts(truth):
    batch = optics(len(truth))
    observed = image_coefficients(with_noise(dense(truth, batch)))
    places = torch.from_numpy(np.concatenate([truth, truth[:2] + 3])).float()
    chosen = best_start(make(), batch, observed, places, box=BOX, latent_prior=1.0)
    torch.testing.assert_close(chosen, places[: len(truth)])


def test_evidence_counts_what_the_prior_allows(truth):
    """In one dimension it is the integral over the latents, done here on a grid."""
    batch = optics(1)
    image = with_noise(dense(np.array([[0.8, 0.0, 0.0]]), batch, gain=20.0))
    line = torch.tensor([[1.0], [0.0], [0.0]])
    found = find(make(gain=20.0), batch, image, directions=line, steps=20)
    grid = np.linspace(0.3, 1.3, 201)
    z = np.zeros((201, DIMENSIONS))
    z[:, 0] = grid
    many = batch[torch.zeros(201, dtype=torch.int64)]
    model = dense(z, many, gain=20.0)
    flat = image.double().numpy().reshape(-1)
    values = model @ flat - 0.5 * np.square(model).sum(1) - 0.5 * grid**2 - 0.5 * np.log(2 * np.pi)
    top = values.max()
    expected = top + np.log(np.exp(values - top).sum() * (grid[1] - grid[0]))
    np.testing.assert_allclose(found.evidence[0], expected, atol=0.15)


def test_a_stack_is_read_batch_by_batch(simulated, monkeypatch):
    monkeypatch.setattr(posterior, "IMAGES_AT_ONCE", 32)
    stack = ParticleStack.open(simulated / "particles.star")
    reconstruction = make(gain=1e-4)
    rows = np.arange(len(stack))[::-1].copy()
    settings = {"latent_prior": 1.0, "steps": 2}

    def start(batch, observed):
        return 0.1 * torch.ones(len(batch), DIMENSIONS)

    parts = list(posteriors(reconstruction, stack, rows, start, **settings))
    assert len(parts) > 1
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), rows)
    batch = stack.batch(rows)
    whole = find_posterior(
        reconstruction, batch, image_coefficients(batch.image), start(batch, None), box=stack.box, **settings
    )
    torch.testing.assert_close(torch.cat([found.mean for _, found in parts]), whole.mean)
    torch.testing.assert_close(torch.cat([found.covariance for _, found in parts]), whole.covariance)
