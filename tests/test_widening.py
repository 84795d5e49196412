"""How much wider posteriors are than their approximation, where that is known."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from cryomorph import widening as module
from cryomorph.posterior import Posterior
from cryomorph.widening import widening

PARTICLES, DIMENSIONS = 40, 2


def posterior(variance=0.25):
    """Normal distributions about the origin."""
    covariance = variance * torch.eye(DIMENSIONS, dtype=torch.float64).expand(PARTICLES, -1, -1)
    zeros = torch.zeros(PARTICLES, dtype=torch.float64)
    mean = torch.zeros(PARTICLES, DIMENSIONS, dtype=torch.float64)
    return Posterior(mean, covariance, covariance, torch.zeros(PARTICLES, 5, dtype=torch.float64), zeros, zeros)


@dataclass
class Images:
    """As far as `widening` looks at them: how far poses are off, of which it may have drawn some."""

    spread: Tensor | None
    offset: Tensor

    def turned(self, off):
        return replace(self, offset=self.offset + off)


def factor(objective, monkeypatch, draws=400, **about):
    known = Images(None, torch.zeros(PARTICLES, 5))
    monkeypatch.setattr(module, "DRAWS", draws)
    monkeypatch.setattr(module, "value_at", lambda seen, z, prior: (None, objective(z.double())))
    return float(widening(known, posterior(**about), torch.eye(DIMENSIONS), 1.0).mean())


def test_normal_distributions_are_as_wide_as_they_say(monkeypatch):
    assert factor(lambda z: 0.5 * z.square().sum(1) / 0.25, monkeypatch) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("variance", [0.16, 0.36])
def test_a_wrong_curvature_is_made_good(variance, monkeypatch):
    """The objective is that of another variance than is claimed."""
    found = factor(lambda z: 0.5 * z.square().sum(1) / variance, monkeypatch)
    assert found == pytest.approx(variance / 0.25, rel=0.05)


def test_shoulders_count(monkeypatch):
    """A logistic distribution along each axis has the curvature of a normal one and longer tails."""
    scale = 0.5 / 2**0.5  # at the top its curvature is 1 / (2 scale²), here 1 / 0.25

    def objective(z):
        return (torch.nn.functional.softplus(z / scale) * 2 - z / scale).sum(1)

    assert factor(objective, monkeypatch, draws=4000) == pytest.approx((torch.pi * scale) ** 2 / 3 / 0.25, rel=0.06)


@pytest.mark.parametrize("follows", [0.0, 0.1, 0.2])
def test_poses_take_latents_along(follows, monkeypatch):
    """The best latents of a pose change with the square of how far it is off, which no curvature at the top tells."""
    images = Images(torch.ones(5), torch.zeros(PARTICLES, 5))
    curvature = torch.eye(DIMENSIONS, dtype=torch.float64).expand(PARTICLES, -1, -1) / 0.25
    alone = (
        torch.zeros(PARTICLES, DIMENSIONS, 5, dtype=torch.float64),
        torch.eye(5, dtype=torch.float64).expand(PARTICLES, -1, -1),
    )

    def value_at(seen, z, prior):
        off = z.double() - follows * seen.offset[:, :1].double().square()
        return None, 0.5 * off.square().sum(1) / 0.25

    monkeypatch.setattr(module, "DRAWS", 2000)
    monkeypatch.setattr(module, "expand", lambda *_: SimpleNamespace(curvature=curvature))
    monkeypatch.setattr(module, "with_poses", lambda *_: alone)
    monkeypatch.setattr(module, "value_at", value_at)
    found = widening(images, posterior(), torch.eye(DIMENSIONS), 1.0).mean()
    assert float(found) == pytest.approx(1 + 3 * follows**2 / 0.25, rel=0.08)  # ⟨u⁴⟩ = 3
