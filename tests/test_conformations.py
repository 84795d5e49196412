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
