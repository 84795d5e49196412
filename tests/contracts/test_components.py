"""What every conformation model, prior, pose source, latents and likelihood must do, found by their kind."""

import pytest
import torch
from torch import nn

from cryomorph.components import Settings, discover
from cryomorph.config import DEFAULT_KINDS, SEAMS, component

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
    nn.init.normal_(next(p for p in reversed(list(decoder.parameters())) if p.ndim == 2))
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
    cost = prior(x)
    assert cost.shape == (6,)
    assert (cost > 0).all()
    cost.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_prior_prefers_the_template(prior, dimer):
    template = torch.from_numpy(dimer.coordinates).float()
    assert prior(template[None]) < prior(template[None] + torch.randn(1, *template.shape))
