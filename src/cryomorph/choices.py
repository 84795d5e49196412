"""What the data choose while training goes on: the molecule's beads, and strengths of priors."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.bead_sets import BeadSets
from cryomorph.branches import Branch
from cryomorph.held_out import HeldOut
from cryomorph.latent_steps import LatentSteps
from cryomorph.optimisation import Optimisation
from cryomorph.progress import Progress
from cryomorph.trials import Strength, Trials, Tried

TrainOn = Callable[[NDArray[np.int64], int, Progress], None]
"""Takes the steps of a part of an epoch with some particles, of so many in all processes."""


class Choices:
    """What is not given by the user, and when it is chosen.

    Parameters
    ----------
    trials
        Of strengths.
    few
        Images that tell of strengths that act on each particle by itself.
    beads
        Sets of beads to be compared; None: they are given.
    """

    def __init__(self, trials: Trials, few: HeldOut, beads: BeadSets | None) -> None:
        self.trials, self.few, self.beads = trials, few, beads

    def choose_beads(self, epoch: int, total: int, optimisation: Optimisation) -> dict[str, Any]:
        """Choose the molecule's beads, if it is time; returns what to say about it."""
        if self.beads is None or not self.beads.due(epoch, total):
            return {}
        return {"beads": self.beads.choose(optimisation.add_up).as_dict()}

    def try_strengths(
        self, epoch: int, total: int, optimisation: Optimisation, train_on: TrainOn, progress: Progress
    ) -> dict[str, Any]:
        """Choose strengths, if it is time; returns what to say about it."""
        due = self.trials.due(epoch, total)
        if not due:
            return {}
        rows = self.trials.rows(epoch)
        branch = Branch([optimisation.reconstruction, optimisation.latents], optimisation.optimizers)
        steps: list[LatentSteps] = []

        def go_on(of: Strength) -> Tried:
            held_out = self.trials.held_out if of.shared else self.few
            if of.shared:
                train_on(rows, self.trials.images, progress)
            else:
                if not steps:
                    steps.append(LatentSteps(held_out))
                steps[0].take(float(of.buffer(held_out.reconstruction)), optimisation.of_latents)
            found = Tried(*held_out.motion(optimisation.add_up))
            branch.restore()
            return found

        progress.start("strengths", sum((1 + len(factors)) * len(rows) for each, factors in due.items() if each.shared))
        try:
            return self.trials.run(due, go_on, epoch, total)
        finally:
            progress.finish()

    def state(self) -> dict[str, Any]:
        """Return what the rest of the training depends on."""
        return self.trials.carry_on

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.trials.carry_on = state
