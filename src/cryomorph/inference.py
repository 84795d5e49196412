"""New particles, seen with what a finished run learned; nothing that particles share is changed."""

from pathlib import Path

from cryomorph.config import ParticlesConfig, RunConfig, TemplateConfig, component, read_config
from cryomorph.errors import InputError
from cryomorph.fitted import FittedRun
from cryomorph.hardware import HardwareSettings
from cryomorph.poses.known import KnownPosesSettings
from cryomorph.progress import Progress
from cryomorph.run import RunFolder
from cryomorph.workflows import train

EPOCHS = 5
"""Passes over the images, where the latents of each particle are fitted."""


def infer(
    folder: Path,
    particles: ParticlesConfig,
    out: Path,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    hardware: HardwareSettings | None = None,
    progress: Progress | None = None,
) -> RunFolder:
    """Find latents and conformations of new particles with the model of a finished run.

    Latents that are read from images take one look at each. Latents of each particle's own are fitted, with model, gain
    and calibration held fast, from where in the run's latent space its image fits best.

    Parameters
    ----------
    folder
        The finished run.
    particles
        With poses in the frame of the run, and images of its box and pixel size.
    out
        The run folder to write, which is like any other. A stopped inference there is continued.
    epochs
        Passes over the images, where latents are fitted; `EPOCHS` if not given.
    batch_size
        Images at a time; the run's if not given.
    hardware
        Where to compute; as the run if not given.
    progress
        Told of every batch.

    Raises
    ------
    InputError
        If the run's poses were searched, the particles have none or do not go with the run, or `out` is not empty.
    """
    run = RunFolder(out)
    if run.latents.exists():
        raise InputError(f"{out}: holds a finished run; choose another --out")
    return train(_configuration(folder, particles, epochs or EPOCHS, batch_size, hardware), out, progress=progress)


def settings_of(folder: Path) -> RunConfig:
    """Return the configuration of a run, whose particles and hardware are the defaults of an inference.

    Raises
    ------
    InputError
        If there is no run.
    """
    run = RunFolder(folder)
    run.require()
    return read_config(run.config)


def _configuration(
    folder: Path, particles: ParticlesConfig, epochs: int, batch_size: int | None, hardware: HardwareSettings | None
) -> RunConfig:
    """Return the configuration of the run with other particles, whose model is taken as it is."""
    earlier = FittedRun(folder)
    before = earlier.config
    poses = str(before.poses.model_dump()["kind"])
    if not component("poses", poses).needs_poses:
        raise InputError(
            f"{folder}: found its poses itself (poses: {poses}), and those of a particle file are in another frame; "
            "train on the new particles as well, or train a run with known poses"
        )
    fitted = component("latents", str(before.latents.model_dump()["kind"])).per_particle
    training = {
        "epochs": epochs if fitted else 1,
        "warmup_epochs": 0.0,
        "latents_free": 0.0,
        "batch_size": batch_size or before.training.batch_size,
    }
    changed = {
        "particles": particles,
        "template": TemplateConfig(path=earlier.run.template, frame="centre"),
        "poses": KnownPosesSettings(),
        "calibration": before.calibration.model_copy(update={"epochs": ()}),
        "training": before.training.model_copy(update=training),
        "hardware": hardware or before.hardware,
        "start_from": None,
        "infer_from": earlier.run.path,
    }
    return before.model_copy(update=changed).resolved()
