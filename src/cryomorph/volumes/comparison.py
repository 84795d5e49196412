"""What maps of particles say of the models that stand for them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

TEMPLATE = "template"
"""Name of the model that is compared with the map, but is no state."""


@dataclass(frozen=True, eq=False)
class StateMaps:
    """What the maps of a state say.

    Attributes
    ----------
    name : str
        Such as "state_3".
    folder : Path
        Has the maps, the model and the curves.
    images : tuple of int
        In the two half maps.
    frequency : array (shells,)
        1/Å.
    halves, halves_masked : array (shells,)
        Correlation of the half maps, without and with the mask.
    model : array (shells,)
        Correlation of the map and the state's own model, masked.
    resolution, resolution_masked, resolution_model : float
        Å, where these fall below 0.143, 0.143 and 0.5.
    agreement : dict of name to three floats
        Mean correlation, up to the resolution, of the map and of each of the half maps with each model.
    independent : bool
        Whether `agreement` is that of coefficients that the run's fit never saw. Else particles that were put together
        because their noise looks alike can agree with the model by that alone.
    """

    name: str
    folder: Path
    images: tuple[int, int]
    frequency: Array
    halves: Array
    halves_masked: Array
    model: Array
    resolution: float
    resolution_masked: float
    resolution_model: float
    agreement: dict[str, tuple[float, float, float]]
    independent: bool

    @property
    def nearest(self) -> str:
        """The state whose model the map agrees with best."""
        return max(self._states, key=lambda name: self.agreement[name][0])

    @property
    def agrees(self) -> bool:
        """Whether the map, and each half map by itself, agrees with its own model better than with another state's."""
        others = [values for name, values in self._states.items() if name != self.name]
        own = self.agreement[self.name]
        return self.resolved and all(mine > theirs for other in others for mine, theirs in zip(own, other, strict=True))

    @property
    def confirmed(self) -> bool:
        """Whether it does so by what the fit never saw, and there are other states that it might have agreed with."""
        return self.agrees and self.independent and len(self._states) > 1

    @property
    def resolved(self) -> bool:
        """Whether the half maps have anything in common."""
        return bool(np.isfinite(self.resolution_masked))

    @property
    def _states(self) -> dict[str, tuple[float, float, float]]:
        return {name: values for name, values in self.agreement.items() if name != TEMPLATE}

    @property
    def verdict(self) -> str:
        """Say in a line what the comparison of models with the map means."""
        if not self.resolved:
            return "not resolved: the half maps have nothing in common, so that they say nothing of the model"
        own = self.agreement[self.name][0]
        others = {name: values[0] for name, values in self._states.items() if name != self.name}
        if not others:
            return f"agrees with its model by {own:.3f}; there is no other state to compare with"
        second = max(others, key=others.__getitem__)
        numbers = f"{own:.3f} with its own model, {others[second]:.3f} with that of {second}"
        if self.confirmed:
            return f"confirmed: data that the fit never saw agree best with the state's own model ({numbers})"
        if self.agrees:
            return f"agrees best with its own model ({numbers}); no proof, since the fit saw these data"
        if self.nearest == self.name:
            return f"not sure: only the whole map, not each half map, agrees best with its own model ({numbers})"
        return f"not confirmed: the map agrees better with the model of {second} ({numbers})"

    def as_dict(self) -> dict[str, object]:
        """Return all of it as JSON has it, the curves too; resolutions that are infinite as null."""
        resolutions = {
            "halves": self.resolution,
            "halves_masked": self.resolution_masked,
            "model": self.resolution_model,
        }
        return {
            "name": self.name,
            "images": list(self.images),
            "resolution_angstrom": {key: value if np.isfinite(value) else None for key, value in resolutions.items()},
            "independent": self.independent,
            "agreement": {name: list(values) for name, values in self.agreement.items()},
            "resolved": self.resolved,
            "nearest": self.nearest,
            "agrees": self.agrees,
            "confirmed": self.confirmed,
            "verdict": self.verdict,
            "frequency": self.frequency.tolist(),
            "fsc": {name: values.tolist() for name, values in self.curves.items()},
        }

    @property
    def curves(self) -> dict[str, Array]:
        """Correlations by what they are of."""
        return {"halves": self.halves, "halves, masked": self.halves_masked, "map and model": self.model}
