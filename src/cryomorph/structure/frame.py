"""Where the template lies: taking a docked model to the frame whose origin is the map's centre."""

from typing import Literal

import numpy as np

from cryomorph.errors import InputError
from cryomorph.structure.model import Template

Frame = Literal["auto", "centre", "corner"]

NEAR = 0.25  # share of the box edge within which the mean of a docked model lies from the map's centre


def place_template(template: Template, box: int, pixel_size: float, frame: Frame) -> tuple[Template, str]:
    """Express a docked template in the frame of the images, with the map's centre as the origin.

    Parameters
    ----------
    template
        Docked into the consensus map. It keeps its place in the map: the poses refer to it.
    box
        Edge of the consensus map in pixels.
    pixel_size
        Å.
    frame
        Where the map's origin lies: at its "centre" (voxel `box // 2`), at its first voxel ("corner", as programs show
        a map whose header has no origin), or "auto": the one for which the template's mean is nearer to the centre.

    Returns
    -------
    template : Template
    remark : str
        One line that says what was decided.

    Raises
    ------
    InputError
        If neither place fits, or if the template does not fit into the box when it turns about the centre.
    """
    edge = box * pixel_size
    corner_to_centre = np.full(3, (box // 2) * pixel_size)
    mean = template.coordinates.mean(0)
    from_centre, from_corner = np.linalg.norm(mean), np.linalg.norm(mean - corner_to_centre)
    chosen = frame
    if frame == "auto":
        if min(from_centre, from_corner) > NEAR * edge:
            raise InputError(
                f"{template.source}: the template's mean ({_point(mean)}) Å is {from_centre:.0f} Å from 0 and"
                f" {from_corner:.0f} Å from the middle of a box of {edge:.0f} Å, so it seems not to be docked into the"
                " consensus map; dock it (or check the pixel size), or say where the origin is with --template-frame"
            )
        chosen = "centre" if from_centre <= from_corner else "corner"
    placed = template.moved(-corner_to_centre) if chosen == "corner" else template
    _check_fits(placed, box, pixel_size, chosen)
    place = "first voxel" if chosen == "corner" else "centre"
    how = "taken to be" if frame == "auto" else "said to be"
    off = np.linalg.norm(placed.coordinates.mean(0))
    remark = f"the template's origin is {how} the map's {place}; its mean lies {off:.1f} Å from the map's centre"
    return placed, remark


def _check_fits(placed: Template, box: int, pixel_size: float, frame: str) -> None:
    radius = np.linalg.norm(placed.coordinates, axis=1).max()
    edge = box * pixel_size
    if radius > edge / 2:
        raise InputError(
            f"{placed.source}: the template reaches {radius:.0f} Å from the map's centre, but the box of {box} pixels"
            f" of {pixel_size:g} Å ({edge:.0f} Å) only {edge / 2:.0f} Å; check the pixel size and whether the template"
            f" is docked into this map (its origin was taken as the map's {frame}, see --template-frame)"
        )


def _point(position: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return ", ".join(f"{value:.0f}" for value in position)
