"""What simulated images are like."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from cryomorph.components import Settings

Range = Annotated[
    tuple[float, float], BeforeValidator(lambda value: (value, value) if isinstance(value, int | float) else value)
]
"""Values are drawn uniformly between the two; equal ends, or a single number, give the value."""


class SimulationSettings(Settings):
    """What the images are like."""

    model_config = ConfigDict(allow_inf_nan=False)

    images_per_conformation: int = Field(10, ge=1, description="images of each conformation")
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
        return self
