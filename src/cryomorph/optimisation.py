"""Steps of stochastic gradient descent on the objective, in all processes together."""

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from cryomorph.errors import InputError
from cryomorph.latents.base import Latents
from cryomorph.particles.batch import ParticleBatch
from cryomorph.reconstruction import Reconstruction
from cryomorph.schedule import TrainingSettings, latent_cost_factor, learning_rate_factor

TERMS = ("misfit", "geometry", "shared", "latents", "poses")


class Optimisation:
    """The model, its optimisers, and the sums of the objective's terms since they were last cleared.

    Every process owns some of the particles; gradients of the weights that all particles share are averaged.

    Parameters
    ----------
    fabric
        Launched.
    reconstruction, latents
        To be trained; moved to the device.
    settings
        Learning rates.
    owned
        Which particles are this process's, bool, shape (m,).
    mixed
        Compute the networks in bfloat16.
    frozen
        Leave what particles share as it is.

    Attributes
    ----------
    optimizers : list
        Of the shared weights, the latents and the poses, as far as there is something to optimise.
    sums : Tensor (terms + 1,)
        Of the terms over images, and how many images.
    epoch : int
        That the last step was in, from 0.
    """

    def __init__(
        self,
        fabric: Fabric,
        reconstruction: Reconstruction,
        latents: Latents,
        settings: TrainingSettings,
        owned: Tensor,
        *,
        mixed: bool,
        frozen: bool,
    ) -> None:
        self.fabric = fabric
        self.reconstruction = reconstruction.to(fabric.device)
        self.latents = latents.to(fabric.device)
        self.settings = settings
        self.owned = owned
        self.mixed = mixed
        if frozen:
            for weight in (*reconstruction.shared_parameters(), *latents.shared_parameters()):
                weight.requires_grad_(False)
        network = self._network()
        # A decoder may have no weights.
        self.network = torch.optim.Adam(network, lr=settings.learning_rate, fused=True) if network else None
        self.of_latents = latents.optimizer(settings.latent_learning_rate, settings.learning_rate)
        self.of_poses = reconstruction.poses.optimizer()
        every = (self.network, self.of_latents, self.of_poses)
        self.optimizers = [optimizer for optimizer in every if optimizer is not None]
        self.sums = torch.zeros(len(TERMS) + 1, dtype=torch.float64, device=fabric.device)
        self.epoch = 0

    @property
    def shared(self) -> list[nn.Parameter]:
        """The weights that all particles share, as far as they are to be trained."""
        return [*self._network(), *(weight for weight in self.latents.shared_parameters() if weight.requires_grad)]

    def _network(self) -> list[nn.Parameter]:
        return [weight for weight in self.reconstruction.shared_parameters() if weight.requires_grad]

    def renew(self) -> None:
        """Train the weights that the model has now, after a part of it was replaced; others keep their moments."""
        if self.network is None:
            return
        network = self._network()
        for gone in set(self.network.state) - set(network):
            del self.network.state[gone]
        self.network.param_groups[0]["params"] = network

    def step(self, batch: ParticleBatch, epoch: int, part: float) -> None:
        """Take a step with the particles of a batch, after so many epochs and that part of the next one."""
        self.epoch = epoch
        factor = learning_rate_factor(epoch + part, self.settings)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * factor
            optimizer.zero_grad()
        with torch.autocast(self.fabric.device.type, dtype=torch.bfloat16, enabled=self.mixed):
            z, cost = self.latents.encode(batch)
            terms = self.reconstruction(z, batch)
        price = self.reconstruction.latent_prior.to(cost.dtype) * latent_cost_factor(epoch + part, self.settings)
        terms["latents"] = price * cost
        terms["poses"] = self.reconstruction.poses.cost(batch)
        objective: Tensor = sum(terms[name] for name in TERMS)
        objective.mean().backward()  # type: ignore[no-untyped-call]
        self._average_gradients()
        for optimizer in self.optimizers:
            optimizer.step()
        self.sums[:-1] += torch.stack([terms[name].detach() for name in TERMS]).sum(1)
        self.sums[-1] += len(batch)

    def _average_gradients(self) -> None:
        """Make the gradients of shared weights the mean over processes, all of which make steps of the same size."""
        if self.fabric.world_size > 1:
            gradients = [weight.grad for weight in self.shared if weight.grad is not None]
            means = torch.cat(
                [torch.zeros(0, device=self.fabric.device), *(gradient.flatten() for gradient in gradients)]
            )
            self.add_up(means)
            means /= self.fabric.world_size
            parts = torch.split(means, [gradient.numel() for gradient in gradients])
            for gradient, mean in zip(gradients, parts, strict=True):
                gradient.copy_(mean.view_as(gradient))

    def add_up(self, *tensors: Tensor) -> None:
        """Add tensors up over the processes, in place."""
        if self.fabric.world_size > 1:
            for tensor in tensors:
                total = self.fabric.all_reduce(tensor.to(self.fabric.device), reduce_op="sum")
                assert isinstance(total, Tensor)
                tensor.copy_(total)

    def means(self) -> dict[str, float]:
        """Return the mean of each term over the images of all processes, and add up what determines the gain."""
        likelihood = self.reconstruction.likelihood
        self.add_up(self.sums, likelihood.cross_sum, likelihood.power_sum)
        self.check_finite()
        return dict(zip(TERMS, (self.sums[:-1] / self.sums[-1]).tolist(), strict=True))

    def clear(self) -> None:
        """Begin new sums."""
        self.sums = torch.zeros_like(self.sums)
        self.reconstruction.likelihood.cross_sum.zero_()
        self.reconstruction.likelihood.power_sum.zero_()

    def check_finite(self, *tensors: Tensor) -> None:
        """Raise InputError if a sum, or something else that is given, is not finite."""
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (self.sums, *tensors)):
            raise InputError(
                f"the objective is not finite in epoch {self.epoch + 1}: lower the learning rates, or check the images"
            )

    def gather_rows(self) -> None:
        """Bring what each process knows of its own particles to all processes."""
        self.latents.gather(self.of_latents, self.owned, self.add_up)
        self.reconstruction.poses.gather(self.of_poses, self.owned, self.add_up)

    def state(self) -> dict[str, Any]:
        """Return everything that further steps depend on, the same in all processes.

        Raises
        ------
        InputError
            If a weight, a latent or a pose is not finite: a good checkpoint is not replaced by a bad one.
        """
        self.check_finite(*self.reconstruction.parameters(), *self.latents.parameters())
        likelihood = self.reconstruction.likelihood
        cross, power, sums = likelihood.cross_sum.clone(), likelihood.power_sum.clone(), self.sums.clone()
        self.add_up(cross, power, sums)
        self.gather_rows()
        network = self.reconstruction.state_dict()
        return {
            "sums": sums,
            "reconstruction": network | {"likelihood.cross_sum": cross, "likelihood.power_sum": power},
            "latents": self.latents.state_dict(),
            "optimizer": None if self.network is None else self.network.state_dict(),
            "latent_optimizer": self.of_latents.state_dict(),
            "pose_optimizer": None if self.of_poses is None else self.of_poses.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned; the sums of all processes go on in the first."""
        self.sums = state["sums"].to(self.sums)
        self.reconstruction.load_state_dict(state["reconstruction"])
        self.latents.load_state_dict(state["latents"])
        names = ("optimizer", "latent_optimizer", "pose_optimizer")
        for name, optimizer in zip(names, (self.network, self.of_latents, self.of_poses), strict=True):
            if optimizer is not None:
                optimizer.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        if len(state["random_cuda"]) == torch.cuda.device_count() and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random_cuda"])
        if self.fabric.global_rank > 0:
            self.clear()
