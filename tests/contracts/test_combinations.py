"""Any latents go with any conformation model, with poses that are known and with poses that are looked for."""

import numpy as np
import pytest
import torch

from cryomorph.components import discover
from cryomorph.config import SEAMS, parse_config
from cryomorph.particles.loader import in_order
from cryomorph.results import FittedRun
from cryomorph.training import Trainer
from cryomorph.workflows import train
from small_runs import latents_of, run_settings

DECODERS = list(discover(*SEAMS["decoder"]))
LATENTS = {"table": {"start": 0.1}, "encoder": {"filters": (4, 8), "hidden": 16, "box": 16}}
POSES = {"known": {}, "esl": {"rotations": 100}}
QUICK = {"layers": 2, "modes": 4}
"""Settings of decoders, where they have them, with which they are quick."""


def quick(kind):
    fields = discover(*SEAMS["decoder"])[kind].Settings.model_fields
    return {"kind": kind} | {name: value for name, value in QUICK.items() if name in fields}


def seen_by(trainer):
    """Latents and misfits of all images, as they are now."""
    trainer.latents.eval()
    with torch.no_grad():
        (batch,) = in_order(trainer.stack, np.arange(len(trainer.stack)), torch.device("cpu"), images=True)
        z = trainer.latents(batch)
        misfit = trainer.reconstruction(z, batch)["misfit"]
    trainer.latents.train()
    for total in (trainer.reconstruction.likelihood.cross_sum, trainer.reconstruction.likelihood.power_sum):
        total.zero_()
    return z.clone(), misfit


@pytest.mark.parametrize("poses", POSES)
@pytest.mark.parametrize("latents", LATENTS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_combination_learns(simulated, tmp_path, monkeypatch, decoder, latents, poses):
    fit, seen = Trainer.fit, []

    def watched(trainer, **rest):
        seen.append(seen_by(trainer))
        fit(trainer, **rest)
        seen.append(seen_by(trainer))

    monkeypatch.setattr(Trainer, "fit", watched)
    settings = run_settings(
        simulated,
        decoder=quick(decoder),
        latents={"kind": latents} | LATENTS[latents],
        poses={"kind": poses} | POSES[poses],
        training={"epochs": 1, "batch_size": 4, "learning_rate": 1e-2, "latent_steps": 0},
        calibration={"shells": "none"},
        likelihood="direct",
    )
    settings["particles"]["first"] = 16  # all of one conformation, which is not the template's
    run = train(parse_config(settings, "test"), tmp_path / "run")
    (z, misfit), (z_after, misfit_after) = seen
    assert z.shape == (16, FittedRun(run.path).model.latent_dim)
    assert torch.isfinite(misfit_after).all()
    assert (z_after != z).any(1).all()
    assert misfit_after.mean() < misfit.mean() < 0
    np.testing.assert_allclose(latents_of(run.path), z_after, atol=1e-6)
