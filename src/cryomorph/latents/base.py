"""The seam of latents: where the latent coordinates of each particle come from."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from cryomorph.components import Settings
from cryomorph.particles.batch import ParticleBatch


class Latents(nn.Module, ABC):
    """Gives every particle of a batch its latent coordinates.

    Parameters
    ----------
    latent_dim
        Number d of latent coordinates that the conformation model takes.
    particles
        How many particles there are in all.
    """

    Settings: ClassVar[type[Settings]]

    def __init__(self, latent_dim: int, particles: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.particles = particles

    @abstractmethod
    def forward(self, batch: ParticleBatch) -> Tensor:
        """Return z, shape (b, d)."""

    @abstractmethod
    def cost(self, batch: ParticleBatch) -> Tensor:
        """Return what the latents of each particle cost under a standard normal prior, in nats, shape (b,)."""

    @abstractmethod
    def optimizer(self, learning_rate: float) -> Optimizer:
        """Return the optimiser that suits these latents."""

    @abstractmethod
    def gather(self, optimizer: Optimizer, owned: Tensor, add_up: Callable[..., None]) -> None:
        """Bring what each process knows of its own particles to all processes, before a checkpoint.

        Parameters
        ----------
        optimizer
            What `optimizer` returned; its state is gathered too.
        owned
            Which particles are this process's, bool, shape (particles,).
        add_up
            Adds tensors up over the processes, in place.
        """

    @abstractmethod
    def place(self, optimizer: Optimizer, rows: Tensor, z: Tensor) -> None:
        """Put particles `rows` (k,) at z (k, d), from where they are to be optimised afresh.

        Parameters
        ----------
        optimizer
            What `optimizer` returned.
        """
