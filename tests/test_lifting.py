"""Ellipsoidal support lifting, against the lifted problem solved by an independent method."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from cryomorph.scan.lifting import lifted_measure, project_on_simplex, support_size
from dense_lifting import lifted_problem, solved

SETTINGS = [(15.0, 2 / 3), (15.0, 0.5), (8.5, 0.7), (40.0, 1.0)]


def misfits(n, images=4, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(-80, 10, (images, n)))


@pytest.mark.parametrize(("j0", "eta"), SETTINGS)
@pytest.mark.parametrize("n", [2, 3, 10, 17, 500])
def test_closed_form_solves_the_lifted_problem(n, j0, eta):
    misfit = misfits(n)
    found = lifted_measure(misfit, n, j0, eta)
    for weight, values in zip(found.numpy(), misfit.numpy(), strict=True):
        np.testing.assert_allclose(weight, solved(values, j0, eta), atol=1e-9)


def test_closed_form_solves_the_lifted_problem_as_a_general_solver_does():
    n, j0, eta = 12, 6.0, 2 / 3
    misfit = misfits(n, images=1)
    squared_residual, factor = lifted_problem(misfit[0].numpy(), j0, eta)
    shifted = squared_residual - squared_residual.min()
    result = minimize(
        lambda mu: shifted @ mu + 0.5 * factor * mu @ mu,
        np.full(n, 1 / n),
        jac=lambda mu: shifted + factor * mu,
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda mu: mu.sum() - 1, "jac": lambda mu: np.ones(n)},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    np.testing.assert_allclose(lifted_measure(misfit, n, j0, eta)[0].numpy(), result.x, atol=1e-5)


@pytest.mark.parametrize(("j0", "eta"), SETTINGS)
@pytest.mark.parametrize("n", [2, 10, 1000])
def test_the_lowest_misfits_are_enough(n, j0, eta):
    misfit = misfits(n).float()
    whole = lifted_measure(misfit, n, j0, eta)
    for count in {support_size(n, j0, eta) + 1, n}:
        lowest = misfit.topk(count, largest=False)
        sparse = torch.zeros_like(whole).scatter(1, lowest.indices, lifted_measure(lowest.values, n, j0, eta))
        assert torch.equal(sparse, whole)


def test_scale_and_constant_of_the_misfits_do_not_matter():
    misfit = misfits(500)
    torch.testing.assert_close(lifted_measure(0.01 * misfit + 1234, 500), lifted_measure(misfit, 500))


def test_grid_of_the_paper_looks_at_15_rotations_and_keeps_no_more():
    assert support_size(14_761) == 15
    kept = (lifted_measure(misfits(14_761, images=50), 14_761) > 0).sum(1)
    assert int(kept.min()) > 1
    assert int(kept.max()) <= 15


def test_weights_are_a_measure_that_falls_with_the_misfit():
    misfit = misfits(300).float().sort(dim=1).values
    weight = lifted_measure(misfit, 300)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight.sum(1), torch.ones(4))
    assert (weight >= 0).all()
    assert (weight.diff(dim=1) <= 0).all()


def test_where_misfits_are_equal_they_share_the_weight():
    flat = torch.zeros(1, 16)
    torch.testing.assert_close(lifted_measure(flat, 500), torch.full((1, 16), 1 / 16))
    tied = torch.cat([torch.full((1, 20), -3.0), torch.full((1, 5), -2.0)], dim=1)
    expected = torch.cat([torch.full((1, 20), 1 / 20), torch.zeros(1, 5)], dim=1)
    torch.testing.assert_close(lifted_measure(tied, 500), expected)
    unlike = torch.cat([misfits(25, images=1).float(), tied])
    assert lifted_measure(unlike, 500).isfinite().all()


def test_two_rotations_have_the_lower_one_only_or_both():
    assert support_size(2) == 1
    found = lifted_measure(torch.tensor([[3.0, 1.0]]), 2)
    expected = solved(np.array([3.0, 1.0]))
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(("n", "j0", "eta"), [(1, 15, 2 / 3), (100, 0.5, 2 / 3), (10**6, 1.5, 1.0)])
def test_no_support_is_refused(n, j0, eta):
    with pytest.raises(ValueError, match="no support"):
        support_size(n, j0, eta)


def test_projection_on_the_simplex_is_the_nearest_point():
    point = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 9)))
    found = project_on_simplex(point)
    torch.testing.assert_close(found.sum(1), torch.ones(5, dtype=torch.float64))
    assert (found >= 0).all()
    others = torch.from_numpy(np.random.default_rng(2).dirichlet(np.full(9, 0.3), (2000, 5)))
    # The angle between what is left and any way into the simplex is obtuse: the projection theorem.
    inner = ((point - found) * (others - found)).sum(-1)
    assert float(inner.max()) <= 1e-12
    torch.testing.assert_close(project_on_simplex(found), found)
