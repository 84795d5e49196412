"""What may be chosen of an analysis."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cryomorph.components import Settings


class AnalysisSettings(Settings):
    """Settings of `cryomorph analyze`.

    Attributes
    ----------
    components
        Principal components of the conformations.
    states
        Number of groups; "auto": as many as there are separate ones, else five slices of a continuous motion.
    traversals
        Components that are made motions, at most: those that have a hundredth of all variance.
    steps
        Conformations of a motion.
    percentiles
        Of the particles along a component, between which its motion goes.
    distances, angles, dihedrals
        Two, three or four residues each, as "A:55,A:169".
    umap
        Also embed the latents in two dimensions.
    bins
        Of the landscape, along each of its axes.
    seed
        Of k-means and UMAP.
    """

    components: Annotated[int, Field(ge=2, le=100)] = 10
    states: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = "auto"
    traversals: Annotated[int, Field(ge=0, le=100)] = 3
    steps: Annotated[int, Field(ge=2, le=1000)] = 16
    percentiles: tuple[float, float] = (5.0, 95.0)
    distances: tuple[str, ...] = ()
    angles: tuple[str, ...] = ()
    dihedrals: tuple[str, ...] = ()
    umap: bool = False
    bins: Annotated[int, Field(ge=4, le=1000)] = 64
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _ascending(self) -> "AnalysisSettings":
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles {low:g},{high:g}: expected LOW,HIGH between 0 and 100, LOW the smaller")
        return self
