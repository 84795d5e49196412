from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.errors import InputError
from cryomorph.structure import modes as modes_module
from cryomorph.structure.modes import displaced, hessian, normal_modes, rigid_motions, template_modes
from structure_builders import backbone, template_of

ORACLES = Path(__file__).parent / "oracles"
TETRAHEDRON = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) * 10 / np.sqrt(8)  # edges of 10 Å


def helix(residues=30, at=(0.0, 0.0, 0.0)):
    return backbone(residues)["CA"] + np.array(at)


def helices_about_axis(number, residues=14, radius=9.0):
    """Chains of a molecule with an axis of symmetry, whose modes come in pairs of one eigenvalue."""
    one = helix(residues) - helix(residues).mean(0) + [radius, 0, 0]
    angles = 2 * np.pi * np.arange(number) / number
    turns = np.array([[(np.cos(a), -np.sin(a), 0), (np.sin(a), np.cos(a), 0), (0, 0, 1)] for a in angles])
    return np.concatenate([one @ turn.T for turn in turns])


def two_chains(coordinates, first):
    """Template of chains A, of `first` residues, and B."""
    template = template_of({"CA": coordinates}, ["ALA"] * len(coordinates))
    numbers = [*range(1, first + 1), *range(1, len(coordinates) - first + 1)]
    return replace(
        template,
        residue_ids=tuple(map(str, numbers)),
        chain=np.repeat([0, 1], [first, len(coordinates) - first]),
        chain_names=("A", "B"),
    )


def projector(vectors):
    """Onto the space of modes, whatever basis it is given by."""
    flat = vectors.reshape(len(vectors), -1)
    return flat.T @ flat


@pytest.fixture(params=["dense", "Lanczos"])
def solver(request, monkeypatch):
    monkeypatch.setattr(modes_module, "DENSE_POINTS", 1000 if request.param == "dense" else 0)


def test_equilateral_triangle_has_one_breathing_and_two_degenerate_modes():
    triangle = np.array([(0, 0, 0), (1, 0, 0), (0.5, np.sqrt(3) / 2, 0)])
    modes = normal_modes(triangle, 3, 1.1)
    np.testing.assert_allclose(modes.eigenvalue, [1.5, 1.5, 3], rtol=1e-12)
    breathing = triangle - triangle.mean(0)
    np.testing.assert_allclose(abs((modes.vectors[2] * breathing).sum()), np.linalg.norm(breathing), rtol=1e-12)


def test_tetrahedron_has_the_textbook_spectrum():
    np.testing.assert_allclose(normal_modes(TETRAHEDRON, 6).eigenvalue, [1, 1, 2, 2, 2, 4], rtol=1e-12)


def test_hessian_is_the_second_derivative_of_the_energy_of_springs():
    coordinates = torch.from_numpy(helix(7))
    i, j = torch.triu_indices(7, 7, 1)
    rest = (coordinates[i] - coordinates[j]).norm(dim=1)
    bonded = rest <= 8.0
    assert 0 < bonded.sum() < len(rest)

    def energy(moved):
        length = (moved.reshape(7, 3)[i] - moved.reshape(7, 3)[j]).norm(dim=1)
        return 0.5 * ((length - rest)[bonded] ** 2).sum()

    expected = torch.autograd.functional.hessian(energy, coordinates.reshape(-1))
    np.testing.assert_allclose(hessian(helix(7), 8.0).toarray(), expected, atol=1e-12)


def test_rigid_motions_cost_nothing_and_are_no_modes():
    coordinates = helix(at=(100.0, -50.0, 20.0))
    rigid = rigid_motions(coordinates)
    np.testing.assert_allclose(rigid.T @ rigid, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(hessian(coordinates, 15.0) @ rigid, 0, atol=1e-11)
    modes = normal_modes(coordinates, 84)
    assert modes.eigenvalue[0] > 1e-4
    np.testing.assert_allclose(modes.vectors.reshape(84, -1) @ rigid, 0, atol=1e-11)


def test_modes_are_orthonormal_eigenvectors_in_ascending_order():
    modes = normal_modes(helix(), 84)
    flat = modes.vectors.reshape(84, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(84), atol=1e-11)
    np.testing.assert_allclose(hessian(helix(), 15.0) @ flat.T, flat.T * modes.eigenvalue, atol=1e-11)
    assert (np.diff(modes.eigenvalue) >= 0).all()


def test_modes_turn_with_the_molecule():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    modes = normal_modes(helix(), 8)
    turned = normal_modes(helix() @ turn.T + [10.0, 20.0, 30.0], 8)
    np.testing.assert_allclose(turned.eigenvalue, modes.eigenvalue, rtol=1e-9)
    overlap = np.einsum("kna,kna->k", turned.vectors, modes.vectors @ turn.T)
    np.testing.assert_allclose(np.abs(overlap), 1, atol=1e-9)


def test_first_large_number_of_a_mode_is_positive():
    for vector in normal_modes(helix(), 20).vectors.reshape(20, -1):
        large = vector[np.abs(vector) >= 0.5 * np.abs(vector).max()]
        assert large[0] > 0


def test_same_modes_as_springcraft():
    eigenvalue = np.loadtxt(ORACLES / "springcraft_anm_eigenvalues.csv", skiprows=2)
    table = np.loadtxt(ORACLES / "springcraft_anm_modes.csv", delimiter=",", skiprows=3).reshape(60, 5, 3)
    modes = normal_modes(table[:, 0], 174)
    np.testing.assert_allclose(modes.eigenvalue, eigenvalue[6:], rtol=1e-5)
    overlap = np.einsum("kna,nka->k", modes.vectors[:4], table[:, 1:])
    np.testing.assert_allclose(np.abs(overlap), 1, atol=1e-5)


@pytest.mark.parametrize("coordinates", [helix(90), helices_about_axis(5)], ids=["one helix", "five-fold symmetry"])
def test_lanczos_finds_what_the_dense_solver_finds(coordinates, monkeypatch):
    dense = normal_modes(coordinates, 24)
    monkeypatch.setattr(modes_module, "DENSE_POINTS", 0)
    sparse = normal_modes(coordinates, 24)
    np.testing.assert_allclose(sparse.eigenvalue, dense.eigenvalue, rtol=1e-8)
    gap = np.argmax(np.diff(dense.eigenvalue[12:])) + 13  # no pair of one eigenvalue is cut in two
    np.testing.assert_allclose(projector(sparse.vectors[:gap]), projector(dense.vectors[:gap]), atol=1e-8)


def test_modes_repeat_themselves(solver):
    first, second = normal_modes(helix(90), 10), normal_modes(helix(90), 10)
    np.testing.assert_allclose(second.vectors, first.vectors, atol=1e-10)


def test_chains_apart_are_named(solver):
    apart = two_chains(np.concatenate([helix(30), helix(12, at=(0.0, 80.0, 0.0))]), 30)
    with pytest.raises(
        InputError, match=r"made for a test: springs of up to 15 Å do not hold residues 1 to 12 of chain B"
    ):
        template_modes(apart, 5)


def test_a_residue_that_hangs_by_two_springs_is_named(solver):
    """It can swing about the line through the two."""
    hanging = 2.1 * TETRAHEDRON[:2].mean(0)
    template = two_chains(np.concatenate([TETRAHEDRON, [hanging]]), 4)
    assert list(np.linalg.norm(TETRAHEDRON - hanging, axis=1) < 10.1) == [True, True, False, False]
    with pytest.raises(InputError, match="hold residue 1 of chain B firmly"):
        template_modes(template, 3, 10.1)


def test_one_side_of_a_hinge_is_named():
    """Two tetrahedra with an edge in common turn about it."""
    other_side = 2 * TETRAHEDRON[:2].mean(0) - TETRAHEDRON[2:]
    with pytest.raises(InputError, match=r"points \(4 to 5\) firmly"):
        normal_modes(np.concatenate([TETRAHEDRON, other_side]), 1, 10.1)


def test_points_in_a_line_are_refused():
    with pytest.raises(InputError, match=r"do not hold points \(0 to 4\) firmly"):
        normal_modes(np.arange(15.0).reshape(5, 3), 2)


def test_residues_at_one_place_are_named():
    trace = helix(20)
    trace[7] = trace[3]
    with pytest.raises(InputError, match="residues 4, 8 of chain A coincide"):
        template_modes(template_of({"CA": trace}, ["ALA"] * 20), 3)


def test_there_are_no_more_modes_than_motions():
    assert len(normal_modes(TETRAHEDRON, 6).eigenvalue) == 6
    with pytest.raises(InputError, match="7 normal modes are wanted; 4 residues have 6"):
        normal_modes(TETRAHEDRON, 7)


def test_modes_of_a_chain_are_those_of_the_chain_alone():
    both = two_chains(np.concatenate([helix(20), helix(16, at=(0.0, 12.0, 0.0))]), 20)
    chain = template_modes(both, 5, rows=np.flatnonzero(both.chain == 1))
    alone = normal_modes(both.coordinates[20:], 5)
    np.testing.assert_array_equal(chain.vectors, alone.vectors)
    whole = template_modes(both, 5)
    assert whole.vectors.shape == (5, 36, 3)


def test_amplitudes_are_root_mean_square_displacements():
    modes = normal_modes(helix(), 3)
    amplitudes = np.array([[[2.0, 0, 0], [0, -0.5, 0]], [[0, 0, 0], [1.0, 2.0, -2.0]]])
    moved = displaced(helix(), modes, amplitudes)
    assert moved.shape == (2, 2, 30, 3)
    rms = np.sqrt(((moved - helix()) ** 2).sum(-1).mean(-1))
    np.testing.assert_allclose(rms, [[2.0, 0.5], [0.0, 3.0]], atol=1e-12)
    np.testing.assert_allclose(moved[0, 0] - helix(), 2.0 * np.sqrt(30) * modes.vectors[0], atol=1e-12)
