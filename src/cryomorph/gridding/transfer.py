"""Beads to samples and back: the same two sums in plain PyTorch, in numba for CPUs and in Triton for GPUs."""

import importlib
import importlib.util
from typing import Literal, Protocol

import torch
from torch import Tensor

from cryomorph.gridding.footprints import Footprints
from cryomorph.gridding.rows import Rows

Engine = Literal["auto", "torch", "numba", "triton"]


class Transfer(Protocol):
    """The sums between beads and samples. Points are in samples from the grid's first one, x along columns."""

    def spread(
        self, points: Tensor, amplitude: Tensor, footprints: Footprints, step_index: Tensor, size: int
    ) -> Tensor:
        """Add up the footprints of the beads on periodic grids.

        Parameters
        ----------
        points
            Positions (x, y) of the beads of each image, shape (b, B, 2), float32.
        amplitude
            Of the beads, shape (B,).
        footprints
            Of the beads.
        step_index
            Which of the footprints' steps the grid of each image has, int64, shape (b,).
        size
            N.

        Returns
        -------
        Tensor (b, N, N)
            NaN throughout where a position is not finite.
        """

    def collect(
        self,
        samples: Tensor,
        rows: Rows,
        points: Tensor,
        amplitude: Tensor,
        footprints: Footprints,
        step_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Sum up samples under the footprints of all beads; samples that are not kept count as 0.

        Parameters
        ----------
        samples
            Those that `rows` keeps, of each image, shape (b, samples), float32.
        rows
            Which samples they are.
        points, amplitude, footprints, step_index
            As in `spread`.

        Returns
        -------
        total : Tensor (b,)
        gradient : Tensor (b, B, 2)
            Its derivative by the points, per sample.
        """


def transfer(engine: Engine, device: torch.device) -> Transfer:
    """Return the sums for a device; "auto" takes numba on a CPU, Triton on a GPU if it is installed, else PyTorch."""
    if engine == "auto":
        if device.type == "cpu":
            engine = "numba"
        else:
            engine = "triton" if device.type == "cuda" and importlib.util.find_spec("triton") else "torch"
    # Compilers take long to import: only the one that is used.
    module: Transfer = importlib.import_module(f"cryomorph.gridding._{engine}")  # type: ignore[assignment]
    return module
