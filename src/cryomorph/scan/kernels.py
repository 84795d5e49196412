"""What a scan computes besides matrix products, and which engine does it."""

import importlib
from typing import Protocol, cast

import torch
from torch import Tensor

from cryomorph.gridding.transfer import Engine, resolve


class Kernels(Protocol):
    """The operations, by one of the engines."""

    def project(self, radius: Tensor, angle: Tensor, amplitude: Tensor, wavenumber: Tensor, table: Tensor) -> Tensor:
        """Angular harmonics of the Fourier transforms of projected beads: `Σ_b a_b(k) J_m(κ r_b) e^{imφ_b}`.

        Parameters
        ----------
        radius, angle
            Polar coordinates of the beads in each direction, Å and radians, shape (directions, B).
        amplitude
            Of each bead on each ring, shape (B, K).
        wavenumber
            κ = 2πk of the rings in 1/Å, shape (K,).
        table
            `J_m` at steps of `TABLE_STEP`, shape (arguments, M + 1).

        Returns
        -------
        Tensor (directions, 2, K, M + 1)
            Real and imaginary parts.
        """

    def look_up(self, circles: Tensor, at: Tensor, turn: Tensor, share: Tensor, kind: Tensor, angles: int) -> Tensor:
        """Sum up an image under beads at all in-plane angles, by cubic interpolation between circles and on them.

        Parameters
        ----------
        circles
            The image as beads of each kind see it, shape (kinds, circles, p, columns) with more than twice as many
            columns as angles: at the angle of number `column p + row` of `angles p` around the circle.
        at
            Which circle each bead is on in each direction, between 1 and circles - 3, shape (directions, B).
        turn
            Its angle in steps, between 0 and `angles p`, shape (directions, B).
        share, kind
            Amplitude and kind of each bead, shape (B,); kinds, int64, ascend.
        angles
            How many there are.

        Returns
        -------
        Tensor (directions, angles)
        """

    def keep_lowest(
        self, sums: Tensor, power: Tensor | None, values: Tensor, codes: Tensor, angles: int, first: int
    ) -> None:
        """Merge new values into the lowest so far, in place.

        Parameters
        ----------
        sums
            Fourier series in the in-plane angle at numbers 0 to `angles // 4` of it, in four parts: those of even and
            of odd harmonics, each of cosines and of sines. Shape (2, 2, angles // 4 + 1, b, directions). At all other
            angles they differ by signs: half a turn on the odd ones change theirs, at the negative angle the sines.
        power
            If None the values are the sums. Else the sums are cross terms c and the values `-max(c, 0)² / 2 power`,
            the misfit at the best scale of each; shape (b, directions).
        values
            The lowest so far, ascending, shape (b, k).
        codes
            Which they are, int64, shape (b, k). Angle number a of direction d is `first + d angles + a`.
        angles
            How many in-plane angles there are, an even number.
        """


def kernels(engine: Engine, device: torch.device) -> Kernels:
    """Return the engine that was asked for, or the best one for a device; see `resolve`."""
    return cast(Kernels, importlib.import_module(f"cryomorph.scan._{resolve(engine, device)}"))
