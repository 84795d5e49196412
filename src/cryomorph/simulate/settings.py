"""What simulated images are like."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from cryomorph.components import Settings
from cryomorph.simulate.nuisances import Nuisances

Range = Annotated[
    tuple[float, float], BeforeValidator(lambda value: (value, value) if isinstance(value, int | float) else value)
]
"""Values are drawn uniformly between the two; equal ends, or a single number, give the value."""


Share = Annotated[float, Field(ge=0)]


class Mixture(Settings):
    """Normal distributions of different means and one standard deviation, each as probable as the others."""

    model_config = ConfigDict(allow_inf_nan=False)

    means: tuple[float, ...] = Field(min_length=1, description="Å")
    deviation: float = Field(ge=0, description="standard deviation, Å")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """Take `0,2.5;0.25` for the means 0 and 2.5 and the deviation 0.25."""
        if not isinstance(value, str):
            return value
        means, semicolon, deviation = value.partition(";")
        try:
            if not semicolon:
                raise ValueError
            return {"means": [float(mean) for mean in means.split(",")], "deviation": float(deviation)}
        except ValueError:
            raise ValueError(f"expected MEAN,MEAN;DEVIATION such as 0,2.5;0.25, found {value!r}") from None


PUBLISHED = Mixture(means=(0.0, 2.5), deviation=0.25)
"""Paper B's (Koo et al., CryoChains, section 3.1)."""


class Motion(Settings):
    """Motions that every image has for itself: normal modes and a rotation of each chain (paper B, section 3.1)."""

    model_config = ConfigDict(allow_inf_nan=False)

    modes: int = Field(0, ge=0, description="softest normal modes of each chain")
    mixture: Mixture | None = Field(
        default_factory=lambda given: PUBLISHED if given.get("modes") else None,
        description="of the weights: each mode of K makes a root mean square displacement of weight / sqrt(K)",
    )
    rotation: float = Field(
        0.0, ge=0, le=180, description="largest angle by which each chain turns about x, about y and about z, degrees"
    )
    groups: str | None = Field(None, description="rigid domains in place of chains, such as A:1-120,A:121-214,B")

    @model_validator(mode="after")
    def _something_moves(self) -> "Motion":
        if self.mixture is not None and self.modes == 0:
            raise ValueError("a mixture is one of weights of normal modes; give the number of modes too")
        if self.modes == 0 and self.rotation == 0:
            raise ValueError("with neither modes nor rotations nothing moves; give at least one")
        return self


class MultisliceSettings(Settings):
    """The specimen and the microscope's coherence, for `physics: multislice`."""

    model_config = ConfigDict(allow_inf_nan=False)

    slice: float = Field(5.0, ge=0.5, le=50, description="thickness of a slice, Å")
    ice: float = Field(
        150.0, ge=0, le=5000, description="thickness of the ice in Å, the molecule in its middle; 0: a vacuum"
    )
    sampling: float = Field(
        1.0, ge=0.1, le=5, description="Å between samples of the wave, at most; finer for small pixels"
    )
    focal_spread: float = Field(50.0, ge=0, description="standard deviation of the focus by chromatic aberration, Å")
    illumination: float = Field(0.02, ge=0, description="semi-angle of the illumination, mrad")
    ice_motion: float = Field(
        1.1, ge=0, description="mean square distance in Å² that water moves for each electron per Å²"
    )
    damage: float = Field(0.0, ge=0, description="B-factor in Å² that each electron per Å² adds, of the mean exposure")
    mtf: Path | None = Field(None, description="star file of the detector's transfer function, as for RELION")


def _split(value: Any) -> Any:
    parts = value.split(",") if isinstance(value, str) else value
    try:
        train, validation, test = (float(part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError(
            f"expected TRAIN,VALIDATION,TEST, counts or fractions such as 5000,500,500 or 0.8,0.1,0.1, found {value!r}"
        ) from None
    return train, validation, test


class SimulationSettings(Settings):
    """What the images are like."""

    model_config = ConfigDict(allow_inf_nan=False)

    images_per_conformation: int = Field(10, ge=1, description="images of each conformation")
    physics: Literal["projection", "multislice"] = Field(
        "projection", description="of a weak phase object, or of a wave that passes slice by slice through ice"
    )
    multislice: MultisliceSettings = Field(default_factory=MultisliceSettings)
    motion: Motion | None = Field(None, description="that every image has for itself, from its conformation on")
    nuisances: Nuisances = Field(default_factory=Nuisances, description="of real images, beside noise")
    split: Annotated[tuple[Share, Share, Share], BeforeValidator(_split)] | None = Field(
        None, description="images for training, validation and test, drawn at random: counts, or fractions of all"
    )
    box: int = Field(128, ge=8, description="pixels along an edge, even or odd")
    pixel_size: float = Field(2.0, gt=0, description="Å per pixel")
    voltage: float = Field(300.0, gt=0, description="acceleration voltage, kV")
    spherical_aberration: float = Field(2.7, ge=0, description="Cs, mm")
    amplitude_contrast: float = Field(0.07, ge=0, le=1, description="share of amplitude contrast")
    defocus: Range = Field(
        (10_000.0, 20_000.0),
        description="mean of U and V in Å, positive for underfocus; range drawn from, or one value",
    )
    astigmatism: Range = Field((0.0, 0.0), description="U - V in Å; range drawn from, or one value")
    astigmatism_angle: float | None = Field(None, description="axis of U in degrees; none: drawn for each image")
    phase_shift: float = Field(0.0, description="of a phase plate, degrees")
    b_factor: float = Field(0.0, ge=0, description="of the envelope exp(-B k²/4), Å²")
    shift: float = Field(0.0, ge=0, description="standard deviation of the Gaussian shift along x and along y, Å")
    dose: float | None = Field(100.0, gt=0, description="electrons per Å², Poisson noise; none: no noise")
    snr_db: float | None = Field(
        None,
        ge=-60,
        le=60,
        description="power of signal over noise in each whole image, decibels, Gaussian noise; replaces the dose",
    )
    solvent: bool = Field(True, description="subtract the vitreous ice that the atoms displace")
    align: bool = Field(False, description="superpose every conformation on the first")
    seed: int = Field(0, ge=0, description="of everything drawn")
    dtype: Literal["float32", "float16"] = Field("float32", description="numbers stored in the stack")

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "SimulationSettings":
        for name in ("defocus", "astigmatism"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the range starts at {low:g} and ends below it, at {high:g}")
        if self.astigmatism[0] < 0:
            raise ValueError("astigmatism: U - V is at least 0; turn astigmatism_angle by 90 degrees instead")
        if self.nuisances.background > 0 and self.dose is None and self.snr_db is None:
            raise ValueError("a background is stated in units of the noise: give a dose or snr_db")
        return self
