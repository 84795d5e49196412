"""A decoder that was taught a path of conformations."""

import numpy as np
import pytest
import torch

from cryomorph.conformations.gnn import GNN, GNNSettings
from cryomorph.conformations.mlp import MLP, MLPSettings
from cryomorph.conformations.nma import NMA, NMASettings
from cryomorph.errors import InputError
from cryomorph.search.distil import distil, learn_path, path_latents
from cryomorph.structure.modes import displaced, template_modes


def decoder(kind, template):
    torch.manual_seed(0)
    if kind == "gnn":
        return GNN(GNNSettings(latent_dim=4, layers=4), template)
    return MLP(MLPSettings(latent_dim=4, layers=2), template)


@pytest.fixture
def path(dimer):
    """Five conformations that turn from one mode to another, up to 6 Å away."""
    angle = np.linspace(0, np.pi / 2, 5)
    amplitudes = 6 * np.stack([np.sin(angle), 0.5 * (1 - np.cos(angle))], axis=1)
    return torch.from_numpy(displaced(dimer.coordinates, template_modes(dimer, 2), amplitudes)).float()


def rms(a, b):
    return float((a - b).square().sum(-1).mean().sqrt())


@pytest.mark.parametrize("kind", ["gnn", "mlp"])
def test_decoder_follows_the_path_whatever_the_other_latents(kind, dimer, path):
    model, z = decoder(kind, dimer), path_latents(5, 4)
    error = distil(model, z, path)
    other = z + torch.tensor([0.0, 1.0, -1.0, 0.5])
    with torch.no_grad():
        assert error < 0.5
        assert rms(model(z), path) < 0.5
        assert rms(model(other), path) < 0.8
        assert rms(model(z[:1].lerp(z[1:2], 0.5)), path[:1].lerp(path[1:2], 0.5)) < 0.5


def test_same_seed_same_decoder_and_the_global_random_state_is_left_alone(dimer, path):
    models = [decoder("gnn", dimer) for _ in range(3)]
    state = torch.get_rng_state()
    errors = [
        distil(model, path_latents(5, 4), path, steps=20, seed=seed)
        for model, seed in zip(models, (1, 1, 2), strict=True)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    weights = [torch.nn.utils.parameters_to_vector(model.parameters()) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert errors[0] == errors[1] != errors[2]
    assert not torch.equal(weights[0], weights[2])


def test_weights_stay_trainable_and_have_no_gradient_left(dimer, path):
    model = decoder("gnn", dimer)
    distil(model, path_latents(5, 4), path, steps=4)
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_a_single_conformation_is_decoded_everywhere(dimer, path):
    model = decoder("mlp", dimer)
    distil(model, path_latents(1, 4), path[-1:])
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert rms(model(z), path[-1]) < 0.6


def test_path_runs_along_the_first_latent_coordinate():
    z = path_latents(4, 3, span=1.5)
    torch.testing.assert_close(z[:, 0], torch.tensor([-1.5, -0.5, 0.5, 1.5]))
    assert (z[:, 1:] == 0).all()
    assert (path_latents(1, 3) == 0).all()


def test_decoders_are_taught_unless_they_can_follow(dimer, path):
    z, error = learn_path(decoder("gnn", dimer), path)
    torch.testing.assert_close(z, path_latents(5, 4))
    assert 0 < error < 0.5
    z, error = learn_path(NMA(NMASettings(modes=10), dimer), path)
    assert (z.abs().sum(0) > 0).sum() > 1
    assert error < 1e-3  # the path is made of two modes


def test_a_decoder_with_nothing_to_learn_is_refused(dimer, path):
    with pytest.raises(InputError, match="has no weights"):
        distil(NMA(NMASettings(modes=4, adapt=False), dimer), path_latents(5, 4), path)
