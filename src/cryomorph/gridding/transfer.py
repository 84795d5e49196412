"""Beads to samples and back: the same two sums in plain PyTorch, in numba for CPUs and in Triton for GPUs."""

import importlib
import importlib.util
import os
from typing import Literal, Protocol

import torch
from torch import Tensor

from cryomorph.errors import InputError
from cryomorph.gridding.footprints import Footprints
from cryomorph.gridding.rows import Rows

Engine = Literal["auto", "torch", "numba", "triton"]

FAR = 1e7
"""Samples; positions beyond count as not finite: float32 can hardly tell where between two samples they are."""


class Transfer(Protocol):
    """The sums between beads and samples. Points are in samples from the grid's first one, x along columns."""

    def spread(
        self, points: Tensor, amplitude: Tensor, footprints: Footprints, step_index: Tensor, size: int
    ) -> Tensor:
        """Add up the footprints of the beads on periodic grids.

        Parameters
        ----------
        points
            Positions (x, y) of the beads of each image, shape (b, B, 2), float32; modulo N.
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
            NaN throughout where a position of the image is not finite.
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
            NaN where a position of the image is not finite.
        gradient : Tensor (b, B, 2)
            Its derivative by the points, per sample; NaN for the bead that is nowhere.
        """


def transfer(engine: Engine, device: torch.device) -> Transfer:
    """Return the sums for a device, by the engine that `resolve` finds."""
    # Compilers take long to import: only the one that is used.
    module: Transfer = importlib.import_module(f"cryomorph.gridding._{resolve(engine, device)}")
    return module


def resolve(engine: Engine, device: torch.device) -> str:
    """Name an engine: for "auto" numba on a CPU, Triton on a GPU if it is installed, else PyTorch.

    Raises
    ------
    InputError
        If the engine that was asked for does not work on the device.
    """
    on_cpu, has_triton = device.type == "cpu", importlib.util.find_spec("triton") is not None
    if engine == "auto":
        if on_cpu:
            return "numba"
        return "triton" if device.type == "cuda" and has_triton else "torch"
    if engine == "numba" and not on_cpu:
        raise InputError("engine: numba works on CPUs only; on a GPU take triton or torch")
    if engine == "triton" and not has_triton:
        raise InputError("engine: triton is not installed; take torch, or install triton")
    if engine == "triton" and on_cpu and not os.environ.get("TRITON_INTERPRET"):
        raise InputError("engine: triton works on GPUs; on a CPU take numba or torch")
    return engine
