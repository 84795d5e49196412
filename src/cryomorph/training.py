"""The training loop: the latents of the particles and the weights of the network, together, by stochastic gradient."""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.amplitudes import AmplitudeFit
from cryomorph.branches import Branch
from cryomorph.calibration import CalibrationSettings, calibrate, gain_sums, gather_sums
from cryomorph.contrast import update_spread
from cryomorph.errors import InputError
from cryomorph.gain import first_gain
from cryomorph.held_out import HeldOut
from cryomorph.latents.base import Latents
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import epoch_batches, in_order, prefetch
from cryomorph.particles.stack import BatchSource, ParticleStack
from cryomorph.progress import Progress, Silent
from cryomorph.reconstruction import Reconstruction
from cryomorph.schedule import TrainingSettings, learning_rate_factor
from cryomorph.search.joint import JointSearch
from cryomorph.trials import StrengthTrials, choose

logger = logging.getLogger(__name__)

TERMS = ("misfit", "geometry", "latents", "poses")
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
        Of poses that are not known.
    held_out
        Tells after each epoch how well coefficients are explained that were kept out of the fit.
    amplitudes
        Looks for density about the molecule, and for faint residues, where shells are calibrated.
    trials
        Choose the strength of the geometric priors while training goes on.
    latent_prior
        Strength of the latents' prior against the misfit.
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
        search: JointSearch | None = None,
        held_out: HeldOut | None = None,
        amplitudes: AmplitudeFit | None = None,
        trials: StrengthTrials | None = None,
        latent_prior: float,
        mixed: bool = False,
        frozen: bool = False,
        seed: int,
    ) -> None:
        self.fabric = fabric
        self.reconstruction = reconstruction.to(fabric.device)
        self.latents = latents.to(fabric.device)
        self.stack = stack
        self.prepare = prepare
        self.on_calibration = on_calibration
        self.settings = settings
        self.calibration = calibration
        self.joint_search = search
        self.held_out = held_out
        self.amplitudes = amplitudes
        self.trials = trials
        self.latent_prior = latent_prior
        self.mixed = mixed
        self.seed = seed
        self.frozen = frozen
        if frozen:
            for weight in (*reconstruction.shared_parameters(), *latents.shared_parameters()):
                weight.requires_grad_(False)
        network = [weight for weight in reconstruction.shared_parameters() if weight.requires_grad]
        self.shared = [weight for weight in (*network, *latents.shared_parameters()) if weight.requires_grad]
        # A decoder may have no weights.
        self.optimizer = torch.optim.Adam(network, lr=settings.learning_rate, fused=True) if network else None
        self.latent_optimizer = latents.optimizer(settings.latent_learning_rate, settings.learning_rate)
        self.pose_optimizer = reconstruction.poses.optimizer()
        optimizers = (self.optimizer, self.latent_optimizer, self.pose_optimizer)
        self.optimizers = [optimizer for optimizer in optimizers if optimizer is not None]
        self.owned = torch.arange(len(stack)) % fabric.world_size == fabric.global_rank
        self.epoch = 0
        self.batches_done = 0
        self.sums = torch.zeros(len(TERMS) + 1, dtype=torch.float64, device=fabric.device)
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
        if self.joint_search is None or not self.joint_search.due(self.epoch) or self.epoch == self.settings.epochs:
            return {}
        assert self.pose_optimizer is not None
        self._gather_rows()
        mine = np.flatnonzero(self.owned.numpy())
        optimizers = (self.pose_optimizer, self.latent_optimizer)
        return {"new_poses": self.joint_search.run(self.epoch, self.source, mine, *optimizers, progress)}

    def calibrate(self, progress: Progress | None = None, *, due: bool = False) -> bool:
        """Estimate noise and signal of Fourier shells at the current conformations, if it is time; returns whether.

        The gain, whose meaning changes, is estimated from the same images.
        """
        asked_for = self.calibration.shells != "none" and (due or self.epoch in self.calibration.epochs)
        if not asked_for or self.epoch == self.settings.epochs:
            return False
        owned = (self.owned & self.reconstruction.poses.known.cpu()).numpy()
        if self.amplitudes is not None and self.epoch > 0:
            found = self.calibration.images, owned, self._sum_over_processes, self.fabric.device, progress
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
        self._sum_over_processes(sums.count, sums.image_power, sums.cross, sums.model_power)
        if not sums.count.any():  # no pose is known yet
            return False
        calibration = calibrate(sums, self.calibration.shells)
        likelihood = self.reconstruction.likelihood
        likelihood.cross_sum, likelihood.power_sum = gain_sums(sums, calibration)
        likelihood.update_gain()
        self.use_calibration(calibration)
        # Not before: as long as conformations are far off, a scale of its own would make up for that in an image.
        settled = self.epoch >= max(self.calibration.epochs, default=0)
        if likelihood.settings.scale_spread == "auto" and settled:
            update_spread(likelihood, images, calibration, self._sum_over_processes)
        return True

    def use_calibration(self, calibration: ShellCalibration) -> None:
        """Take this calibration from now on. Batches are prepared anew when they are next asked for."""
        self.reconstruction.likelihood.calibration = calibration.to(self.fabric.device)
        self._source = None
        self.on_calibration(calibration)

    def estimate_gain(self) -> None:
        """Set the gain before the first step; see `cryomorph.gain`."""
        first_gain(
            self.reconstruction,
            self.latents,
            self.source,
            self.stack,
            lambda rows: rows[self.fabric.global_rank :: self.fabric.world_size],
            self._sum_over_processes,
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
                    self._step(batch.to(self.fabric.device), len(batches))
                    progress.advance(len(batch), self._note())
                    if self._time_to_save(saved):
                        on_checkpoint(self.state())
                        saved = time.monotonic()
            finally:
                progress.finish()
            metrics = self._end_of_epoch() | self.explained()
            seconds = time.monotonic() - started
            rate = sum(map(len, fresh)) * self.fabric.world_size / seconds
            searched = self.search(progress)
            metrics |= searched
            if self.calibrate(progress, due=bool(searched)):
                metrics["calibrated"] = True
            metrics |= self.try_strengths(progress)
            on_epoch(metrics | {"seconds": seconds, "images_per_second": rate})
            on_checkpoint(self.state())
            saved = time.monotonic()

    def explained(self) -> dict[str, Any]:
        """Return how well the images are explained, as far as the fit saw them and beyond, if that is asked for."""
        explained = None if self.held_out is None else self.held_out.summary(self._sum_over_processes)
        if explained is None:
            return {}
        self._free = f", free {explained['free']:.2f}"
        return explained

    def try_strengths(self, progress: Progress) -> dict[str, Any]:
        """Choose the strength of the geometric priors, if it is time; returns what to say about it."""
        if self.trials is None or self.epoch not in self.trials.settings.epochs(self.settings.epochs):
            return {}
        rows = self.trials.rows(self.epoch)
        progress.start("prior strength", 3 * len(rows))
        branch = Branch([self.reconstruction, self.latents], self.optimizers)

        def motion_at(strength: float) -> NDArray[np.float64]:
            self.reconstruction.strength.fill_(strength)
            self._seed()
            self._train_on(rows, progress)
            motion = self.trials.held_out.motion(self._sum_over_processes)  # type: ignore[union-attr]
            branch.restore()
            return motion

        try:
            choice = choose(float(self.reconstruction.strength), motion_at, self.trials.settings)
        finally:
            progress.finish()
        self._clear_sums()
        self.reconstruction.likelihood.remarks()
        self.reconstruction.strength.fill_(choice.chosen)
        return {"prior_strength": choice.as_dict()}

    def _train_on(self, rows: NDArray[np.int64], progress: Progress) -> None:
        """Take the steps of a part of an epoch, with these particles."""
        assert self.trials is not None
        steps = max(1, round(self.trials.images / (self.settings.batch_size * self.fabric.world_size)))
        whole = max(steps, len(self._batches()))
        for batch in prefetch(self.source, np.array_split(rows, steps)):
            self._step(batch.to(self.fabric.device), whole)
            progress.advance(len(batch))

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, the same in all processes.

        Raises
        ------
        InputError
            If a weight, a latent or a pose is not finite: a good checkpoint is not replaced by a bad one.
        """
        self._check_finite(*self.reconstruction.parameters(), *self.latents.parameters())
        likelihood = self.reconstruction.likelihood
        cross, power, sums = likelihood.cross_sum.clone(), likelihood.power_sum.clone(), self.sums.clone()
        self._sum_over_processes(cross, power, sums)
        self._gather_rows()
        network = self.reconstruction.state_dict()
        network |= {"likelihood.cross_sum": cross, "likelihood.power_sum": power}
        return {
            "epoch": self.epoch,
            "batches_done": self.batches_done,
            "processes": self.fabric.world_size,
            "sums": sums,
            "reconstruction": network,
            "latents": self.latents.state_dict(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "latent_optimizer": self.latent_optimizer.state_dict(),
            "pose_optimizer": None if self.pose_optimizer is None else self.pose_optimizer.state_dict(),
            "calibration": None if likelihood.calibration is None else vars(likelihood.calibration),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def _gather_rows(self) -> None:
        """Bring what each process knows of its own particles to all processes."""
        self.latents.gather(self.latent_optimizer, self.owned, self._sum_over_processes)
        self.reconstruction.poses.gather(self.pose_optimizer, self.owned, self._sum_over_processes)

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self._source = None
        self.epoch, self.batches_done, self.sums = state["epoch"], state["batches_done"], state["sums"].to(self.sums)
        self.reconstruction.load_state_dict(state["reconstruction"])
        if state["calibration"] is not None:
            calibration = ShellCalibration(**state["calibration"])
            self.reconstruction.likelihood.calibration = calibration.to(self.fabric.device)
        self.latents.load_state_dict(state["latents"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.latent_optimizer.load_state_dict(state["latent_optimizer"])
        if self.pose_optimizer is not None:
            self.pose_optimizer.load_state_dict(state["pose_optimizer"])
        torch.set_rng_state(state["random"])
        if len(state["random_cuda"]) == torch.cuda.device_count() and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random_cuda"])
        if self.batches_done and state["processes"] != self.fabric.world_size:
            logger.info("the number of processes changed within epoch %d: that epoch starts over", self.epoch + 1)
            self._clear_sums()
        if self.fabric.global_rank > 0:  # the sums of all processes go on in the first
            self.sums.zero_()
            self.reconstruction.likelihood.cross_sum.zero_()
            self.reconstruction.likelihood.power_sum.zero_()
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
        factor = learning_rate_factor(self.epoch + (self.batches_done + 1) / batches, self.settings)
        for optimizer in self.optimizers:
            _set_learning_rate(optimizer, optimizer.defaults["lr"] * factor)
            optimizer.zero_grad()
        with torch.autocast(self.fabric.device.type, dtype=torch.bfloat16, enabled=self.mixed):
            z, cost = self.latents.encode(batch)
            terms = self.reconstruction(z, batch)
        terms["latents"] = self.latent_prior * cost
        terms["poses"] = self.reconstruction.poses.cost(batch)
        objective: Tensor = sum(terms[name] for name in TERMS)
        objective.mean().backward()  # type: ignore[no-untyped-call]
        self._average_gradients()
        for optimizer in self.optimizers:
            optimizer.step()
        self.batches_done += 1
        self.sums[:-1] += torch.stack([terms[name].detach() for name in TERMS]).sum(1)
        self.sums[-1] += len(batch)

    def _average_gradients(self) -> None:
        """Make the gradients of shared weights the mean over processes, all of which make steps of the same size."""
        if self.fabric.world_size > 1:
            gradients = [weight.grad for weight in self.shared if weight.grad is not None]
            means = torch.cat(
                [torch.zeros(0, device=self.fabric.device), *(gradient.flatten() for gradient in gradients)]
            )
            self._sum_over_processes(means)
            means /= self.fabric.world_size
            parts = torch.split(means, [gradient.numel() for gradient in gradients])
            for gradient, mean in zip(gradients, parts, strict=True):
                gradient.copy_(mean.view_as(gradient))

    def _note(self) -> str:
        """Return a remark for the progress bar; looks at the sums, which waits for a GPU, only now and then."""
        if self.batches_done % LOOK_EVERY == 0:
            self._check_finite()
            self._remark = f"{-float(self.sums[0] / self.sums[-1]):.2f}{self._free} nats/image"
        return self._remark

    def _check_finite(self, *tensors: Tensor) -> None:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (self.sums, *tensors)):
            raise InputError(
                f"the objective is not finite in epoch {self.epoch + 1}: lower the learning rates, or check the images"
            )

    def _end_of_epoch(self) -> dict[str, float]:
        likelihood = self.reconstruction.likelihood
        self._sum_over_processes(self.sums, likelihood.cross_sum, likelihood.power_sum)
        self._check_finite()
        means = (self.sums[:-1] / self.sums[-1]).tolist()
        if not self.frozen:
            likelihood.update_gain()
        for remark in likelihood.remarks():
            logger.warning(remark)
        own = in_order(self.stack, np.flatnonzero(self.owned.numpy()), self.fabric.device)
        self.reconstruction.poses.end_of_epoch(own, self._sum_over_processes)
        self.epoch += 1
        metrics = {"epoch": self.epoch} | dict(zip(TERMS, means, strict=True))
        rate = self.settings.learning_rate * learning_rate_factor(self.epoch, self.settings)
        metrics |= {"gain": float(likelihood.gain.mean()), "learning_rate": rate}
        self._clear_sums()
        return metrics

    def _clear_sums(self) -> None:
        self.batches_done = 0
        self.sums = torch.zeros_like(self.sums)
        self.reconstruction.likelihood.cross_sum.zero_()
        self.reconstruction.likelihood.power_sum.zero_()

    def _sum_over_processes(self, *tensors: Tensor) -> None:
        if self.fabric.world_size > 1:
            for tensor in tensors:
                total = self.fabric.all_reduce(tensor.to(self.fabric.device), reduce_op="sum")
                assert isinstance(total, Tensor)
                tensor.copy_(total)

    def _time_to_save(self, saved: float) -> bool:
        """Tell whether the last checkpoint is long ago; the first process decides, since saving is a common effort."""
        due = time.monotonic() - saved > 60 * self.settings.checkpoint_minutes
        if self.fabric.world_size == 1:
            return due
        return self.batches_done % LOOK_EVERY == 0 and bool(self.fabric.broadcast(due))


def _set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value
