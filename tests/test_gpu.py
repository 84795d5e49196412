"""The same numbers on a GPU as on the CPU; skipped, visibly, where there is none."""

import pytest
import torch

from cryomorph.config import component
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.structure.beads import Beads
from test_likelihood import make_batch, make_beads

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def test_direct_likelihood_agrees_with_the_cpu():
    batch, beads = make_batch(25), make_beads()
    results = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        here = batch.to(device)
        positions = beads.positions.to(device).requires_grad_()
        moved = Beads(positions, beads.amplitude.to(device), beads.width.to(device))
        likelihood = Direct(DirectSettings(), 1).to(device)
        misfit = likelihood(moved, here.rotation, here.shift, here)
        misfit.sum().backward()
        results.append((misfit.detach().cpu(), positions.grad.cpu()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["gnn", "mlp"])
def test_decoders_agree_with_the_cpu(kind, dimer):
    torch.manual_seed(0)
    model = component("decoder", kind)(component("decoder", kind).Settings(), dimer)
    torch.nn.init.normal_(model.output.weight, std=0.1)
    z = torch.randn(4, model.latent_dim)
    on_cpu = model(z)
    torch.testing.assert_close(model.to("cuda")(z.to("cuda")).cpu(), on_cpu, rtol=1e-3, atol=1e-3)


def test_half_precision_moves_atoms_by_little(dimer):
    torch.manual_seed(0)
    model = component("decoder", "gnn")(component("decoder", "gnn").Settings(), dimer).to("cuda")
    torch.nn.init.normal_(model.output.weight, std=0.1)
    z = torch.randn(4, model.latent_dim, device="cuda")
    exact = model(z)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        rounded = model(z)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm(dim=-1).max() < 0.02 * (exact - model.template).norm(dim=-1).max()
