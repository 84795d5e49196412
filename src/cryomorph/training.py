"""The training loop: the latents of the particles and the weights of the network, together, by stochastic gradient."""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from cryomorph.amplitudes import AmplitudeFit
from cryomorph.calibration import CalibrationSettings, calibrate, gain_sums, gather_sums
from cryomorph.choices import Choices
from cryomorph.contrast import update_spread
from cryomorph.gain import first_gain
from cryomorph.held_out import HeldOut
from cryomorph.latents.base import Latents
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.optimisation import Optimisation
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import epoch_batches, in_order, prefetch
from cryomorph.particles.stack import BatchSource, ParticleStack
from cryomorph.progress import Progress, Silent
from cryomorph.reconstruction import Reconstruction
from cryomorph.schedule import TrainingSettings, learning_rate_factor
from cryomorph.search.joint import JointSearch
from cryomorph.search.moving import MotionSearch
from cryomorph.stopping import BestEpoch

logger = logging.getLogger(__name__)

LOOK_EVERY = 10
"""Batches between looks at the running sums."""


class Trainer:
    """Fits a `Reconstruction` and its latents to the particles of a stack.

    Every process owns some of the particles, their latents and what is learned of their poses; gradients of the weights
    that all particles share are averaged over processes.

    Parameters
    ----------
    fabric
        Launched.
    reconstruction, latents
        To be trained; moved to the device.
    stack
        The particles.
    prepare
        Returns where batches of them come from; called, in every process, when the likelihood is as it is to be.
    on_calibration
        Called with each new calibration of Fourier shells, in every process.
    settings, calibration
        Of the optimisation, and of the calibration of Fourier shells.
    search
        Of poses that are not known, or of where in latent space particles with known poses go on.
    held_out
        Tells after each epoch how well coefficients are explained that were kept out of the fit.
    amplitudes
        Looks for density about the molecule, and for faint residues, where shells are calibrated.
    choices
        Choose beads and strengths while training goes on.
    mixed
        Compute the networks in bfloat16.
    frozen
        Leave what particles share as it is: only the latents and poses that they have of their own are found.
    seed
        Determines the order of the images.
    """

    def __init__(
        self,
        fabric: Fabric,
        reconstruction: Reconstruction,
        latents: Latents,
        stack: ParticleStack,
        prepare: Callable[[], BatchSource],
        on_calibration: Callable[[ShellCalibration], None],
        settings: TrainingSettings,
        calibration: CalibrationSettings,
        *,
        search: JointSearch | MotionSearch | None = None,
        held_out: HeldOut | None = None,
        amplitudes: AmplitudeFit | None = None,
        choices: Choices | None = None,
        mixed: bool = False,
        frozen: bool = False,
        seed: int,
    ) -> None:
        self.fabric = fabric
        self.stack = stack
        self.prepare = prepare
        self.on_calibration = on_calibration
        self.settings = settings
        self.calibration = calibration
        self.looking = search
        self.held_out = held_out
        self.amplitudes = amplitudes
        self.choices = choices
        self.seed = seed
        self.frozen = frozen
        self.owned = torch.arange(len(stack)) % fabric.world_size == fabric.global_rank
        self.optimisation = Optimisation(
            *(fabric, reconstruction, latents, settings, self.owned),
            mixed=mixed,
            frozen=frozen,
        )
        self.reconstruction, self.latents = self.optimisation.reconstruction, self.optimisation.latents
        self.best = BestEpoch(settings.patience)
        self.epoch = 0
        self.batches_done = 0
        self._remark = self._free = ""
        self._source: BatchSource | None = None

    @property
    def source(self) -> BatchSource:
        """Where batches come from, prepared when it is first asked for."""
        if self._source is None:
            self._source = self.prepare()
        return self._source

    def get_ready(self, progress: Progress | None = None) -> None:
        """Calibrate Fourier shells, if it is time, and estimate the gain, before the first step."""
        calibrated = self.calibrate(progress)
        self.estimate_gain()
        if not calibrated:  # for the gain, poses were found where there were none
            self.calibrate(progress)

    def search(self, progress: Progress | None = None) -> dict[str, float]:
        """Search poses and conformations of all particles, if it is time; returns what to say about it."""
        if self.looking is None or not self.looking.due(self.epoch) or self.epoch == self.settings.epochs:
            return {}
        self.optimisation.gather_rows()
        mine = np.flatnonzero(self.owned.numpy())
        optimizers = (self.optimisation.of_poses, self.optimisation.of_latents)
        share = self.looking.run(self.epoch, self.source, mine, *optimizers, progress)
        return {self.looking.found: share}

    def calibrate(self, progress: Progress | None = None, *, due: bool = False) -> bool:
        """Estimate noise and signal of Fourier shells at the current conformations, if it is time; returns whether.

        The gain, whose meaning changes, is estimated from the same images.
        """
        asked_for = self.calibration.shells != "none" and (due or self.epoch in self.calibration.epochs)
        if not asked_for or self.epoch == self.settings.epochs:
            return False
        owned = (self.owned & self.reconstruction.poses.known.cpu()).numpy()
        # Not before: as long as conformations are far off, other amplitudes, or scales, would make up for that.
        settled = self.epoch >= max(self.calibration.epochs, default=0)
        if self.amplitudes is not None and settled:
            found = self.calibration.images, owned, self.optimisation.add_up, self.fabric.device, progress
            self.amplitudes.run(*found)
        sums, images = gather_sums(
            self.reconstruction,
            self.latents,
            self.stack,
            self.calibration.images,
            owned,
            self.fabric.device,
            progress,
        )
        self.optimisation.add_up(*vars(sums).values())
        if not sums.count.any():  # no pose is known yet
            return False
        calibration, kept = calibrate(sums, self.calibration.shells, self.reconstruction.conformations.latent_dim)
        likelihood = self.reconstruction.likelihood
        likelihood.kept.copy_(kept)
        likelihood.cross_sum, likelihood.power_sum = gain_sums(sums, calibration)
        likelihood.update_gain()
        self.use_calibration(calibration)
        if likelihood.settings.scale_spread == "auto" and settled:
            update_spread(likelihood, images, calibration, self.optimisation.add_up)
        return True

    def use_calibration(self, calibration: ShellCalibration) -> None:
        """Take this calibration from now on. Batches are prepared anew when they are next asked for."""
        self.reconstruction.likelihood.calibration = calibration.to(self.fabric.device)
        self._source = None
        self.best.forget()  # nats have another meaning now
        self.on_calibration(calibration)

    def estimate_gain(self) -> None:
        """Set the gain before the first step; see `cryomorph.gain`."""
        first_gain(
            self.reconstruction,
            self.latents,
            self.source,
            self.stack,
            lambda rows: rows[self.fabric.global_rank :: self.fabric.world_size],
            self.optimisation.add_up,
            batch_size=self.settings.batch_size,
            device=self.fabric.device,
        )

    def fit(
        self,
        *,
        on_epoch: Callable[[dict[str, Any]], None],
        on_checkpoint: Callable[[dict[str, Any]], None],
        progress: Progress | None = None,
    ) -> None:
        """Train from the current epoch to the last.

        Parameters
        ----------
        on_epoch
            Called with the metrics of each epoch, in every process.
        on_checkpoint
            Called with everything needed to go on, in every process; after each epoch and every few minutes.
        progress
            Told of every batch.
        """
        progress = progress or Silent()
        saved = time.monotonic()
        if self.epoch == 0 and self.frozen and not self.latents.per_particle:  # there is nothing to be found
            self.epoch = self.settings.epochs
            on_checkpoint(self.state())
        while self.epoch < self.settings.epochs:
            source = self.source  # has a bar of its own
            started = time.monotonic()
            batches = self._batches()
            if self.batches_done == 0:
                self._seed()
            self.reconstruction.poses.done = self.epoch / self.settings.epochs
            fresh = batches[self.batches_done :]
            progress.start(f"epoch {self.epoch + 1}/{self.settings.epochs}", sum(map(len, fresh)))
            try:
                for batch in prefetch(source, fresh):
                    self._step(batch, len(batches))
                    progress.advance(len(batch), self._note())
                    if self._time_to_save(saved):
                        on_checkpoint(self.state())
                        saved = time.monotonic()
            finally:
                progress.finish()
            metrics = self._end_of_epoch()
            explained, over = self.explained()
            metrics |= explained
            seconds = time.monotonic() - started
            rate = sum(map(len, fresh)) * self.fabric.world_size / seconds
            searched = self.search(progress)
            metrics |= searched
            chosen, other_beads = self.choose_beads()
            if self.calibrate(progress, due=JointSearch.found in searched or other_beads):
                metrics["calibrated"] = True
            metrics |= chosen | self.try_strengths(progress)
            on_epoch(metrics | {"seconds": seconds, "images_per_second": rate})
            if over:
                self.epoch = self.settings.epochs
            if self.epoch == self.settings.epochs:
                self.best.restore([self.reconstruction, self.latents])
            on_checkpoint(self.state())
            saved = time.monotonic()

    def explained(self) -> tuple[dict[str, Any], bool]:
        """Return how well the images are explained, as far as the fit saw them and beyond, and whether to end there."""
        if self.held_out is None:
            return {}, False
        summary, free = self.held_out.summary(self.optimisation.add_up)
        if self.fabric.world_size > 1:
            self.optimisation.gather_rows()
        over = self.best.see(self.epoch, free, [self.reconstruction, self.latents])
        if summary:
            self._free = f", free {summary['free']:.2f}"
        return summary, over

    def choose_beads(self) -> tuple[dict[str, Any], bool]:
        """Choose the molecule's beads, if it is time; returns what to say about it, and whether they are others now."""
        if self.choices is None:
            return {}, False
        before = self.reconstruction.molecule
        said = self.choices.choose_beads(self.epoch, self.settings.epochs, self.optimisation)
        changed = self.reconstruction.molecule is not before
        if changed:
            self.optimisation.renew()
            self._source = None
            self.best.forget()
            self.estimate_gain()
        return said, changed

    def try_strengths(self, progress: Progress) -> dict[str, Any]:
        """Choose strengths of priors, if it is time; returns what to say about it."""
        if self.choices is None:
            return {}
        size = self.epoch, self.settings.epochs
        said = self.choices.try_strengths(*size, self.optimisation, self._train_on, progress)
        if said:
            self._begin_epoch()
            self.reconstruction.likelihood.remarks()
        return said

    def _train_on(self, rows: NDArray[np.int64], images: int, progress: Progress) -> None:
        """Take the steps of a part of an epoch, with these particles, of so many in all processes."""
        self._begin_epoch()
        self._seed()
        steps = max(1, round(images / (self.settings.batch_size * self.fabric.world_size)))
        whole = max(steps, len(self._batches()))
        for batch in prefetch(self.source, np.array_split(rows, steps)):
            self._step(batch, whole)
            progress.advance(len(batch))

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, the same in all processes.

        Raises
        ------
        InputError
            If something of it is not finite: a good checkpoint is not replaced by a bad one.
        """
        calibration = self.reconstruction.likelihood.calibration
        return self.optimisation.state() | {
            "epoch": self.epoch,
            "batches_done": self.batches_done,
            "processes": self.fabric.world_size,
            "calibration": None if calibration is None else vars(calibration),
            "best": self.best.state(),
            "beads": self.reconstruction.molecule.kind,
            "choices": {} if self.choices is None else self.choices.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self._source = None
        self.epoch, self.batches_done = state["epoch"], state["batches_done"]
        if state["calibration"] is not None:
            calibration = ShellCalibration(**state["calibration"])
            self.reconstruction.likelihood.calibration = calibration.to(self.fabric.device)
        self.optimisation.load_state(state)
        self.best.load_state(state["best"], [self.reconstruction, self.latents])
        if self.choices is not None:
            self.choices.load_state(state["choices"])
        if self.batches_done and state["processes"] != self.fabric.world_size:
            logger.info("the number of processes changed within epoch %d: that epoch starts over", self.epoch + 1)
            self._begin_epoch()
        if self.fabric.global_rank > 0:
            self._seed()  # the random state is the first process's

    def _seed(self) -> None:
        """Give each process random numbers of its own, which depend on nothing but where training stands."""
        entropy = np.random.SeedSequence([self.seed, self.epoch, self.batches_done, self.fabric.global_rank])
        torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))

    def _batches(self) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
        return epoch_batches(
            len(self.stack),
            self.settings.batch_size,
            seed=self.seed,
            epoch=self.epoch,
            rank=self.fabric.global_rank,
            processes=self.fabric.world_size,
        )

    def _step(self, batch: ParticleBatch, batches: int) -> None:
        """Take a step with a batch, the next of so many in this epoch."""
        self.batches_done += 1
        self.optimisation.step(batch.to(self.fabric.device), self.epoch, self.batches_done / batches)

    def _note(self) -> str:
        """Return a remark for the progress bar; looks at the sums, which waits for a GPU, only now and then."""
        if self.batches_done % LOOK_EVERY == 0:
            self.optimisation.check_finite()
            misfit, *_, images = self.optimisation.sums.tolist()
            self._remark = f"{-misfit / images:.2f}{self._free} nats/image"
        return self._remark

    def _end_of_epoch(self) -> dict[str, float]:
        likelihood = self.reconstruction.likelihood
        means = self.optimisation.means()
        if not self.frozen:
            likelihood.update_gain()
        for remark in likelihood.remarks():
            logger.warning(remark)
        own = in_order(self.stack, np.flatnonzero(self.owned.numpy()), self.fabric.device)
        self.reconstruction.poses.end_of_epoch(own, self.optimisation.add_up)
        self.epoch += 1
        metrics = {"epoch": self.epoch} | means
        rate = self.settings.learning_rate * learning_rate_factor(self.epoch, self.settings)
        metrics |= {"gain": float(likelihood.gain.mean()), "learning_rate": rate}
        self._begin_epoch()
        return metrics

    def _begin_epoch(self) -> None:
        self.batches_done = 0
        self.optimisation.clear()

    def _time_to_save(self, saved: float) -> bool:
        """Tell whether the last checkpoint is long ago; the first process decides, since saving is a common effort."""
        due = time.monotonic() - saved > 60 * self.settings.checkpoint_minutes
        if self.fabric.world_size == 1:
            return due
        return self.batches_done % LOOK_EVERY == 0 and bool(self.fabric.broadcast(due))
