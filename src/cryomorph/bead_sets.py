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
from cryomorph.trials import TrialSettings

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
        Difference to the best of those compared before, of which the set in use is the first, in the same images, and
        its standard error.
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
        said = (
            f"{kind} {free:.2f} ({change:+.2f} ± {error:.2f})"
            for kind, free, change, error in zip(self.tried, self.free, self.free_change, self.free_error, strict=True)
        )
        return f"beads: {self.chosen} ({', '.join(said)} nats/image)"


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
        return 0 < epoch == round(self.settings.beads_after * total) < total

    def choose(self, add_up: Callable[..., None]) -> BeadChoice:
        """Compare all sets, and put the chosen one in place: the one in use unless another surpasses it by what counts.

        That is twice the standard error: as long as conformations are far off, no set may be seen to be better. More
        beads cost time, and must also gain the share that counts for each time as many.

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
        best, changes, errors = before.kind, [], []
        for kind in BEAD_KINDS:
            change = explained[kind] - explained[best]
            changes.append(float(change.mean()))
            errors.append(float(change.std(ddof=1) / np.sqrt(len(change))))
            nats, times = max(float(explained[best].mean()), 0.0), len(sets[kind].width) / len(sets[best].width)
            counts = self.settings.tolerance * times * nats if times > 1 else 0.0
            if changes[-1] > max(counts, 2 * errors[-1]):
                best = kind
        if best != before.kind:
            reconstruction.use_molecule(sets[best])
        free = tuple(float(explained[kind].mean()) for kind in BEAD_KINDS)
        choice = BeadChoice(BEAD_KINDS, free, tuple(changes), tuple(errors), best)
        logger.info("%s", choice)
        return choice
