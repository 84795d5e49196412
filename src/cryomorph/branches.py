"""A training's state put aside and taken back, so that something can be tried without consequences."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class Branch:
    """The state of modules, their optimisers and random numbers when it is made, to return to.

    What each process has of its own stays its own. On a GPU, its random numbers are included.

    Parameters
    ----------
    modules, optimizers
        What may change meanwhile.
    """

    def __init__(self, modules: Sequence[nn.Module], optimizers: Sequence[Optimizer]) -> None:
        self.parts: list[Any] = [*modules, *optimizers]
        self.states = [copy.deepcopy(part.state_dict()) for part in self.parts]
        self.random = torch.get_rng_state()
        self.random_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore(self) -> None:
        """Make everything as it was; can be called again."""
        for part, state in zip(self.parts, self.states, strict=True):
            part.load_state_dict(copy.deepcopy(state))
        torch.set_rng_state(self.random)
        if self.random_cuda:
            torch.cuda.set_rng_state_all(self.random_cuda)
