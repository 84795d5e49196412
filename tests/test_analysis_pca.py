import dataclasses

import numpy as np
import pytest

from cryomorph.analysis import pca
from cryomorph.analysis.ensemble import Ensemble, evenly_spaced
from cryomorph.config import build_reconstruction, parse_config
from ensembles import linear_ensemble, surveyed
from small_runs import run_settings


@pytest.fixture
def curved(helix):
    """70 conformations that depend on three latents, not linearly."""
    random = np.random.default_rng(0)
    directions = random.standard_normal((6, len(helix), 3))
    latents = random.standard_normal((70, 3)).astype(np.float32)

    def decode(z):
        features = np.concatenate([2 * z, np.sin(z)], axis=1)
        return (helix.coordinates + np.einsum("bk,kni->bni", features, directions)).astype(np.float32)

    return Ensemble(helix, latents, {"shape": slice(0, 3)}, decode)


def all_conformations(ensemble):
    return ensemble.decode(ensemble.latents).astype(np.float64)


def by_svd(ensemble):
    """Mean, modes, and places in Å rms over residues, by numpy's singular value decomposition."""
    x = all_conformations(ensemble)
    m, n, _ = x.shape
    u, s, vt = np.linalg.svd((x - x.mean(0)).reshape(m, -1), full_matrices=False)
    return x.mean(0), vt.reshape(-1, n, 3), u * s / np.sqrt(n)


def test_components_are_those_of_numpys_singular_value_decomposition(curved):
    found = surveyed(curved, 5)
    mean, modes, places = by_svd(curved)
    np.testing.assert_allclose(found.components.mean, mean, atol=1e-5)
    sign = np.sign((found.components.modes * modes[:5]).sum((1, 2)))
    np.testing.assert_allclose(found.components.modes, modes[:5] * sign[:, None, None], atol=1e-4)
    np.testing.assert_allclose(found.places, places[:, :5] * sign, atol=1e-3)
    np.testing.assert_allclose(found.components.variance, np.square(places[:, :5]).mean(0), rtol=1e-4)
    assert found.components.total == pytest.approx(np.square(places).sum(1).mean(), rel=1e-5)
    assert found.places.dtype == np.float32


def test_a_place_is_the_root_mean_square_displacement_of_a_residue(helix):
    direction = np.random.default_rng(2).standard_normal((1, len(helix), 3))
    direction /= np.sqrt(np.square(direction).sum(-1).mean())  # 1 Å rms
    z = np.array([-3.0, -1, 0, 2, 2])[:, None]
    found = surveyed(linear_ensemble(helix, z, direction), 2)
    np.testing.assert_allclose(np.abs(found.places[:, 0]), np.abs(z[:, 0]), atol=1e-5)
    assert found.components.share[0] == pytest.approx(1, abs=1e-5)


def test_all_components_together_give_back_the_conformations(curved):
    found = surveyed(curved, 6)
    n = len(curved.template)
    rebuilt = found.components.mean + np.sqrt(n) * np.einsum("mk,kni->mni", found.places, found.components.modes)
    np.testing.assert_allclose(rebuilt, all_conformations(curved), atol=2e-4)
    assert found.components.share.sum() == pytest.approx(1, abs=1e-6)


def test_modes_are_orthonormal_and_their_largest_coordinate_is_positive(curved):
    flat = surveyed(curved, 5).components.modes.reshape(5, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(5), atol=1e-6)
    assert (flat[np.arange(5), np.abs(flat).argmax(1)] > 0).all()


def test_fluctuations_are_those_of_the_motion(helix):
    random = np.random.default_rng(3)
    direction = random.standard_normal((1, len(helix), 3))
    z = np.linspace(-2, 2, 41)[:, None]
    rmsf = surveyed(linear_ensemble(helix, z, direction), 2).rmsf
    # The standard deviation of 41 equally spaced numbers from -2 to 2 is 0.1 sqrt((41² - 1) / 12).
    np.testing.assert_allclose(rmsf, np.linalg.norm(direction[0], axis=1) * 0.1 * np.sqrt(1680 / 12), rtol=1e-4)


def test_the_mean_square_fluctuation_is_the_total_variance(curved):
    found = surveyed(curved, 3)
    assert np.square(found.rmsf).mean() == pytest.approx(found.components.total, rel=1e-9)


def test_batches_make_no_difference(curved, monkeypatch):
    whole = surveyed(curved, 4)
    monkeypatch.setattr("cryomorph.analysis.ensemble.MOST_AT_ONCE", 7)
    parts = surveyed(curved, 4)
    np.testing.assert_allclose(parts.places, whole.places, atol=1e-4)
    np.testing.assert_allclose(parts.rmsf, whole.rmsf, atol=1e-6)


def test_a_sample_gives_directions_and_all_particles_the_rest(helix, monkeypatch):
    random = np.random.default_rng(4)
    directions = random.standard_normal((3, len(helix), 3)) * np.array([3, 2, 1])[:, None, None]
    ensemble = linear_ensemble(helix, random.standard_normal((3000, 3)), directions)
    whole = surveyed(ensemble, 3)
    monkeypatch.setattr(pca, "SAMPLE", 50)
    sampled = surveyed(ensemble, 3)
    # Three directions span all of it, so that a sample of 50 must find exactly what all particles do.
    np.testing.assert_allclose(sampled.places, whole.places, atol=2e-3)
    np.testing.assert_allclose(sampled.components.variance, whole.components.variance, rtol=1e-4)
    np.testing.assert_allclose(sampled.components.mean, whole.components.mean, atol=1e-4)
    np.testing.assert_allclose(sampled.rmsf, whole.rmsf, rtol=1e-5)


def test_of_a_sample_that_misses_something_the_total_is_still_that_of_all(helix, monkeypatch):
    random = np.random.default_rng(5)
    latents = np.zeros((200, 2))
    latents[:, 0] = random.standard_normal(200)
    latents[1, 1] = 30  # not in the sample
    ensemble = linear_ensemble(helix, latents, random.standard_normal((2, len(helix), 3)))
    monkeypatch.setattr(pca, "SAMPLE", 5)
    found = surveyed(ensemble, 2)
    x = all_conformations(ensemble)
    assert found.components.total == pytest.approx(np.square(x - x.mean(0)).sum(-1).mean(), rel=1e-5)
    covariance = np.cov(found.places.T)
    assert abs(covariance[0, 1]) < 1e-3 * np.sqrt(covariance[0, 0] * max(covariance[1, 1], 1e-6))
    assert (np.diff(found.components.variance) <= 0).all()


def test_never_more_conformations_in_memory_than_the_sample_and_a_batch(helix, monkeypatch):
    monkeypatch.setattr(pca, "SAMPLE", 30)
    sizes = []
    ensemble = linear_ensemble(helix, np.random.default_rng(6).standard_normal((5000, 2)), np.ones((2, 24, 3)))
    monkeypatch.setattr("cryomorph.analysis.ensemble.MOST_AT_ONCE", 100)

    def decode(z):
        sizes.append(len(z))
        return ensemble.decode(z)

    surveyed(dataclasses.replace(ensemble, decode=decode), 2)
    assert sum(sizes) == 5030
    assert max(sizes) == 100


def test_directions_of_a_flat_spectrum_span_what_counts():
    random = np.random.default_rng(7)
    left, _ = np.linalg.qr(random.standard_normal((300, 60)))
    right, _ = np.linalg.qr(random.standard_normal((90, 60)))
    strength = np.r_[np.full(8, 10.0), np.full(52, 3.0)]
    found = pca.leading_directions((left * strength) @ right.T, 8)
    np.testing.assert_allclose(np.linalg.svd(found @ right[:, :8], compute_uv=False), 1, atol=1e-6)


def test_rows_of_a_sample_are_spread_evenly():
    assert evenly_spaced(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert evenly_spaced(101, 5).tolist() == [0, 25, 50, 75, 100]


def test_latent_components_are_those_of_each_block(helix):
    random = np.random.default_rng(8)
    latents = (random.standard_normal((80, 5)) @ random.standard_normal((5, 5))).astype(np.float32)
    blocks = {"modes A": slice(0, 2), "rotation A:1-12": slice(2, 5)}
    columns = pca.latent_places(linear_ensemble(helix, latents, np.ones((5, 24, 3)), blocks))
    assert list(columns) == [
        *("modes_A_pc1", "modes_A_pc2"),
        *("rotation_A_1_12_pc1", "rotation_A_1_12_pc2", "rotation_A_1_12_pc3"),
    ]
    for start, stop, word in ((0, 2, "modes_A"), (2, 5, "rotation_A_1_12")):
        part = latents[:, start:stop].astype(np.float64)
        u, s, _ = np.linalg.svd(part - part.mean(0), full_matrices=False)
        for number in range(stop - start):
            np.testing.assert_allclose(
                np.abs(columns[f"{word}_pc{number + 1}"]), np.abs(u[:, number] * s[number]), atol=1e-4
            )


def test_blocks_of_a_decoder_with_chains_are_told_apart(simulated):
    settings = run_settings(simulated, decoder={"kind": "chains", "modes": 2}, latents={"kind": "table"})
    config = parse_config(settings, "test")
    from cryomorph.structure.model import read_template

    template = read_template(simulated / "template.cif")
    model = build_reconstruction(config, template, 1, 20).conformations
    latents = np.random.default_rng(0).standard_normal((20, model.latent_dim)).astype(np.float32)
    columns = pca.latent_places(Ensemble(template, latents, model.latent_blocks(), lambda z: z))
    assert {"modes_A_pc1", "rotation_A_pc1", "translation_A_pc1"} <= columns.keys()
