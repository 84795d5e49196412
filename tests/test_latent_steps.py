"""Latents under other strengths of their prior, against posteriors found anew, and the prior that is chosen."""

import numpy as np
import pytest
import torch

from cryomorph.fourier import image_coefficients
from cryomorph.held_out import HeldOut
from cryomorph.latent_steps import LatentSteps
from cryomorph.latents.table import TableLatents, TableLatentsSettings
from cryomorph.posterior import find_posterior
from cryomorph.selection import FreeSettings, Selection
from cryomorph.trials import TrialSettings, Tried, choose, most_explained
from particle_arrays import ArrayStack
from test_posterior import BOX, DIMENSIONS, dense, make, optics, with_noise

CPU = torch.device("cpu")


def particles(width, *, images=64, gain):
    """Images of latents of a given deviation, and a model whose latents are where a prior of 1 puts them."""
    truth = np.random.default_rng(1).normal(0, width, (images, DIMENSIONS))
    batch, reconstruction = optics(images), make(gain=gain)
    batch.image = with_noise(dense(truth, batch, gain))
    selection = Selection.work(BOX, FreeSettings(share=0.25), 0)
    latents = TableLatents(TableLatentsSettings(), {"all": slice(0, DIMENSIONS)}, images)
    optimizer = latents.optimizer(0.1, 0.1)
    start = torch.from_numpy(truth).float()  # not some other minimum, far away
    found = find_posterior(
        *(reconstruction, batch, image_coefficients(batch.image), start),
        box=BOX,
        latent_prior=1.0,
        selection=selection,
        steps=20,
    )
    latents.place(optimizer, torch.arange(images), found.mean.float())
    owned = np.ones(images, dtype=bool)
    held_out = HeldOut(reconstruction, latents, ArrayStack(batch), selection, images, owned, CPU)
    return held_out, optimizer, batch


@pytest.mark.parametrize("prior", [1 / 3, 1.0, 3.0])
def test_a_step_leads_to_where_latents_are_most_probable(prior):
    held_out, optimizer, batch = particles(0.3, gain=60.0, images=24)
    before = held_out.latents(batch).detach().clone()
    LatentSteps(held_out).take(prior, optimizer)
    expected = find_posterior(
        *(held_out.reconstruction, batch, image_coefficients(batch.image), before),
        box=BOX,
        latent_prior=prior,
        selection=held_out.selection,
        steps=20,
        enough=1e-6,
    ).mean
    moved = held_out.latents(batch).detach().double()
    error = float((moved - expected).norm() / (expected - before).norm().clamp(min=0.05))
    assert error < 0.4


@pytest.mark.parametrize(("width", "gain", "chosen"), [(3.0, 4.0, 1 / 3), (1.0, 8.0, 1.0), (0.05, 5.0, 3.0)])
def test_the_prior_is_as_wide_as_the_latents_are(width, gain, chosen):
    """Of 256 images of latents of a known width, in units of a prior of 1."""
    held_out, optimizer, _ = particles(width, images=256, gain=gain)
    steps = LatentSteps(held_out)

    def go_on_with(prior):
        steps.take(prior, optimizer)
        return Tried(*held_out.motion(lambda *tensors: None))

    choice = choose(1.0, (1 / 3, 3.0), go_on_with, most_explained, TrialSettings())
    assert choice.chosen == pytest.approx(chosen), str(choice)
