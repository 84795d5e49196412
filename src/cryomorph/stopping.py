"""Which epoch's model to keep: training ends early where it goes on to explain free coefficients worse."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

SIGNIFICANT = 2.0
"""Standard errors by which free coefficients must be explained worse for an epoch to count as worse."""


class BestEpoch:
    """The newest epoch after which free coefficients were not explained worse than ever before.

    Parameters
    ----------
    patience
        Epochs in a row that may be worse before training ends; 0: it never does.

    Attributes
    ----------
    epoch : int
        Whose model is kept; 0 before the first.
    best : Tensor (images,)
        Nats by which each image's free coefficients were explained where all together were explained best.
    worse : int
        Epochs since the one that is kept.
    kept : list of dict or None
        Its state, once a later epoch was worse.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.forget()

    def forget(self) -> None:
        """Begin anew: what is compared with is not what it was."""
        self.epoch, self.worse = 0, 0
        self.best = torch.zeros(0, dtype=torch.float64)
        self.kept: list[dict[str, Any]] | None = None
        self._newest: list[dict[str, Any]] | None = None

    def see(self, epoch: int, free: Tensor, modules: Sequence[nn.Module]) -> bool:
        """Take note of an epoch; returns whether training should end.

        Parameters
        ----------
        epoch
            Epochs done.
        free
            Nats by which free coefficients of each image are explained, the same images as before, shape (images,).
        modules
            What is kept of it.
        """
        if not self.patience or len(free) < 2:
            return False
        change = free - self.best if len(self.best) == len(free) else torch.ones_like(free)
        error = float(change.std() / len(change) ** 0.5)
        if float(change.mean()) < -SIGNIFICANT * error:
            self.kept = self.kept or self._newest
            self.worse += 1
            return self.worse >= self.patience and self.kept is not None
        if float(change.mean()) > 0:
            self.best = free.clone()
        self.epoch, self.worse, self.kept = epoch, 0, None
        self._newest = [copy.deepcopy(module.state_dict()) for module in modules]
        return False

    def restore(self, modules: Sequence[nn.Module]) -> None:
        """Put the kept epoch's model in place, if later ones were worse."""
        if self.kept is not None:
            for module, state in zip(modules, self.kept, strict=True):
                module.load_state_dict(state)
            logger.info("free coefficients were explained best after epoch %d: that model is kept", self.epoch)

    def state(self) -> dict[str, Any]:
        """Return what the rest of the training depends on."""
        return {"epoch": self.epoch, "worse": self.worse, "best": self.best, "kept": self.kept}

    def load_state(self, state: dict[str, Any], modules: Sequence[nn.Module]) -> None:
        """Continue from what `state` returned, with modules as they were then."""
        self.epoch, self.worse, self.best, self.kept = (state[name] for name in ("epoch", "worse", "best", "kept"))
        if self.kept is None and self.epoch:
            self._newest = [copy.deepcopy(module.state_dict()) for module in modules]
