"""What every conformation model, prior, pose source, latents and likelihood must do, found by their kind."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cryomorph.components import Settings, discover
from cryomorph.config import DEFAULT_KINDS, SEAMS, component
from cryomorph.geometry import random_rotations
from dense_likelihood import coarse_batch, coarse_beads, dense_gradient, dense_misfit

KINDS = [(seam, kind) for seam, found in SEAMS.items() for kind in discover(*found)]


def kinds(seam):
    return [kind for name, kind in KINDS if name == seam]


@pytest.mark.parametrize(("seam", "kind"), KINDS)
def test_settings_refuse_unknown_fields_and_stand_alone(seam, kind):
    settings = component(seam, kind).Settings
    assert settings().kind == kind
    assert issubclass(settings, Settings)
    with pytest.raises(ValueError, match="nonsense"):
        settings(nonsense=1)


def test_every_default_exists():
    for seam, kind in DEFAULT_KINDS.items():
        assert kind in kinds(seam)


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(ValueError, match="gnn"):
        component("decoder", "transformer")


@pytest.fixture(params=kinds("decoder"))
def decoder(request, dimer):
    torch.manual_seed(0)
    cls = component("decoder", request.param)
    return cls(cls.Settings(), dimer)


def test_decoder_returns_coordinates_of_all_residues(decoder, dimer):
    x = decoder(torch.randn(5, decoder.latent_dim))
    assert x.shape == (5, len(dimer), 3)
    assert x.dtype == torch.float32


def test_decoder_starts_near_the_template(decoder):
    x = decoder(torch.randn(50, decoder.latent_dim))
    assert (x - decoder.template).norm(dim=-1).max() < 1.0


def test_decoder_treats_images_one_by_one(decoder):
    for weight in decoder.parameters():
        nn.init.normal_(weight, std=0.1)
    z = torch.randn(4, decoder.latent_dim)
    one_by_one = torch.cat([decoder(row[None]) for row in z])
    torch.testing.assert_close(decoder(z), one_by_one, rtol=1e-4, atol=1e-4)


def test_decoder_passes_gradients_to_latents_and_to_all_weights(decoder):
    z = torch.randn(8, decoder.latent_dim, requires_grad=True)
    decoder(z).square().sum().backward()
    assert z.grad.abs().sum() > 0
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_decoder_survives_its_state_dict(decoder, dimer):
    cls = type(decoder)
    torch.manual_seed(1)
    other = cls(cls.Settings(), dimer)
    other.load_state_dict(decoder.state_dict())
    z = torch.randn(3, decoder.latent_dim)
    assert torch.equal(decoder(z), other(z))


def test_latent_blocks_cover_the_latents_once(decoder):
    covered = torch.zeros(decoder.latent_dim)
    for block in decoder.latent_blocks().values():
        covered[block] += 1
    assert (covered == 1).all()


@pytest.fixture(params=kinds("priors"))
def prior(request, dimer):
    cls = component("priors", request.param)
    return cls(cls.Settings(), dimer)


def test_prior_gives_one_non_negative_cost_an_image(prior, dimer):
    template = torch.from_numpy(dimer.coordinates).float()
    x = (template + torch.randn(6, *template.shape)).requires_grad_()
    cost = prior(x, template)
    assert cost.shape == (6,)
    assert (cost > 0).all()
    cost.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_prior_prefers_the_template(prior, dimer):
    template = torch.from_numpy(dimer.coordinates).float()
    assert prior(template[None], template) < prior(template[None] + torch.randn(1, *template.shape), template)


PARTICLES = 10
BLOCKS = {"bend": slice(0, 1), "twist": slice(1, 4)}
LATENT_DIM = 4
TWO_BATCHES = (torch.tensor([7, 1, 4]), torch.tensor([3, 0, 9]))
SMALL = {kind: {"filters": (4, 8)} for kind in ("encoder", "variational_encoder")}
"""Settings with which latents that are read from images are quick."""


def make_latents(kind, seed):
    torch.manual_seed(seed)
    cls = component("latents", kind)
    return cls(cls.Settings(**SMALL.get(kind, {})), BLOCKS, PARTICLES)


@pytest.fixture(params=kinds("latents"))
def latents(request):
    return make_latents(request.param, seed=0)


def of_latents(**traits):
    """Latents of the kinds that have these class attributes."""
    found = [kind for kind in kinds("latents") if traits.items() <= vars_of(component("latents", kind)).items()]
    assert found
    return pytest.mark.parametrize("latents", found, indirect=True)


def vars_of(cls):
    return {name: getattr(cls, name) for name in ("sees_images", "per_particle")}


def batch_of(rows):
    """Particles by their rows: the images of each are always the same."""
    everything = coarse_batch(8, images=PARTICLES)
    return replace(everything[rows], index=rows)


def what_is_known(latents):
    """Coordinates and cost of every particle, shape (particles, d + 1)."""
    everything = batch_of(torch.arange(PARTICLES))
    latents.eval()
    with torch.no_grad():
        known = torch.cat([latents(everything), latents.cost(everything)[:, None]], dim=1)
    latents.train()
    return known


def step(latents, optimizer, rows):
    optimizer.zero_grad()
    z, cost = latents.encode(batch_of(rows))
    ((z - 3).square().sum() + cost.sum()).backward()
    optimizer.step()


def test_latents_know_their_size(latents):
    assert latents.latent_dim == LATENT_DIM
    assert list(latents.blocks.items()) == list(BLOCKS.items())


def test_blocks_may_be_named_in_any_order():
    for kind in kinds("latents"):
        cls = component("latents", kind)
        made = cls(cls.Settings(**SMALL.get(kind, {})), dict(reversed(BLOCKS.items())), PARTICLES)
        assert list(made.blocks.items()) == list(BLOCKS.items())
        assert made(batch_of(TWO_BATCHES[0])).shape == (3, LATENT_DIM)


def test_latents_have_the_shape_and_type_the_decoder_takes(latents):
    batch = batch_of(TWO_BATCHES[0])
    for _ in range(2):
        for precise in (True, False):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not precise):
                z = latents(batch)
            assert z.shape == (3, LATENT_DIM)
            assert z.dtype == torch.float32
            assert torch.isfinite(z).all()
        latents.eval()


def test_latents_cost_every_particle_something_finite(latents):
    cost = latents.cost(batch_of(TWO_BATCHES[0]))
    assert cost.shape == (3,)
    assert torch.isfinite(cost).all()
    assert (cost >= 0).all()


def test_latents_and_their_cost_belong_together(latents):
    batch = batch_of(TWO_BATCHES[0])
    latents.eval()
    z, cost = latents.encode(batch)
    assert torch.equal(z, latents(batch))
    assert torch.equal(cost, latents.cost(batch))


@of_latents(sees_images=False)
def test_latents_that_see_no_images_need_none(latents):
    batch = batch_of(TWO_BATCHES[0])
    latents.eval()
    assert torch.equal(latents(replace(batch, image=None)), latents(batch))


@of_latents(sees_images=True)
def test_latents_that_see_images_say_so(latents):
    with pytest.raises(ValueError, match="need the images of the batch"):
        latents(replace(batch_of(TWO_BATCHES[0]), image=None))


@of_latents(per_particle=True)
def test_a_step_moves_the_latents_of_its_batch_and_no_others(latents):
    assert latents.shared_parameters() == []
    optimizer = latents.optimizer(0.1, 0.0)
    for rows in TWO_BATCHES:  # in the second step, the moments of the first are there
        before = what_is_known(latents)
        step(latents, optimizer, rows)
        changed = (what_is_known(latents) != before).any(1)
        assert changed.nonzero()[:, 0].tolist() == sorted(rows.tolist())


@of_latents(per_particle=False)
def test_a_step_moves_the_latents_of_all_particles_at_the_shared_rate(latents):
    shared = latents.shared_parameters()
    assert {id(weight) for weight in shared} == {id(weight) for weight in latents.parameters()}
    before = what_is_known(latents)
    step(latents, latents.optimizer(0.1, 0.0), TWO_BATCHES[0])
    assert torch.equal(what_is_known(latents), before)
    step(latents, latents.optimizer(0.0, 0.01), TWO_BATCHES[0])
    assert (what_is_known(latents) != before).any(1).all()


def test_latents_follow_their_gradient(latents):
    optimizer = latents.optimizer(0.1, 0.01)
    before = what_is_known(latents)[:, :LATENT_DIM]
    for _ in range(20):
        step(latents, optimizer, TWO_BATCHES[0])
    after = what_is_known(latents)[:, :LATENT_DIM]
    rows = TWO_BATCHES[0]
    assert ((after[rows] - 3).norm(dim=1) < (before[rows] - 3).norm(dim=1)).all()


def test_every_parameter_of_latents_has_a_gradient(latents):
    z, cost = latents.encode(batch_of(torch.arange(PARTICLES)))
    (z.square().sum() + cost.sum()).backward()
    for name, parameter in latents.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad.to_dense()).all(), name


def test_latents_know_particles_whatever_else_is_in_the_batch(latents):
    known = what_is_known(latents)
    latents.eval()
    found = latents(batch_of(TWO_BATCHES[0]))
    torch.testing.assert_close(found, known[TWO_BATCHES[0], :LATENT_DIM], rtol=1e-5, atol=1e-6)


def test_latents_do_not_vary_in_evaluation_mode(latents):
    assert torch.equal(what_is_known(latents), what_is_known(latents))


@pytest.mark.parametrize("kind", kinds("latents"))
def test_latents_survive_their_state_dict(kind):
    latents, other = make_latents(kind, seed=0), make_latents(kind, seed=1)
    step(latents, latents.optimizer(0.1, 0.01), TWO_BATCHES[0])
    assert not torch.equal(what_is_known(other), what_is_known(latents))
    other.load_state_dict(latents.state_dict())
    assert torch.equal(what_is_known(other), what_is_known(latents))


def test_gathering_latents_in_one_process_changes_nothing(latents):
    optimizer = latents.optimizer(0.1, 0.01)
    step(latents, optimizer, TWO_BATCHES[0])
    known, state = what_is_known(latents), copy.deepcopy(optimizer.state_dict())
    latents.gather(optimizer, torch.ones(PARTICLES, dtype=torch.bool), lambda tensor: None)
    assert torch.equal(what_is_known(latents), known)
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)


@of_latents(per_particle=True)
def test_placed_latents_are_where_they_were_put(latents):
    optimizer = latents.optimizer(0.1, 0.01)
    for rows in TWO_BATCHES:
        step(latents, optimizer, rows)
    rows, before = TWO_BATCHES[0], what_is_known(latents)
    latents.place(optimizer, rows, torch.full((3, LATENT_DIM), 3.0))
    after = what_is_known(latents)
    assert (after[rows, :LATENT_DIM] == 3).all()
    others = [row for row in range(PARTICLES) if row not in rows.tolist()]
    assert torch.equal(after[others], before[others])


@of_latents(per_particle=False)
def test_shared_latents_cannot_be_placed(latents):
    with pytest.raises(ValueError, match="none can be placed"):
        latents.place(latents.optimizer(0.1, 0.01), TWO_BATCHES[0], torch.zeros(3, LATENT_DIM))


BOXES = pytest.mark.parametrize("box", [24, 25])
GAIN = torch.tensor([0.6, 1.4])


@pytest.fixture(params=kinds("likelihood"))
def likelihood(request):
    cls = component("likelihood", request.param)
    made = cls(cls.Settings(), len(GAIN))
    made.gain.copy_(GAIN)
    return made


def misfit_and_gradient(likelihood, beads, batch):
    positions = beads.positions.clone().requires_grad_()
    misfit = likelihood(replace(beads, positions=positions), batch.rotation, batch.shift, batch)
    (gradient,) = torch.autograd.grad(misfit.sum(), positions)
    return misfit.detach(), gradient


def assert_same(found, expected, tolerance):
    """Compare by the largest of the expected numbers: a misfit is a difference and may happen to be near 0."""
    expected = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@BOXES
def test_likelihood_gives_each_image_a_finite_misfit_and_each_bead_a_gradient(likelihood, box):
    misfit, gradient = misfit_and_gradient(likelihood, coarse_beads(), coarse_batch(box))
    assert misfit.shape == (3,)
    assert torch.isfinite(misfit).all()
    assert torch.isfinite(gradient).all()
    assert (gradient.abs().amax(-1) > 0).all()


@BOXES
def test_likelihood_is_the_residual_in_real_space(likelihood, box):
    batch, beads = coarse_batch(box), coarse_beads()
    misfit, gradient = misfit_and_gradient(likelihood, beads, batch)
    gain = GAIN.double().numpy()
    assert_same(misfit, dense_misfit(beads.positions.double().numpy(), beads, gain, batch), 1e-3)
    assert_same(gradient, dense_gradient(beads, gain, batch), 1e-3)


def test_gradient_of_the_likelihood_is_its_slope(likelihood):
    batch, beads = coarse_batch(24), coarse_beads()
    _, gradient = misfit_and_gradient(likelihood, beads, batch)
    direction = torch.randn(beads.positions.shape, generator=torch.Generator().manual_seed(2))
    ahead, behind = (
        misfit_and_gradient(likelihood, replace(beads, positions=beads.positions + along * direction), batch)[0]
        for along in (0.2, -0.2)
    )
    assert_same((gradient * direction).sum((1, 2)), (ahead - behind) / 0.4, 5e-3)


def test_turning_molecule_and_pose_together_changes_no_misfit(likelihood):
    batch, beads = coarse_batch(24), coarse_beads()
    common = torch.from_numpy(random_rotations(1, np.random.default_rng(5)))[0].float()
    turned = replace(beads, positions=beads.positions @ common.T)
    expected, _ = misfit_and_gradient(likelihood, beads, batch)
    found, _ = misfit_and_gradient(likelihood, turned, replace(batch, rotation=batch.rotation @ common.T))
    assert_same(found, expected, 1e-4)


def test_likelihood_treats_images_one_by_one(likelihood):
    batch, beads = coarse_batch(24), coarse_beads()
    order = torch.tensor([2, 0, 1])
    names = ("index", "image", "pixel_size", "optics_group", "rotation", "shift", "ctf")
    reordered = replace(batch, **{name: getattr(batch, name)[order] for name in names})
    misfit, gradient = misfit_and_gradient(likelihood, beads, batch)
    found = misfit_and_gradient(likelihood, replace(beads, positions=beads.positions[order]), reordered)
    assert_same(found[0], misfit[order], 1e-5)
    assert_same(found[1], gradient[order], 1e-5)


COARSE = {"esl": {"rotations": 200}}
"""Settings with which pose sources that look far are quick."""


def make_poses(kind):
    cls = component("poses", kind)
    return cls(cls.Settings(**COARSE.get(kind, {})), PARTICLES)


@pytest.fixture(params=kinds("poses"))
def poses(request):
    return make_poses(request.param)


LEARNED_POSES = [kind for kind in kinds("poses") if make_poses(kind).optimizer() is not None]


def best_poses(poses):
    """Most probable pose and cost of every particle, shape (particles, 9 + 2 + 1)."""
    everything = batch_of(torch.arange(PARTICLES))
    with torch.no_grad():
        rotation, shift = poses.best(everything)
        return torch.cat([rotation.flatten(1), shift, poses.cost(everything)[:, None]], dim=1)


def pose_step(poses, optimizer, rows):
    """Take a step that moves the most probable poses, where they can be moved."""
    batch = batch_of(rows)
    optimizer.zero_grad()
    rotation, shift = poses.best(batch)
    (
        (rotation - rotation.detach() @ torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])).square().sum() / 2
        + (shift - 3).square().sum()
        + poses.cost(batch).sum()
    ).backward()
    optimizer.step()


def test_poses_are_a_probability_measure_over_rotations_and_shifts(poses):
    batch, beads = coarse_batch(24), coarse_beads()
    cls = component("likelihood", DEFAULT_KINDS["likelihood"])
    measure = poses(batch, beads, cls(cls.Settings(), len(GAIN)))
    size = measure.weight.shape[1]
    assert measure.rotation.shape == (3, size, 3, 3)
    assert measure.shift.shape == (3, size, 2)
    assert measure.weight.shape == (3, size)
    assert (measure.weight >= 0).all()
    torch.testing.assert_close(measure.weight.sum(1), torch.ones(3))
    identity = torch.eye(3).expand(3, size, 3, 3)
    torch.testing.assert_close(measure.rotation @ measure.rotation.mT, identity, rtol=0, atol=1e-5)
    assert (torch.linalg.det(measure.rotation) > 0).all()
    assert torch.isfinite(measure.shift).all()


def test_the_best_pose_is_a_rotation_and_a_shift(poses):
    batch = batch_of(TWO_BATCHES[0])
    rotation, shift = poses.best(batch)
    assert (rotation.shape, shift.shape) == ((3, 3, 3), (3, 2))
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(3, 3, 3), rtol=0, atol=1e-5)
    for amount in (poses.cost(batch), poses.entropy(batch)):
        assert amount.shape == (3,)
        assert torch.isfinite(amount).all()
        assert (amount >= 0).all()


@pytest.mark.parametrize("kind", LEARNED_POSES)
def test_a_step_moves_the_poses_of_its_batch_and_no_others(kind):
    poses = make_poses(kind)
    optimizer = poses.optimizer()
    for rows in TWO_BATCHES:  # in the second step, the moments of the first are there
        before = best_poses(poses)
        pose_step(poses, optimizer, rows)
        changed = (best_poses(poses) != before).any(1)
        assert changed.nonzero()[:, 0].tolist() == sorted(rows.tolist())


@pytest.mark.parametrize("kind", LEARNED_POSES)
def test_learned_poses_survive_their_state_dict(kind):
    poses, other = make_poses(kind), make_poses(kind)
    pose_step(poses, poses.optimizer(), TWO_BATCHES[0])
    assert not torch.equal(best_poses(other), best_poses(poses))
    other.load_state_dict(poses.state_dict())
    assert torch.equal(best_poses(other), best_poses(poses))


@pytest.mark.parametrize("kind", LEARNED_POSES)
def test_gathering_poses_in_one_process_changes_nothing(kind):
    poses = make_poses(kind)
    optimizer = poses.optimizer()
    pose_step(poses, optimizer, TWO_BATCHES[0])
    known, state = best_poses(poses), copy.deepcopy(optimizer.state_dict())
    poses.gather(optimizer, torch.ones(PARTICLES, dtype=torch.bool), lambda tensor: None)
    assert torch.equal(best_poses(poses), known)
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)


def test_the_end_of_an_epoch_leaves_finite_poses(poses):
    everything = [batch_of(rows) for rows in torch.arange(PARTICLES).split(4)]
    poses.end_of_epoch(iter(everything), lambda *tensors: None)
    assert torch.isfinite(best_poses(poses)).all()
