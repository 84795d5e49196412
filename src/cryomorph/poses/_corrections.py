"""Small corrections of poses, one row for each particle, learned by gradient with the conformations.

For a particle with base pose `(R, t)` and a row `u = (u_1, u_2)` of three and two numbers the corrected pose is
`(R exp(hat(σ u_1)), t + τ u_2)`, σ and τ being the standard deviations of the errors that are expected. The rotation
acts in the map frame: turning the molecule is the same `u_1` for all particles.
"""

import math
from collections.abc import Callable, Iterable

import roma
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from cryomorph.components import Settings
from cryomorph.rows import RowTable


class CorrectionSettings(Settings):
    """How far poses are expected to be off, and how fast corrections are learned."""

    rotation_spread: float = Field(
        3.0, gt=0, le=60, description="degrees about each axis, standard deviation of the rotations' errors"
    )
    shift_spread: float = Field(1.0, gt=0, description="Å along each axis, standard deviation of the shifts' errors")
    learning_rate: float = Field(
        0.8, gt=0, description="of the corrections, in units of the spreads; a row is touched once an epoch only"
    )


class PoseCorrections(nn.Module):
    """A table (particles, 5) of corrections in units of the spreads; zero at the start.

    Parameters
    ----------
    settings
        Spreads and learning rate.
    particles
        Number of rows.
    """

    def __init__(self, settings: CorrectionSettings, particles: int) -> None:
        super().__init__()
        self.settings = settings
        self.table = RowTable(particles, 5)
        nn.init.zeros_(self.table.weight)

    def forward(self, index: Tensor, rotation: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Correct the base poses of particles.

        Parameters
        ----------
        index
            Row of each particle, shape (b,).
        rotation, shift
            Base poses, shapes (b, 3, 3) and (b, 2) Å.
        """
        u = self.table(index)
        turn, move = u[:, :3], u[:, 3:]
        turned = rotation @ roma.rotvec_to_rotmat(math.radians(self.settings.rotation_spread) * turn)
        return turned, shift + self.settings.shift_spread * move

    def cost(self, index: Tensor) -> Tensor:
        """Return `½‖u‖²` of each particle, shape (b,)."""
        cost: Tensor = 0.5 * self.table(index).square().sum(1)
        return cost

    def spread(self, like: Tensor) -> Tensor:
        """Return the standard deviations of rotations about three axes, in radians, and of shifts along two, in Å."""
        turn, move = math.radians(self.settings.rotation_spread), self.settings.shift_spread
        return like.new_tensor([turn, turn, turn, move, move])

    def optimizer(self) -> Optimizer:
        """Return Adam with moments and step counts for each row."""
        return self.table.optimizer(self.settings.learning_rate)

    def gather(self, optimizer: Optimizer, owned: Tensor, add_up: Callable[..., None]) -> None:
        """Make every row, and the optimiser's state of it, that of the process that owns the particle."""
        self.table.gather(optimizer, owned, add_up)

    def restart(self, optimizer: Optimizer, rows: Tensor) -> None:
        """Forget the corrections of rows (k,), whose base poses are new ones."""
        self.table.restart(optimizer, rows)

    @torch.no_grad()
    def remove_common(self, own: Iterable[tuple[Tensor, Tensor]], add_up: Callable[..., None]) -> None:
        """Take out of the corrections what turning and moving the molecule, for all particles alike, would do as well.

        A molecule turned by a small `w` and moved by `a` looks the same with `u_1 - w/σ` and `u_2 - (R a)[:2] / τ`. The
        w and a that make the corrections smallest, by least squares over all particles, are taken out: w is the mean
        of the rotations.

        Parameters
        ----------
        own
            Rows (b,) and base rotations (b, 3, 3) of the particles that this process owns, in parts.
        add_up
            Adds tensors up over the processes, in place.
        """
        parts = list(own)
        count, turns, normal, moves = (self.table.weight.new_zeros(shape) for shape in ((), (3,), (3, 3), (3,)))
        for index, rotation in parts:
            u = self.table.weight[index]
            turn, move = u[:, :3], u[:, 3:]
            seen = rotation[:, :2]
            count += len(index)
            turns += turn.sum(0)
            normal += torch.einsum("bki,bkj->ij", seen, seen)
            moves += torch.einsum("bki,bk->i", seen, move)
        add_up(count, turns, normal, moves)
        common_turn, common_move = turns / count, torch.linalg.pinv(normal, hermitian=True) @ moves
        for index, rotation in parts:
            self.table.weight[index] -= torch.cat([common_turn.expand(len(index), 3), rotation[:, :2] @ common_move], 1)
