"""The same numbers on a GPU as on the CPU; skipped, visibly, where there is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.calibration import calibrate
from cryomorph.config import component
from cryomorph.gridding.projections import bead_coefficients
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.likelihood.matched_filter import MatchedFilter, MatchedFilterSettings
from cryomorph.scan.fast import RingScan
from cryomorph.scan.grid import ProductGrid
from cryomorph.simulate import draw_particles, map_frame, multislice
from cryomorph.structure.beads import Beads
from dense_likelihood import coarse_batch
from particle_arrays import ArrayStack
from scan_cases import RADIUS, molecule, particles, seen, windowed
from test_calibration import NOISE, SIGNAL, sums_of, with_images
from test_calibration import make_batch as make_particles
from test_calibration import make_beads as make_scatterers
from test_likelihood import make_batch, make_beads
from test_matched_filter import assert_agree, rigid, single, template_of, terms_and_gradients
from test_simulate import make_ensemble, make_settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
GPU = torch.device("cuda")


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


def beads_on_gpu(beads):
    return Beads(beads.positions.to(GPU), beads.amplitude.to(GPU), beads.width.to(GPU))


def assert_agrees_with_the_cpu(likelihood, beads, batch, expected, tolerance=3e-5):
    """Compare with exact terms and gradients on the CPU; float32 rounding is left."""
    found = terms_and_gradients(likelihood, beads_on_gpu(single(beads)), batch.to(GPU), moved=0.7)
    assert all(values.device.type == "cuda" for values in found)
    assert_agree([values.cpu() for values in found], expected, tolerance)


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("box", [25, 80])
def test_matched_filter_agrees_with_the_direct_likelihood_on_the_cpu(box, engine):
    batch, beads = make_batch(box), make_beads(beads=30)
    expected = terms_and_gradients(Direct(DirectSettings(), 1), beads, batch, moved=0.7)
    likelihood = MatchedFilter(MatchedFilterSettings(engine=engine), 1).to(GPU)
    assert_agrees_with_the_cpu(likelihood, beads, single(batch), expected)


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("pairs", ["box", "auto"])
def test_prepared_windows_agree_with_the_direct_likelihood_on_the_cpu(pairs, engine, tmp_path):
    batch, beads = make_batch(160), rigid(make_beads(beads=40))
    expected = terms_and_gradients(Direct(DirectSettings(), 1), beads, batch, moved=0.7)
    settings = MatchedFilterSettings(engine=engine, pairs=pairs, storage="float32", margin=30.0)
    likelihood = MatchedFilter(settings, 1).to(GPU)
    source = likelihood.prepare(ArrayStack(single(batch)), beads_on_gpu(template_of(beads)), tmp_path)
    assert_agrees_with_the_cpu(likelihood, beads, source.batch(np.arange(len(batch))), expected)


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


def test_shells_are_calibrated_as_on_the_cpu():
    beads = make_scatterers(60)
    batch = with_images(make_particles(60), beads, SIGNAL, NOISE)
    expected = calibrate(sums_of(batch, beads), "both", 8)[0]
    found = calibrate(sums_of(batch.to(GPU), beads_on_gpu(beads)), "both", 8)[0]
    for name in ("noise", "signal"):
        assert getattr(found, name).device.type == "cuda"
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_scan_finds_what_it_finds_on_the_cpu(engine, tmp_path):
    molecules = molecule(conformations=2)
    pictures, gain = seen(
        replace(molecules, positions=molecules.positions[:1]), particles(images=3, astigmatism=700.0), 96
    )
    results = []
    for device, chosen in ((torch.device("cpu"), "auto"), (GPU, engine)):
        here = Beads(*(value.to(device) for value in vars(molecules).values()))
        likelihood, batch = windowed(pictures, here, gain, tmp_path / device.type, engine=chosen)
        likelihood = likelihood.to(device)
        scan = RingScan(likelihood, ProductGrid(40, 20), shift_range=4.0, radius=RADIUS)
        images = scan.see(batch.to(device))
        results.append((scan.lowest(images, here, 30), scan.lowest_normalised(images, here, 30)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found.misfit.cpu(), expected.misfit, rtol=1e-3, atol=0.05)
        assert torch.equal(found.conformation[:, 0].cpu(), expected.conformation[:, 0])
        torch.testing.assert_close(found.rotation[:, 0].cpu(), expected.rotation[:, 0])
        torch.testing.assert_close(found.shift[:, 0].cpu(), expected.shift[:, 0])


@pytest.mark.parametrize("kind", ["encoder", "variational_encoder"])
def test_latents_read_from_images_agree_with_the_cpu(kind):
    torch.manual_seed(0)
    cls = component("latents", kind)
    latents = cls(cls.Settings(box=32, low_pass=20.0), {"modes": slice(0, 5), "rotation": slice(5, 11)}, 3).eval()
    batch = coarse_batch(40)
    expected, cost = latents.encode(batch)
    expected.sum().backward()
    gradient = latents.network.blocks[0].first.weight.grad.clone()
    latents.zero_grad()
    found, cost_found = latents.to(GPU).encode(batch.to(GPU))
    found.sum().backward()
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-4)  # convolutions may round to TF32
    torch.testing.assert_close(cost_found.cpu(), cost, rtol=1e-2, atol=1e-4)
    found_gradient = latents.network.blocks[0].first.weight.grad.cpu()
    torch.testing.assert_close(found_gradient, gradient, rtol=0, atol=0.05 * float(gradient.abs().max()))


def test_coefficients_by_way_of_a_grid_agree_with_the_cpu():
    generator = torch.Generator().manual_seed(0)
    points, amplitude = 20 * torch.randn(4, 50, 2, generator=generator), 5 + torch.rand(50, generator=generator)
    given = points, amplitude, torch.full((50,), 1.7), torch.tensor([2.0, 1.5, 2.0, 1.5])
    expected = bead_coefficients(*given, 48)
    found = bead_coefficients(*(value.to(GPU) for value in given), 48)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_multislice_images_agree_with_the_cpu():
    settings = make_settings(box=32, pixel_size=2.0, defocus=9000.0, phase_shift=0.0, images_per_conformation=2)
    ensemble = map_frame(make_ensemble(1))
    particles_drawn = draw_particles(1, settings)
    expected, found = (
        np.concatenate(list(multislice.contrasts(ensemble, particles_drawn, settings, device=device)))
        for device in (torch.device("cpu"), GPU)
    )
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
