"""Geometric priors, against paper A's equations written as loops."""

import numpy as np
import pytest
import torch

from cryomorph.priors.bonds import BondsPrior, BondsPriorSettings
from cryomorph.priors.centre import CentrePrior, CentrePriorSettings
from cryomorph.priors.log_distance import LogDistancePrior, LogDistancePriorSettings


def deformed(template, seed=0, size=0.5):
    noise = np.random.default_rng(seed).normal(size=(3, *template.coordinates.shape))
    return template.coordinates + size * noise


def as_tensor(coordinates):
    return torch.from_numpy(coordinates).float()


def at_rest(template, dtype=torch.float32):
    return torch.from_numpy(template.coordinates).to(dtype)


def test_centre_is_the_squared_drift_of_the_mean(dimer):
    moved = dimer.moved(np.array([100.0, -50.0, 20.0]))
    prior = CentrePrior(CentrePriorSettings(), moved)
    drifted = moved.coordinates + np.array([1.0, 2.0, -2.0])
    torch.testing.assert_close(
        prior(as_tensor(drifted[None]), at_rest(dimer)), torch.tensor([9.0]), rtol=1e-4, atol=1e-4
    )


def test_bonds_is_equation_4_and_skips_the_chain_break(dimer):
    x, x0 = deformed(dimer), dimer.coordinates
    expected = np.zeros(3)
    for i in range(len(dimer) - 1):
        if dimer.chain[i] == dimer.chain[i + 1]:
            change = np.linalg.norm(x[:, i + 1] - x[:, i], axis=-1) - np.linalg.norm(x0[i + 1] - x0[i])
            expected += change**2 / len(dimer)
    prior = BondsPrior(BondsPriorSettings(), dimer)
    np.testing.assert_allclose(prior(as_tensor(x), at_rest(dimer)).numpy(), expected, rtol=1e-4)


def test_log_distance_is_equation_5_within_chains(dimer):
    x, x0 = deformed(dimer), dimer.coordinates
    expected = np.zeros(3)
    for i in range(len(dimer)):
        for j in range(i + 1, len(dimer)):
            if dimer.chain[i] == dimer.chain[j]:
                ratio = np.linalg.norm(x[:, i] - x[:, j], axis=-1) / np.linalg.norm(x0[i] - x0[j])
                expected += np.exp(-0.25 * (j - i)) * np.log(ratio) ** 2
    prior = LogDistancePrior(LogDistancePriorSettings(), dimer)
    np.testing.assert_allclose(prior(as_tensor(x), at_rest(dimer)).numpy(), expected, rtol=1e-4)


def test_log_distance_leaves_out_only_what_is_negligible(dimer):
    x = as_tensor(deformed(dimer, size=2.0))
    fast = LogDistancePrior(LogDistancePriorSettings(omega=2.0), dimer)
    assert fast.separation < len(dimer) - 1
    full = LogDistancePrior(LogDistancePriorSettings(omega=2.0), dimer)
    full.separation = len(dimer) - 1
    separation = torch.arange(1.0, len(dimer))
    partner = torch.arange(len(dimer))[:, None] + separation.long()
    chain = torch.from_numpy(dimer.chain)
    same = (partner < len(dimer)) & (chain[partner.clamp(max=len(dimer) - 1)] == chain[:, None])
    full.pair_weight = torch.exp(-2.0 * separation) * same
    torch.testing.assert_close(fast(x, at_rest(dimer)), full(x, at_rest(dimer)), rtol=1e-5, atol=0)


def test_priors_vanish_at_the_template_and_have_finite_gradients_there(dimer):
    for prior in (
        CentrePrior(CentrePriorSettings(), dimer),
        BondsPrior(BondsPriorSettings(), dimer),
        LogDistancePrior(LogDistancePriorSettings(), dimer),
    ):
        x = as_tensor(dimer.coordinates[None]).requires_grad_()
        cost = prior(x, at_rest(dimer))
        cost.sum().backward()
        assert cost.item() < 1e-6
        assert torch.isfinite(x.grad).all()


def test_bonds_and_log_distance_ignore_rigid_motions(dimer):
    from cryomorph.geometry import random_rotations

    x = deformed(dimer)
    moved = x @ random_rotations(1, np.random.default_rng(1))[0].T + np.array([3.0, -1.0, 2.0])
    for prior in (BondsPrior(BondsPriorSettings(), dimer), LogDistancePrior(LogDistancePriorSettings(), dimer)):
        costs = [prior(as_tensor(each), at_rest(dimer)) for each in (x, moved)]
        torch.testing.assert_close(*costs, rtol=1e-3, atol=1e-5)


COMPILED = pytest.mark.parametrize(
    ("cls", "settings"), [(BondsPrior, BondsPriorSettings()), (LogDistancePrior, LogDistancePriorSettings())]
)


def cost_and_gradients(prior, x, rest, dtype):
    """Cost, and its slopes by the conformations and by what is at rest; in double precision nothing is compiled."""
    x, rest = (each.clone().to(dtype).requires_grad_() for each in (x, rest))
    cost = prior(x, rest)
    (cost * torch.arange(1, len(x) + 1)).sum().backward()
    return [value.float() for value in (cost.detach(), x.grad, rest.grad)]


@COMPILED
@pytest.mark.parametrize("size", [0.01, 1.0, 50.0])
def test_compiled_priors_are_the_plain_ones(cls, settings, size, dimer):
    prior = cls(settings, dimer)
    x = as_tensor(deformed(dimer, size=size))
    x[0, 3] = x[0, 4]  # two residues in one place
    rest = as_tensor(deformed(dimer, seed=1, size=0.5 * size)[0])
    found, *slopes = cost_and_gradients(prior, x, rest, torch.float32)
    expected, *expected_slopes = cost_and_gradients(prior, x, rest, torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)
    for slope, expected_slope in zip(slopes, expected_slopes, strict=True):
        torch.testing.assert_close(slope, expected_slope, rtol=1e-4, atol=1e-4 * float(expected_slope.abs().max()))


@COMPILED
def test_a_conformation_at_rest_costs_nothing_and_pulls_as_it_is_pulled(cls, settings, dimer):
    """R1 and R2 do not change when x and x0 change places, so the slope by one is that by the other."""
    x, rest = torch.from_numpy(deformed(dimer)[:1]), at_rest(dimer, torch.float64)
    prior = cls(settings, dimer)
    assert float(prior(x, x[0])) < 1e-12
    one, other = rest.clone().requires_grad_(), rest[None].clone().requires_grad_()
    prior(x, one).sum().backward()
    prior(other, x[0]).sum().backward()
    torch.testing.assert_close(one.grad, other.grad[0], rtol=1e-6, atol=1e-12)


@COMPILED
def test_priors_take_double_precision(cls, settings, dimer):
    prior = cls(settings, dimer)
    x = torch.from_numpy(deformed(dimer))
    cost = prior(x, at_rest(dimer, torch.float64))
    assert cost.dtype == torch.float64
    torch.testing.assert_close(cost.float(), prior(x.float(), at_rest(dimer)), rtol=1e-4, atol=1e-6)


@COMPILED
def test_compiled_priors_show_divergence(cls, settings, dimer):
    x = as_tensor(deformed(dimer))
    x[1, 5, 2] = torch.nan
    assert cls(settings, dimer)(x, at_rest(dimer)).isnan().tolist() == [False, True, False]
