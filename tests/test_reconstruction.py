import numpy as np
import pytest
import torch

from cryomorph.conformations.mlp import MLP, MLPSettings
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.particles.stack import ParticleStack
from cryomorph.poses.base import PoseMeasure, PoseSource
from cryomorph.poses.known import KnownPoses, KnownPosesSettings
from cryomorph.priors.bonds import BondsPrior, BondsPriorSettings
from cryomorph.priors.centre import CentrePrior, CentrePriorSettings
from cryomorph.priors.log_distance import LogDistancePrior, LogDistancePriorSettings
from cryomorph.reconstruction import Reconstruction
from cryomorph.structure.beads import bead_model
from cryomorph.structure.model import read_template

WEIGHTS = {"centre": 0.3, "bonds": 0.7, "log_distance": 0.2}
ROWS = np.array([5, 1, 30, 7])


class TwoPoses(PoseSource):
    """The known pose, and the same turned by 90° in the plane and moved, with weights of 1/4 and 3/4 in turn."""

    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

    def forward(self, batch, beads, likelihood):
        rotation = torch.stack([batch.rotation, self.turn @ batch.rotation], dim=1)
        shift = torch.stack([batch.shift, batch.shift + torch.tensor([1.0, -2.0])], dim=1)
        first = torch.where(torch.arange(len(batch)) % 2 == 0, 0.25, 0.75)
        return PoseMeasure(rotation, shift, torch.stack([first, 1 - first], dim=1))


def make(template, poses=None, *, strength=50.0, weights=WEIGHTS, beads="residue", common=None):
    torch.manual_seed(1)
    model = MLP(MLPSettings(latent_dim=3, layers=1), template)
    torch.nn.init.normal_(model.output.weight, std=0.3)
    priors = [
        CentrePrior(CentrePriorSettings(weight=weights["centre"]), template),
        BondsPrior(BondsPriorSettings(weight=weights["bonds"]), template),
        LogDistancePrior(LogDistancePriorSettings(weight=weights["log_distance"]), template),
    ]
    likelihood = Direct(DirectSettings(), 1)
    likelihood.gain.fill_(0.02)
    poses = poses or KnownPoses(KnownPosesSettings(), 48)
    return Reconstruction(
        model,
        bead_model(template, beads, freedom=1.0),
        poses,
        likelihood,
        priors,
        strength,
        common=common,
        particles=48,
    )


@pytest.fixture
def batch(simulated):
    return ParticleStack.open(simulated / "particles.star").batch(ROWS)


@pytest.fixture
def z():
    return torch.randn(len(ROWS), 3, generator=torch.Generator().manual_seed(0))


def misfit_by_hand(objective, x, rotation, shift, batch):
    """Half the change of the squared residual that the model makes, image by image."""
    cross, power = objective.likelihood.terms(objective.beads(x), rotation, shift, batch)
    return 0.5 * 0.02**2 * power - 0.02 * cross


def test_misfit_is_that_of_the_decoded_conformation_at_its_pose(helix, batch, z):
    objective = make(helix)
    terms = objective(z, batch)
    expected = misfit_by_hand(objective, objective.conformations(z), batch.rotation, batch.shift, batch)
    torch.testing.assert_close(terms["misfit"], expected)
    assert terms.keys() == {"misfit", "geometry", "shared"}


def test_geometry_is_the_weighted_sum_of_the_priors(helix, batch, z):
    objective = make(helix)
    x = objective.conformations(z).detach().double().numpy()
    x0 = helix.coordinates

    def distance(points, i, j):
        return np.linalg.norm(points[i] - points[j])

    expected = []
    for y in x:
        r0 = np.sum((y.mean(0) - x0.mean(0)) ** 2)
        r1 = sum((distance(y, i, i + 1) - distance(x0, i, i + 1)) ** 2 for i in range(23)) / 24
        pairs = [(i, j) for i in range(24) for j in range(i + 1, 24)]
        r2 = sum(np.exp(-0.25 * (j - i)) * np.log(distance(y, i, j) / distance(x0, i, j)) ** 2 for i, j in pairs)
        expected.append(50 * (0.3 * r0 + 0.7 * r1 + 0.2 * r2))
    np.testing.assert_allclose(objective(z, batch)["geometry"].detach(), expected, rtol=1e-4)


def test_what_beads_learn_is_paid_once_by_all_particles(helix, batch, z):
    objective = make(helix)
    with torch.no_grad():
        objective.beads.deviation[:] = 2.0
    beads = len(objective.beads.amplitude)
    torch.testing.assert_close(objective(z, batch)["shared"], torch.full((len(ROWS),), 0.5 * 4 * 3 * beads / 48))


def test_what_all_conformations_share_is_paid_once(helix, batch, z):
    """If all of them look like what is at rest, they cost nothing each, and together what that costs."""
    objective, paper = make(helix, common=200.0), make(helix)
    x = torch.from_numpy(helix.coordinates).float()
    bent = x + torch.from_numpy(np.random.default_rng(4).normal(scale=0.3, size=x.shape)).float()
    with torch.no_grad():
        objective.rest.copy_(bent)
    each, terms = objective.geometry(bent.expand(3, -1, -1)), objective(z, batch)
    drift = WEIGHTS["centre"] * (bent.mean(0) - x.mean(0)).square().sum()  # from where the template is
    torch.testing.assert_close(each, (50 * drift).expand(3), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        terms["shared"], (4 * paper.geometry(bent[None]) / 48).expand(len(ROWS)), rtol=1e-4, atol=0
    )
    terms["shared"].mean().backward()
    assert objective.rest.grad.abs().sum() > 0
    assert not paper.rest.requires_grad
    assert torch.equal(paper(z, batch)["shared"], torch.zeros(len(ROWS)))


def test_a_measure_of_two_poses_gives_the_expectation(helix, batch, z):
    objective = make(helix, TwoPoses(KnownPosesSettings(), 48))
    x = objective.conformations(z)
    turned = TwoPoses.turn @ batch.rotation
    one = misfit_by_hand(objective, x, batch.rotation, batch.shift, batch)
    other = misfit_by_hand(objective, x, turned, batch.shift + torch.tensor([1.0, -2.0]), batch)
    weight = torch.tensor([0.25, 0.75, 0.25, 0.75])
    terms = objective(z, batch)
    torch.testing.assert_close(terms["misfit"], weight * one + (1 - weight) * other)
    assert (one - other).abs().min() > 1e-3
    torch.testing.assert_close(terms["geometry"], make(helix)(z, batch)["geometry"])


def test_poses_count_for_the_gain_by_their_weight(helix, batch, z):
    objective = make(helix, TwoPoses(KnownPosesSettings(), 48))
    objective(z, batch)
    beads = objective.beads(objective.conformations(z))
    measure = objective.poses(batch, beads, objective.likelihood)
    cross, power = 0.0, 0.0
    for atom in range(2):
        terms = objective.likelihood.terms(beads, measure.rotation[:, atom], measure.shift[:, atom], batch)
        cross, power = (
            total + measure.weight[:, atom] @ term for total, term in zip((cross, power), terms, strict=True)
        )
    torch.testing.assert_close(objective.likelihood.cross_sum[0].float(), cross)
    torch.testing.assert_close(objective.likelihood.power_sum[0].float(), power)


def test_a_pose_of_weight_0_changes_nothing(helix, batch, z):
    class Padded(TwoPoses):
        def forward(self, batch, beads, likelihood):
            measure = super().forward(batch, beads, likelihood)
            return PoseMeasure(measure.rotation, measure.shift, torch.tensor([1.0, 0.0]).expand(len(batch), -1))

    padded, single = make(helix, Padded(KnownPosesSettings(), 48)), make(helix)
    z.requires_grad_()
    for objective in (padded, single):
        objective(z, batch)["misfit"].sum().backward()
    for name, parameter in padded.conformations.named_parameters():
        torch.testing.assert_close(parameter.grad, single.conformations.get_parameter(name).grad, msg=name)
    torch.testing.assert_close(padded.likelihood.power_sum, single.likelihood.power_sum)


@pytest.mark.parametrize("left_out", WEIGHTS)
def test_a_prior_of_weight_0_is_left_out(helix, batch, z, left_out):
    full, objective = make(helix), make(helix, weights=WEIGHTS | {left_out: 0.0})
    assert len(objective.priors) == 2
    (gone,) = [p for p in full.priors if p.settings.kind == left_out]
    difference = full(z, batch)["geometry"] - objective(z, batch)["geometry"]
    cost = gone(full.conformations(z), full.conformations.template)
    torch.testing.assert_close(difference, 50 * WEIGHTS[left_out] * cost, rtol=1e-3, atol=1e-3)


def test_strength_0_leaves_the_images_alone_to_decide(helix, batch, z):
    assert torch.equal(make(helix, strength=0.0)(z, batch)["geometry"], torch.zeros(len(ROWS)))


def test_the_true_conformation_explains_its_images_best(simulated):
    """The misfit of the conformation that an image shows is below that of the other one, for every image."""
    template = read_template(simulated / "template.cif")
    objective = make(template)
    rows = np.arange(48)
    batch = ParticleStack.open(simulated / "particles.star").batch(rows)
    with np.load(simulated / "truth.npz") as truth:
        shown, structures = truth["conformation"], torch.from_numpy(truth["coordinates"])

    def misfit(structure):
        x = structure.expand(48, -1, -1)
        return objective.likelihood(objective.beads(x), batch.rotation, batch.shift, batch)

    misfit(torch.from_numpy(template.coordinates).float())
    objective.likelihood.update_gain()
    misfits = torch.stack([misfit(structure) for structure in structures]).detach().numpy()
    assert (misfits.argmin(0) == shown).mean() > 0.95
    assert misfits.min() < 0


def test_gradients_reach_latents_and_weights(helix, batch, z):
    objective = make(helix)
    z.requires_grad_()
    sum(objective(z, batch).values()).mean().backward()
    assert z.grad.abs().min() > 0
    for name, parameter in objective.named_parameters():
        assert not parameter.requires_grad or torch.isfinite(parameter.grad).all(), name
