"""The networks of paper A: weight counts and the propagation rule."""

import numpy as np
import pytest
import torch

from cryomorph.conformations.gnn import GNN, GNNSettings, normalised_adjacency
from cryomorph.conformations.mlp import MLP, MLPSettings
from cryomorph.structure.model import Template


def chain(residues):
    """A straight chain of so many residues; the counts of weights depend on nothing else."""
    coordinates = 3.8 * np.arange(residues)[:, None] * np.array([1.0, 0.0, 0.0])
    return Template(
        source="chain",
        coordinates=coordinates,
        residue_names=("ALA",) * residues,
        residue_ids=tuple(str(i + 1) for i in range(residues)),
        chain=np.zeros(residues, dtype=np.int64),
        chain_names=("A",),
        bonded=np.ones(residues - 1, dtype=bool),
        atom_coordinates=coordinates,
        atom_names=("CA",) * residues,
        elements=("C",) * residues,
        atom_residue=np.arange(residues),
    )


def weights(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("settings", "residues", "paper"),
    [
        (GNNSettings(), 214, 35_000),
        (GNNSettings(features=32), 590, 172_000),
        (MLPSettings(), 214, 30_000),
        (MLPSettings(width=64), 590, 148_000),
    ],
)
def test_weight_counts_are_those_of_paper_a(settings, residues, paper):
    model = (GNN if settings.kind == "gnn" else MLP)(settings, chain(residues))
    assert weights(model) == pytest.approx(paper, rel=0.02)


def test_propagation_matrix_of_a_path_of_three():
    matrix = normalised_adjacency(np.array([[0, 1], [1, 2]]), 3).to_dense()
    a, b = 1 / 2, 1 / np.sqrt(6)
    expected = torch.tensor([[a, b, 0], [b, 1 / 3, b], [0, b, a]], dtype=torch.float32)
    torch.testing.assert_close(matrix, expected)


def gnn(settings, template):
    """A network whose output and biases are not near zero."""
    torch.manual_seed(0)
    model = GNN(settings, template)
    for layer in (*model.layers, model.output):
        torch.nn.init.normal_(layer.bias, std=0.3)
    torch.nn.init.normal_(model.output.weight)
    return model


def value_and_gradients(model, compute, images):
    """Displacements of the method `compute`, then the gradients by the latents and by every weight."""
    torch.manual_seed(1)
    z = torch.randn(images, model.latent_dim, requires_grad=True)
    model.zero_grad()
    moved = compute(z)
    moved.backward(torch.randn(moved.shape))
    return [moved.detach(), z.grad, *(parameter.grad.clone() for parameter in model.parameters())]


@pytest.mark.parametrize(
    "settings",
    [
        GNNSettings(),
        GNNSettings(layers=3, features=10, channels=6),
        GNNSettings(layers=1),
        GNNSettings(layers=1, features=5, channels=3),
    ],
    ids=["default", "other first layer", "one layer", "one other layer"],
)
@pytest.mark.parametrize("images", [3, 16, 37])
def test_compiled_gnn_is_the_plain_one(settings, images, dimer):
    model = gnn(settings, dimer)
    found = value_and_gradients(model, model.displacement, images)
    expected = value_and_gradients(model, model._plain_displacement, images)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * float(b.abs().max()))


def test_compiled_gnn_decodes_the_same_where_no_gradient_is_wanted(dimer):
    model = gnn(GNNSettings(layers=5), dimer)
    z = torch.randn(20, 8)
    with torch.no_grad():
        decoded = model.displacement(z)
    assert torch.equal(decoded, model.displacement(z))


def test_compiled_gnn_gives_the_same_bits_with_any_number_of_threads(dimer):
    model = gnn(GNNSettings(layers=3), dimer)
    alone = value_and_gradients(model, model.displacement, 40)
    torch.set_num_threads(2)
    try:
        together = value_and_gradients(model, model.displacement, 40)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_compiled_gnn_shows_divergence(dimer):
    model = gnn(GNNSettings(layers=3), dimer)
    with torch.no_grad():
        model.layers[1].weight[0, 0] = torch.nan
    assert model.displacement(torch.randn(2, 8)).isnan().any()


def test_gnn_gradients_agree_with_finite_differences(helix):
    torch.manual_seed(0)
    model = GNN(GNNSettings(layers=3), helix)
    torch.nn.init.normal_(model.output.weight)
    z = torch.randn(2, 8)
    direction = torch.randn(2, 8)
    z.requires_grad_()
    model.displacement(z).square().sum().backward()
    with torch.no_grad():
        step = 2e-3
        ahead, behind = (model.displacement(z + sign * step * direction).square().sum() for sign in (1, -1))
    slope = float((ahead - behind) / (2 * step))
    assert float((z.grad * direction).sum()) == pytest.approx(slope, rel=2e-2)
