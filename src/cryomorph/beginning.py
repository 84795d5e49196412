"""What a run takes over from an earlier one: all of it, to go on from there, or the model alone, as it is."""

import logging
from pathlib import Path

import numpy as np
import scipy.cluster.vq
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.config import RunConfig, component
from cryomorph.errors import InputError
from cryomorph.fitted import FittedRun
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.particles.loader import prefetch
from cryomorph.particles.stack import ParticleStack
from cryomorph.progress import Progress, Silent
from cryomorph.structure.beads import Beads
from cryomorph.structure.model import Template
from cryomorph.training import Trainer

logger = logging.getLogger(__name__)

PLACES = 16
"""Places in latent space that each image is compared with, before its latents are fitted."""
PLACES_FROM = 4096
"""Particles of the earlier run whose latents tell where there are any."""
IMAGES_AT_ONCE = 64
SAME_PLACE = 0.01
"""Å by which coordinates of the same template may differ: files are rounded."""
SAME_PIXELS = 1e-3
"""By which pixel sizes of the same images may differ, as a share."""


def open_earlier(config: RunConfig, stack: ParticleStack, template: Template) -> FittedRun | None:
    """Open the run that a configuration begins with, if it names one.

    Parameters
    ----------
    config
        Of the new run.
    stack
        Its particles.
    template
        Its template, in the map frame.

    Raises
    ------
    InputError
        If the earlier run is not complete, or has nothing that the new one could take over.
    """
    folder = config.infer_from or config.start_from
    if folder is None:
        return None
    earlier = FittedRun(folder)
    _check_model(config, earlier, template)
    if config.infer_from is None:
        _check_particles(config, earlier, stack)
    else:
        _check_images(earlier, stack, config.particles.path)
    return earlier


def take_over(trainer: Trainer, config: RunConfig, earlier: FittedRun, progress: Progress | None = None) -> None:
    """Begin where the earlier run ended: with its model, gain and calibration, and with its latents or near them.

    Parameters
    ----------
    trainer
        Of the new run, before the first step.
    config
        Of the new run.
    earlier
        What `open_earlier` returned.
    progress
        Told of images.
    """
    state = earlier.run.load_checkpoint()
    reconstruction = trainer.reconstruction
    changed = []
    if config.poses != earlier.config.poses or config.infer_from is not None:
        changed.append("poses.")
    if reconstruction.molecule.kind != earlier.reconstruction.molecule.kind:
        changed.append("beads.")
    shared = {name: value for name, value in state["reconstruction"].items() if name[:6] not in changed}
    reconstruction.load_state_dict(shared, strict=not changed)
    if config.priors.strength != "auto":  # else that of the earlier run is the start
        reconstruction.strength.fill_(config.priors.strength)
    if config.latent_prior != "auto":
        reconstruction.latent_prior.fill_(config.latent_prior)
    if state["calibration"] is not None and config.calibration.shells != "none":
        trainer.use_calibration(ShellCalibration(**state["calibration"]))
    latents = trainer.latents
    if not latents.per_particle or (config.infer_from is None and config.latents == earlier.config.latents):
        latents.load_state_dict(state["latents"])
    if latents.per_particle and config.infer_from is None:
        rows = torch.arange(len(earlier.latents), device=trainer.fabric.device)
        latents.place(
            trainer.optimisation.of_latents, rows, torch.from_numpy(earlier.latents).to(trainer.fabric.device)
        )
    elif latents.per_particle:
        _place_where_images_fit(trainer, places_among(earlier.latents, config.seed), progress or Silent())


def _check_model(config: RunConfig, earlier: FittedRun, template: Template) -> None:
    folder, before = earlier.run.path, earlier.config
    if config.decoder != before.decoder:
        raise InputError(f"{folder}: was trained with another decoder; take the same settings to start from it")
    if config.scattering != before.scattering:
        raise InputError(f"{folder}: was trained with other settings of scattering; take the same to start from it")
    same = len(template) == len(earlier.template) and template.residue_names == earlier.template.residue_names
    if not same or np.abs(template.coordinates - earlier.template.coordinates).max() > SAME_PLACE:
        raise InputError(f"{folder}: was trained with another template, or the same in another place; take that one")
    shared = not component("latents", _kind(config.latents)).per_particle
    if shared and config.latents != before.latents:
        raise InputError(
            f"{folder}: latents: {_kind(config.latents)} are shared by all particles and start only from those of a "
            "run with the same settings of latents"
        )


def _check_particles(config: RunConfig, earlier: FittedRun, stack: ParticleStack) -> None:
    folder, before = earlier.run.path, earlier.config
    if not earlier.run.has_particles(config.particles.files(), stack.source_index):
        raise InputError(f"{folder}: has other particles than {config.particles.path}; take the same file and rows")
    for name in ("box", "pixel_size", "invert"):
        if getattr(config.particles, name) != getattr(before.particles, name):
            raise InputError(f"{folder}: its particles have another {name}; take the same")
    poses = component("poses", _kind(config.poses))
    if config.poses != before.poses and (component("poses", _kind(before.poses)).finds or not poses.needs_poses):
        raise InputError(
            f"{folder}: its latents go with its poses ({_kind(before.poses)}); take the same settings of poses"
        )


def _check_images(earlier: FittedRun, stack: ParticleStack, path: Path) -> None:
    groups = np.unique(stack.table.optics_group)
    if groups.max() >= earlier.groups:
        raise InputError(
            f"{path}: has {groups.max() + 1} optics groups, {earlier.run.path} knows the gain of {earlier.groups}; "
            "choose particles of its groups with --indices"
        )
    box, pixel_size = earlier.run.images()
    pixel_size = np.append(pixel_size, np.full(earlier.groups, np.nan))  # of groups without particles, anything goes
    for group in groups:
        found = float(stack.pixel_size[stack.table.optics_group == group][0])
        expected = float(pixel_size[group])
        if stack.box != box or abs(found - expected) > SAME_PIXELS * expected:
            raise InputError(
                f"{path}: images of optics group {group + 1} have {stack.box} pixels of {found:.4g} Å, in "
                f"{earlier.run.path} they have {box} of {expected:.4g} Å; see --box and --pixel-size"
            )


def places_among(latents: NDArray[np.float32], seed: int) -> Tensor:
    """Return a few places (k, d) among latents (m, d), near every one of which there are particles."""
    generator = np.random.default_rng(seed)
    some = latents[np.linspace(0, len(latents) - 1, min(len(latents), PLACES_FROM)).astype(np.int64)]
    count = min(PLACES, len(np.unique(some, axis=0)))
    centres, _ = scipy.cluster.vq.kmeans(some.astype(np.float64), count, rng=generator)
    return torch.from_numpy(np.asarray(centres, dtype=np.float32))


@torch.no_grad()
def _place_where_images_fit(trainer: Trainer, places: Tensor, progress: Progress) -> None:
    """Put the latents of each particle that this process owns at the place whose conformation fits its image best."""
    reconstruction, device = trainer.reconstruction, trainer.fabric.device
    likelihood = reconstruction.likelihood
    z = places.to(device)
    beads = reconstruction.beads(reconstruction.conformations(z))
    cost = 0.5 * reconstruction.latent_prior.to(z.dtype) * z.square().sum(1)
    rows = np.flatnonzero(trainer.owned.numpy())
    source = trainer.source  # has a bar of its own
    progress.start("comparing", len(rows))
    try:
        for batch in prefetch(source, np.array_split(rows, -(-len(rows) // IMAGES_AT_ONCE))):
            moved = batch.to(device)
            rotation, shift = reconstruction.poses.best(moved)
            misfit = torch.empty(len(z), len(moved), device=device)
            for number, positions in enumerate(beads.positions):
                one = Beads(positions.expand(len(moved), -1, -1), beads.amplitude, beads.width)
                misfit[number] = likelihood.misfit(*likelihood.terms(one, rotation, shift, moved), moved)
            best = (misfit + cost[:, None]).argmin(0)
            trainer.latents.place(trainer.optimisation.of_latents, moved.index, z[best])
            progress.advance(len(batch))
    finally:
        progress.finish()


def _kind(settings: object) -> str:
    return str(settings.kind)  # type: ignore[attr-defined]
