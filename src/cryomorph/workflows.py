"""What the commands simulate and train do, as functions. The command line adds nothing but printing."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from cryomorph.amplitudes import AmplitudeFit
from cryomorph.bead_sets import BeadSets
from cryomorph.beginning import open_earlier, take_over
from cryomorph.choices import Choices
from cryomorph.config import (
    RunConfig,
    build_latents,
    build_reconstruction,
    needs_poses,
    open_models,
    open_particles,
    open_template,
    read_config,
)
from cryomorph.errors import InputError
from cryomorph.files import atomic_path, read_arrays
from cryomorph.fitted import FittedRun
from cryomorph.geometry import superpose_core
from cryomorph.hardware import make_fabric, mixed_precision
from cryomorph.held_out import HeldOut, images_each_epoch
from cryomorph.latent_steps import IMAGES
from cryomorph.latents.base import Latents
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.loader import WithImages, in_order
from cryomorph.particles.stack import BatchSource, ParticleStack, read_table
from cryomorph.plots import plot_shells
from cryomorph.progress import Progress
from cryomorph.reconstruction import Reconstruction
from cryomorph.run import RunFolder
from cryomorph.search.everywhere import look_everywhere
from cryomorph.search.joint import JointSearch
from cryomorph.search.moving import MotionSearch
from cryomorph.selection import Selection
from cryomorph.simulate import SimulationSettings, simulate
from cryomorph.structure.beads import BeadKind
from cryomorph.structure.model import Template, read_template
from cryomorph.structure.scatterers import Scatterers
from cryomorph.structure.trajectory import read_ensemble
from cryomorph.structure.write import write_template
from cryomorph.training import Trainer
from cryomorph.trials import Trials, of_latents, of_priors
from cryomorph.uncertainty import Uncertainty, find_uncertainty

logger = logging.getLogger(__name__)

MARGIN = 10.0
"""Å beyond the template's radius that count as particle when the background is measured: room to move."""


def train(config: RunConfig, out: Path, *, resume: bool = False, progress: Progress | None = None) -> RunFolder:
    """Find the conformation of every particle, from the start or from where a stopped run left off.

    Parameters
    ----------
    config
        What to do. A folder that holds a run of the same configuration is continued.
    out
        The run folder.
    resume
        Insist that there is something to continue.
    progress
        Told of every batch.

    Returns
    -------
    RunFolder

    Raises
    ------
    InputError
        If the input is at fault, or the folder holds another run.
    """
    run = RunFolder(out)
    _continues(run, config, resume)  # a folder in the way is told before anything is read
    stack = open_particles(config.particles)
    if not stack.has_poses and needs_poses(config):
        path = config.particles.path
        raise InputError(f"{path}: has no poses; run a consensus refinement first, or give --poses search")
    if len(stack) < config.hardware.devices:
        raise InputError(f"--devices: {config.hardware.devices} processes for {len(stack)} particles; use fewer")
    template, remark = open_template(config.template, stack)
    logger.info(remark)

    fabric = make_fabric(config.hardware)
    fabric.launch()
    first_process = fabric.global_rank == 0
    continues = fabric.broadcast(_continues(run, config, resume) if first_process else None)
    state = run.load_checkpoint() if continues else None
    earlier = open_earlier(config, stack, template) if state is None else None
    if continues:
        run.check_particles(config.particles.files(), stack.source_index)
    elif first_process:
        _open_run(run, config, template, stack)
    fabric.barrier()
    # As written, with its rounded coordinates: what is trained now is what is decoded later.
    template = replace(read_template(run.template), source=template.source)
    stack = stack.with_background_radius(background_radius(template, stack))

    torch.manual_seed(config.seed)
    groups = _groups(stack, state, earlier)
    reconstruction = build_reconstruction(config, template, groups, len(stack), _beads(state, earlier))
    latents = build_latents(config, reconstruction.conformations.latent_blocks(), len(stack))
    search = None
    if reconstruction.poses.searched:
        models = open_models(config.search.models, template)
        search = JointSearch(
            *(config.search, reconstruction, latents, stack, template, models),
            seed=config.seed,
        )
    room = 0.0 if search is None else config.search.room
    held_out, choices = _keep_out(config, reconstruction, latents, stack, template, fabric)
    trainer = Trainer(
        fabric,
        reconstruction,
        latents,
        stack,
        lambda: _prepared(fabric, reconstruction, latents, stack, run.cache, room, progress),
        lambda calibration: _write_calibration(run, calibration, stack) if first_process else None,
        config.training,
        config.calibration,
        search=search or _moving(config, reconstruction, latents, stack),
        held_out=held_out,
        amplitudes=None
        if held_out is None or not config.scattering.active
        else AmplitudeFit(config.scattering, reconstruction, latents, stack, held_out),
        choices=choices,
        mixed=mixed_precision(config.hardware, fabric.device),
        frozen=config.infer_from is not None,
        seed=config.seed,
    )
    bar = progress if first_process else None
    if state is not None:
        trainer.load_state(state)
        logger.info("%s: %d of %d epochs are done", run.path, trainer.epoch, config.training.epochs)
    else:
        if earlier is None:
            trainer.search(bar)
        else:
            take_over(trainer, config, earlier, bar)
        if not trainer.frozen:
            trainer.get_ready(bar)
    if first_process:
        run.add_provenance(config.seed, trainer.epoch, config.infer_from or config.start_from)
        run.truncate_metrics(trainer.epoch)
    trainer.fit(
        on_epoch=run.append_metrics if first_process else lambda row: None,
        on_checkpoint=run.save_checkpoint if first_process else lambda state: None,
        progress=bar,
    )
    if first_process:
        uncertainty = _uncertainty(config, reconstruction, latents, stack, progress)
        if latents.per_particle:
            rows = torch.arange(len(stack), device=fabric.device)
            most_probable = torch.from_numpy(uncertainty.latents).to(fabric.device)
            latents.place(trainer.optimisation.of_latents, rows, most_probable)
        if search is not None:
            everywhere = look_everywhere(search, trainer.source, uncertainty.directions, progress)
            search.poses.remember(everywhere.entropy)
            uncertainty = uncertainty.with_other_poses(everywhere)
        if reconstruction.poses.finds:
            run.save_poses(_all_poses(reconstruction, latents, stack, fabric.device))
        run.save_posterior(uncertainty)
        if isinstance(reconstruction.beads, Scatterers):
            write_template(run.scattering, template, *reconstruction.beads.of_residues())
        run.save_latents(_all_latents(latents, stack, fabric.device))
    fabric.barrier()
    return run


def simulate_images(
    conformations: Path,
    out: Path,
    settings: SimulationSettings,
    *,
    topology: Path | None = None,
    template: Path | None = None,
    poses: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Simulate images with known truth; returns the star file.

    Parameters
    ----------
    conformations
        Trajectory (`.dcd` or `.xtc`, with a topology), PDB or mmCIF with one or several models, or a folder of these.
    out
        Folder for `particles.mrcs`, `particles.star` and `truth.npz`, and what the settings ask for besides.
    settings
        What the images are like.
    topology
        PDB, mmCIF or PSF that names the atoms of a trajectory.
    template
        Model to dock on the mean of the conformations, written as `template.cif` when all else is there.
    poses
        Particle file (`.star`, `.cs`) or truth file (`.npz`) that gives the rotations.
    overwrite
        Replace an earlier simulation.
    """
    return simulate(
        read_ensemble(conformations, topology),
        settings,
        out,
        template=None if template is None else read_template(template),
        rotations=None if poses is None else read_rotations(poses),
        overwrite=overwrite,
        progress=progress,
    )


def read_rotations(path: Path) -> NDArray[np.float64]:
    """Return rotation matrices (m, 3, 3) of a particle file, or of `rotation` in a truth file.

    Raises
    ------
    InputError
        If the file gives none.
    """
    if path.suffix != ".npz":
        rotation = read_table(path).rotation
        if rotation is None:
            raise InputError(f"{path}: has no poses")
        return rotation
    rotation = read_arrays(path, "rotation")["rotation"]
    if rotation.dtype.kind != "f":
        raise InputError(f"{path}: rotation must be floating-point numbers of shape (M, 3, 3)")
    return rotation.astype(np.float64)


def _continues(run: RunFolder, config: RunConfig, resume: bool) -> bool:
    """Tell whether the folder holds this very run, so that it is continued."""
    if not run.checkpoint.is_file():
        if resume:
            raise InputError(f"{run.path}: no checkpoint to resume from; leave --resume out to start")
        run.sweep()
        if run.path.is_dir() and any(run.path.iterdir()) and not run.exists():
            raise InputError(f"{run.path}: is not empty and holds no run; choose another --out")
        if run.latents.exists():
            raise InputError(f"{run.path}: holds a finished run without its checkpoint; choose another --out")
        return False
    run.require()
    before, now = (c.model_dump(mode="json", exclude={"hardware"}) for c in (read_config(run.config), config))
    changed = [key for key in now if now[key] != before[key]]
    if changed:
        raise InputError(f"{run.path}: holds another run (differs in {', '.join(changed)}); choose another --out")
    run.sweep()
    return True


def _open_run(run: RunFolder, config: RunConfig, template: Template, stack: ParticleStack) -> None:
    """Write what does not change; first what marks the folder as a run's."""
    pixel_size = _of_groups(stack, stack.pixel_size)
    run.record_particles(config.particles.files(), stack.source_index, stack.source_count, stack.box, pixel_size)
    config.write(run.config)
    write_template(run.template, template)


def _prepared(
    fabric: Fabric,
    reconstruction: Reconstruction,
    latents: Latents,
    stack: ParticleStack,
    cache: Path,
    room: float,
    progress: Progress | None,
) -> BatchSource:
    """Let the likelihood make ready what it makes once: the first process does it, the others find it done."""
    with torch.no_grad():
        beads = reconstruction.beads(reconstruction.conformations.template[None])
    first_process = fabric.global_rank == 0
    if first_process:
        source = reconstruction.likelihood.prepare(stack, beads, cache, progress, room=room)
    fabric.barrier()
    if not first_process:
        source = reconstruction.likelihood.prepare(stack, beads, cache, room=room)
    return WithImages(source, stack) if latents.sees_images else source


def _moving(
    config: RunConfig, reconstruction: Reconstruction, latents: Latents, stack: ParticleStack
) -> MotionSearch | None:
    """Let particles look for where they go on; those of a model that is taken as it is have done so at the start."""
    if not latents.per_particle or config.infer_from is not None:
        return None
    return MotionSearch(config.moving, reconstruction, latents, stack)


def _keep_out(
    config: RunConfig,
    reconstruction: Reconstruction,
    latents: Latents,
    stack: ParticleStack,
    template: Template,
    fabric: Fabric,
) -> tuple[HeldOut | None, Choices | None]:
    """Let the fit see a part of each image's coefficients; nothing is kept out where nothing shared is fitted."""
    if config.free.share == 0:
        return None, None
    selection = Selection.work(stack.box, config.free, config.seed).to(fabric.device)
    latents.selection = selection  # an encoder sees new images as it saw those it was trained with
    if config.infer_from is not None:
        return None, None
    reconstruction.likelihood.selection = selection
    owned = np.arange(len(stack)) % fabric.world_size == fabric.global_rank
    seen = (reconstruction, latents, stack, selection)
    each_epoch = HeldOut(*seen, images_each_epoch(len(stack), config.free.images), owned, fabric.device)
    strengths = []
    if config.priors.strength == "auto" and reconstruction.priors:
        strengths.append(of_priors(config.trials))
    if config.latent_prior == "auto" and latents.per_particle:
        strengths.append(of_latents(config.trials))
    deciding = HeldOut(*seen, config.trials.images, owned, fabric.device)
    trials = Trials(deciding, config.trials, strengths, owned, config.seed)
    few = HeldOut(*seen, min(config.trials.images, IMAGES), owned, fabric.device)
    beads = BeadSets(deciding, template, config.trials, config.scattering.freedom) if config.beads == "auto" else None
    return each_epoch, Choices(trials, few, beads)


def _beads(state: dict[str, Any] | None, earlier: FittedRun | None) -> BeadKind | None:
    """Return the beads that were chosen before, in this run or the one that it begins with."""
    if state is not None:
        kind: BeadKind = state["beads"]
        return kind
    return None if earlier is None else earlier.reconstruction.molecule.kind


def _groups(stack: ParticleStack, state: dict[str, Any] | None, earlier: FittedRun | None) -> int:
    """Return how many optics groups the model knows: those of the particles, or of the run that it was trained in."""
    if state is not None:
        return len(state["reconstruction"]["likelihood.gain"])
    own = int(stack.table.optics_group.max()) + 1
    return own if earlier is None else earlier.groups


def _of_groups(stack: ParticleStack, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the value of each optics group, of those of its particles (m,); NaN for a group without particles."""
    result = np.full(int(stack.table.optics_group.max()) + 1, np.nan)
    result[stack.table.optics_group] = values
    return result


def _write_calibration(run: RunFolder, calibration: ShellCalibration, stack: ParticleStack) -> None:
    """Write it as numbers and as a figure."""
    noise, signal = calibration.noise.cpu().numpy(), calibration.signal.cpu().numpy()
    pixel_size = np.full(len(noise), np.nan)
    known = _of_groups(stack, stack.pixel_size)
    pixel_size[: len(known)] = known
    frequency = np.arange(noise.shape[1]) / (stack.box * pixel_size[:, None])
    run.save_calibration(noise=noise, signal=signal, frequency=frequency)
    with atomic_path(run.calibration_plot) as temporary:
        plot_shells(temporary, frequency, noise=noise, signal=signal)


def background_radius(template: Template, stack: ParticleStack) -> float:
    """Return how far, in Å, what is not background reaches from the middle of the images."""
    radius = float(np.linalg.norm(template.coordinates, axis=1).max()) + MARGIN
    return min(radius, 0.48 * stack.field_of_view)


def _uncertainty(
    config: RunConfig, reconstruction: Reconstruction, latents: Latents, stack: ParticleStack, progress: Progress | None
) -> Uncertainty:
    """Find the most probable latents of every particle, and how sure they are, given what the fit sees of its image."""
    latents.eval()
    found = find_uncertainty(
        reconstruction.eval(),
        stack,
        lambda batch, observed: latents(batch),
        steps=config.training.latent_steps if latents.per_particle else 0,
        selection=reconstruction.likelihood.selection,
        latent_prior=float(reconstruction.latent_prior),
        progress=progress,
    )
    in_use, dimensions = found.directions.shape[1], found.latents.shape[1]
    logger.info(
        "the images tell %d of %d directions of latent space from noise (information, prior = 1: %s)",
        *(in_use, dimensions, ", ".join(f"{value:.3g}" for value in found.relevance)),
    )
    return found


def _all_latents(latents: Latents, stack: ParticleStack, device: torch.device) -> NDArray[np.float32]:
    latents.eval()
    with torch.inference_mode():
        parts = [latents(batch).cpu() for batch in _everything(latents, stack, device)]
    return torch.cat(parts).float().numpy()


def _everything(latents: Latents, stack: ParticleStack, device: torch.device) -> Iterator[ParticleBatch]:
    """Yield all particles, with images if latents are read from them."""
    return in_order(stack, np.arange(len(stack)), device, images=latents.sees_images)


def _all_poses(
    reconstruction: Reconstruction, latents: Latents, stack: ParticleStack, device: torch.device
) -> FoundPoses:
    """Return all poses, of conformations whose core lies on the template's.

    Images do not tell a molecule that turned from a pose that turned. The part of it that moves least stands still.
    """
    poses = reconstruction.poses.eval()
    latents.eval()
    template = reconstruction.conformations.template.double().cpu().numpy()
    parts = []
    with torch.inference_mode():
        for batch in _everything(latents, stack, device):
            x = reconstruction.conformations(latents(batch)).double().cpu().numpy()
            turn, move = superpose_core(x, template)
            rotation, shift = (part.double().cpu().numpy() for part in poses.best(batch))
            rotation = rotation @ np.swapaxes(turn, 1, 2)
            shift = shift - np.einsum("bij,bj->bi", rotation[:, :2], move)
            parts.append((rotation, shift, poses.entropy(batch).double().cpu().numpy()))
    return FoundPoses(*(np.concatenate(part) for part in zip(*parts, strict=True)))
