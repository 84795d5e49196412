"""Tables of one row for each particle, and the optimiser that moves rows one by one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class RowTable(nn.Embedding):
    """A table with sparse gradients: a step touches the rows of its batch and no others.

    Parameters
    ----------
    particles
        Number of rows.
    columns
        Numbers kept for each particle.
    """

    def __init__(self, particles: int, columns: int) -> None:
        super().__init__(particles, columns, sparse=True)

    def optimizer(self, learning_rate: float) -> "RowAdam":
        """Return Adam with moments and step counts for each row."""
        return RowAdam(list(self.parameters()), lr=learning_rate)

    @torch.no_grad()
    def gather(self, optimizer: torch.optim.Optimizer, owned: Tensor, add_up: Callable[..., None]) -> None:
        """Make every row, and the optimiser's state of it, that of the process that owns the particle.

        Parameters
        ----------
        optimizer
            What `optimizer` returned.
        owned
            Which particles are this process's, bool, shape (particles,).
        add_up
            Adds tensors up over the processes, in place.
        """
        rows = owned.to(self.weight.device)[:, None]
        for tensor in self._kept(optimizer):
            tensor.mul_(rows)
            add_up(tensor)

    @torch.no_grad()
    def restart(self, optimizer: torch.optim.Optimizer, rows: Tensor) -> None:
        """Set rows (k,) to zero and forget how they moved."""
        for tensor in self._kept(optimizer):
            tensor[rows] = 0

    def _kept(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """Return everything that has a row for each particle: the table itself and the optimiser's state of it."""
        state: dict[str, Any] = optimizer.state[self.weight]
        return [self.weight, *state.values()]


class RowAdam(torch.optim.Optimizer):
    """Adam for tables with sparse gradients: each row has its own moments and its own step count.

    A row that is not in the batch does not move, and its moments do not decay. (`torch.optim.SparseAdam` counts steps
    for the whole table, so that its bias correction is wrong for rows touched once an epoch.)

    Parameters
    ----------
    params
        Tables whose gradients are sparse.
    lr
        Step size.
    betas
        Decay rates of the first and second moment.
    eps
        Added to the root of the second moment.
    """

    def __init__(
        self,
        params: list[nn.Parameter],
        lr: float = 3e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, group)

    def _update(self, table: nn.Parameter, group: dict[str, float | tuple[float, float]]) -> None:
        state = self.state[table]
        if not state:
            state["first"] = torch.zeros_like(table)
            state["second"] = torch.zeros_like(table)
            state["steps"] = torch.zeros(len(table), 1, dtype=table.dtype, device=table.device)
        assert table.grad is not None
        gradient = table.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        beta1, beta2 = group["betas"]  # type: ignore[misc]
        steps = state["steps"][rows] + 1
        first = torch.lerp(values, state["first"][rows], beta1)
        second = torch.lerp(values.square(), state["second"][rows], beta2)
        state["steps"][rows], state["first"][rows], state["second"][rows] = steps, first, second
        corrected = (second / (1 - beta2**steps)).sqrt() + group["eps"]
        table[rows] -= group["lr"] * first / (1 - beta1**steps) / corrected
