"""What a detector passes on of each frequency."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gemmi import cif
from torch import Tensor

from cryomorph.errors import InputError

FREQUENCY, VALUE = "_rlnResolutionInversePixel", "_rlnMtfValue"


def read_transfer(path: Path) -> Callable[[Tensor], Tensor]:
    """Read a detector's transfer function from a star file as RELION takes them.

    Parameters
    ----------
    path
        With the columns `rlnResolutionInversePixel` (1/pixel, up to 0.5 at least) and `rlnMtfValue`.

    Returns
    -------
    callable
        Takes frequencies in 1/pixel, any shape, and interpolates.

    Raises
    ------
    InputError
        If the file is no such table.
    """
    expected = f"expected a star file with {FREQUENCY} and {VALUE}"
    try:
        document = cif.read(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read as a star file; {expected}") from error
    for block in document:
        table = block.find([FREQUENCY, VALUE])
        if len(table):
            break
    else:
        raise InputError(f"{path}: has no transfer function; {expected}")
    try:
        frequency, value = np.array([[float(cell) for cell in row] for row in table]).T
    except ValueError as error:
        raise InputError(f"{path}: has a value that is no number; {expected}") from error
    ascending = len(frequency) > 1 and (np.diff(frequency) > 0).all()
    if not ascending or frequency[-1] < 0.499 or not np.isfinite(value).all():
        raise InputError(f"{path}: frequencies must ascend to 0.5 1/pixel at least, with a number for each")

    def passed(at: Tensor) -> Tensor:
        values = np.interp(at.cpu().numpy(), frequency, value)
        return torch.from_numpy(values).to(at)

    return passed
