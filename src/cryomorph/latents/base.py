"""The seam of latents: where the latent coordinates of each particle come from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from cryomorph.components import Settings
from cryomorph.particles.batch import ParticleBatch
from cryomorph.selection import Selection


class Latents(nn.Module, ABC):
    """Gives every particle of a batch its latent coordinates.

    Parameters
    ----------
    blocks
        Names and slices of the latent coordinates that the conformation model takes; together they cover them.
    particles
        How many particles there are in all.

    Attributes
    ----------
    blocks : dict
        In the order of the coordinates.
    latent_dim : int
        Number d of latent coordinates.
    selection : Selection or None
        Which coefficients of each image may be looked at, on the device of the images; None: all.
    """

    Settings: ClassVar[type[Settings]]
    sees_images: ClassVar[bool] = False
    """Whether batches must come with images."""
    per_particle: ClassVar[bool] = True
    """Whether each particle has parameters of its own, which belong to the process that owns it; else all share them,
    and their gradients are averaged over processes."""

    def __init__(self, blocks: Mapping[str, slice], particles: int) -> None:
        super().__init__()
        self.blocks = dict(sorted(blocks.items(), key=lambda item: item[1].start))
        self.latent_dim = sum(block.stop - block.start for block in blocks.values())
        self.particles = particles
        self.selection: Selection | None = None

    @abstractmethod
    def encode(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return z, shape (b, d), and what it costs under a standard normal prior, in nats, shape (b,)."""

    def forward(self, batch: ParticleBatch) -> Tensor:
        """Return z, shape (b, d)."""
        return self.encode(batch)[0]

    def cost(self, batch: ParticleBatch) -> Tensor:
        """Return what the latents of each particle cost under a standard normal prior, in nats, shape (b,)."""
        return self.encode(batch)[1]

    @abstractmethod
    def optimizer(self, learning_rate: float, shared_learning_rate: float) -> Optimizer:
        """Return the optimiser that suits these latents.

        Parameters
        ----------
        learning_rate
            Of what each particle has of its own: it is touched once an epoch only.
        shared_learning_rate
            Of what all particles share: it is touched in every step, like the weights of a conformation model.
        """

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the weights that all particles share."""
        return [] if self.per_particle else list(self.parameters())

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

    def place(self, optimizer: Optimizer, rows: Tensor, z: Tensor) -> None:
        """Put particles `rows` (k,) at z (k, d), from where they are to be optimised afresh.

        Parameters
        ----------
        optimizer
            What `optimizer` returned.

        Raises
        ------
        ValueError
            If particles have nothing of their own.
        """
        raise ValueError(f"{type(self).__name__} are not kept particle by particle: none can be placed")
