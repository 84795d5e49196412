"""Which beads stand for the molecule, chosen by what free coefficients say of the images.

The same conformations are given other beads. Amplitudes and widths of bead sets differ, and so do gain and fading of
what they explain. So each set has gains of its own for every Fourier shell, fitted to the coefficients that the fit
sees, and the noise is that of the calibration so far for all.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryomorph.held_out import HeldOut
from cryomorph.structure.beads import BEAD_KINDS, BeadKind, bead_model
from cryomorph.structure.model import Template
from cryomorph.trials import TrialSettings, epochs_after

logger = logging.getLogger(__name__)

START_BEADS: BeadKind = "residue"
"""Beads that training begins with, unless others are given: the best of most images (docs/benchmarks.md)."""


@dataclass(frozen=True)
class BeadChoice:
    """Sets of beads, what they explain, and which was chosen.

    Attributes
    ----------
    tried : tuple of str
        Cheapest first.
    free : tuple of float
        Nats by which free coefficients of an image are explained better than by nothing, on average.
    free_change, free_error : tuple of float
        Difference to the best of the cheaper ones in the same images, and its standard error.
    chosen : str
    """

    tried: tuple[BeadKind, ...]
    free: tuple[float, ...]
    free_change: tuple[float, ...]
    free_error: tuple[float, ...]
    chosen: BeadKind

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, numbers rounded for reading."""
        numbers = ("free", "free_change", "free_error")
        rounded = {name: [float(f"{value:.4g}") for value in getattr(self, name)] for name in numbers}
        return {"tried": list(self.tried), **rounded, "chosen": self.chosen}

    def __str__(self) -> str:
        said = [f"{self.tried[0]} {self.free[0]:.2f} nats/image"]
        said += [f"{self.tried[k]} {self.free_change[k]:+.2f} ± {self.free_error[k]:.2f}" for k in (1, 2)]
        return f"beads: {self.chosen} ({', '.join(said)})"


class BeadSets:
    """When sets of beads are compared, and which is taken.

    Parameters
    ----------
    held_out
        Images whose free coefficients decide, and the model.
    template
        Whose beads they are, in the map frame.
    settings
        When, and what counts.
    freedom
        Of beads in their residues. Sets are compared with all beads where the template has them: what one set learned
        the others would as well.
    """

    def __init__(self, held_out: HeldOut, template: Template, settings: TrialSettings, freedom: float) -> None:
        self.held_out, self.template, self.settings, self.freedom = held_out, template, settings, freedom

    def due(self, epoch: int, total: int) -> bool:
        """Tell whether sets are compared after an epoch, of so many."""
        return epoch in epochs_after((self.settings.beads_after,), total)

    def choose(self, add_up: Callable[..., None]) -> BeadChoice:
        """Compare all sets, and put the chosen one in place: the cheapest that no dearer one surpasses by what counts.

        More beads cost time. They must gain the share that counts for each time as many, and twice the standard error.

        Parameters
        ----------
        add_up
            Adds tensors up over the processes, in place.
        """
        reconstruction = self.held_out.reconstruction
        before = reconstruction.molecule
        sets = {kind: bead_model(self.template, kind, self.freedom).to(self.held_out.device) for kind in BEAD_KINDS}
        explained = {}
        try:
            for kind, molecule in sets.items():
                reconstruction.use_molecule(molecule)
                explained[kind] = self.held_out.terms(add_up).explained()
        finally:
            reconstruction.use_molecule(before)
        best, changes, errors = BEAD_KINDS[0], [], []
        for kind in BEAD_KINDS:
            change = explained[kind] - explained[best]
            changes.append(float(change.mean()))
            errors.append(float(change.std(ddof=1) / np.sqrt(len(change))))
            nats, times = max(float(explained[best].mean()), 0.0), len(sets[kind].width) / len(sets[best].width)
            if changes[-1] > max(self.settings.tolerance * times * nats, 2 * errors[-1]):
                best = kind
        if best != before.kind:
            reconstruction.use_molecule(sets[best])
        free = tuple(float(explained[kind].mean()) for kind in BEAD_KINDS)
        choice = BeadChoice(BEAD_KINDS, free, tuple(changes), tuple(errors), best)
        logger.info("%s", choice)
        return choice
