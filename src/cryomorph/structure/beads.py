"""Beads: the Gaussians that stand for the molecule's scattering, carried by the residues.

Every bead belongs to a residue. Those that are not on its representative atom keep their place in the residue's local
frame, which three consecutive representative atoms span.
"""

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryomorph.errors import InputError
from cryomorph.structure.grouping import BeadGroup, atom_groups, calpha_groups, residue_groups
from cryomorph.structure.model import Template

logger = logging.getLogger(__name__)

BeadKind = Literal["ca", "residue", "atom"]
BEAD_KINDS: tuple[BeadKind, ...] = get_args(BeadKind)
"""Those that cost least first."""

SHORTEST_AXIS = 0.1  # Å; a frame's axes shrink below this length instead of turning at random


@dataclass(frozen=True)
class Beads:
    """Beads of b conformations; their number B, amplitudes and widths do not depend on the conformation.

    Attributes
    ----------
    positions : Tensor (b, B, 3)
        Å.
    amplitude : Tensor (B,)
        Integral of the Gaussian, in a unit common to all beads.
    width : Tensor (B,)
        Standard deviation of the Gaussian in Å.
    """

    positions: Tensor
    amplitude: Tensor
    width: Tensor


class BeadModel(nn.Module, ABC):
    """Takes conformations, given by the representative atoms of the residues, to beads.

    Parameters
    ----------
    groups
        The beads, in the order of the output.
    kind
        What they are called.

    Attributes
    ----------
    kind
        As given.
    amplitude, width : Tensor (B,)
        Buffers in float32.
    residue : Tensor (B,)
        Which residue each bead belongs to.
    """

    amplitude: Tensor
    width: Tensor
    residue: Tensor

    def __init__(self, groups: list[BeadGroup], kind: BeadKind) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("amplitude", torch.tensor([group.amplitude for group in groups], dtype=torch.float32))
        self.register_buffer("width", torch.tensor([group.width for group in groups], dtype=torch.float32))
        self.register_buffer("residue", torch.tensor([group.residue for group in groups]), persistent=False)

    def forward(self, coordinates: Tensor) -> Beads:
        """Place the beads of conformations (b, n, 3) in Å."""
        return Beads(self.positions(coordinates), self.amplitude, self.width)

    @abstractmethod
    def positions(self, coordinates: Tensor) -> Tensor:
        """Return bead positions (b, B, 3) for conformations (b, n, 3), both in Å."""

    def cost(self) -> Tensor:
        """Return what places that were learned cost in nats, once for all images, shape (); none are learned here."""
        return self.amplitude.new_zeros(())


class CentredBeads(BeadModel):
    """One bead on each representative atom."""

    def positions(self, coordinates: Tensor) -> Tensor:
        """Return the coordinates themselves."""
        return coordinates


class FramedBeads(BeadModel):
    """Beads at places in the residues' local frames, those of the template unless others are learned.

    The frame of residue i has its first axis along `x[i+1] - x[i-1]` and its second towards `x[i]` from the middle of
    these. Residues at the ends of a chain, or beside a gap, turn with the nearest residue that has both neighbours;
    where there is none (stretches of one or two residues, or straight ones) beads only move along with their residue.

    Side chains of the molecule in the images may turn other ways than the template's. Then nothing but a distorted
    backbone would bring its beads to where there is density, so their places are learned, the same for all images.

    Parameters
    ----------
    template
        Where the offsets are taken from.
    groups
        The beads, residue by residue.
    kind
        What they are called.
    freedom
        Of their places, in units of how far those of two models differ (`BeadGroup.spread`). 0 keeps them.

    Attributes
    ----------
    deviation : Parameter (B, 3)
        From the template's place in the frame, in units of its standard deviation.
    spread : Tensor (B, 1)
        That standard deviation along each axis in Å.
    """

    offset: Tensor
    frame_source: Tensor
    spread: Tensor

    def __init__(self, template: Template, groups: list[BeadGroup], kind: BeadKind, freedom: float = 0.0) -> None:
        super().__init__(groups, kind)
        residue = np.array([group.residue for group in groups])
        source = frame_sources(template)
        displacement = np.stack([group.centre for group in groups]) - template.coordinates[residue]
        offset = _in_frames(template, source[residue], displacement)
        # Residues without a frame of their own take the row behind the last frame, which is the identity.
        fixed = np.where(source < 0, len(template) - 2, source - 1)
        self.register_buffer("offset", torch.from_numpy(offset).to(torch.float32))
        self.register_buffer("frame_source", torch.from_numpy(fixed))
        spread = freedom * np.array([[group.spread] for group in groups])
        self.register_buffer("spread", torch.from_numpy(spread).float(), persistent=False)
        self.deviation = nn.Parameter(torch.zeros(len(groups), 3), requires_grad=freedom > 0)

    def cost(self) -> Tensor:
        """Return what the places that were learned cost under their normal prior, in nats, shape ()."""
        return 0.5 * self.deviation.square().sum()

    def positions(self, coordinates: Tensor) -> Tensor:
        """Return bead positions (b, B, 3); equivariant under rigid motions wherever residues have frames."""
        offset = self.offset + self.spread * self.deviation
        if coordinates.device.type == "cpu" and coordinates.dtype == torch.float32:
            from cryomorph.structure._placing import Places, place_beads

            places = Places(self.residue.numpy(), self.frame_source.numpy())
            return place_beads(coordinates, offset, places, SHORTEST_AXIS)
        return self._plain_positions(coordinates, offset)

    def _plain_positions(self, coordinates: Tensor, offset: Tensor) -> Tensor:
        x = coordinates.permute(1, 2, 0).contiguous()  # the batch last: every step below is contiguous there
        identity = torch.eye(3, dtype=x.dtype, device=x.device)[:, :, None].expand(3, 3, len(coordinates))
        frames = torch.cat([local_frames(x), identity[None]])
        own = frames.index_select(0, self.frame_source.index_select(0, self.residue))
        turned = torch.bmm(offset.to(x.dtype)[:, None], own.flatten(2)).view(-1, 3, len(coordinates))
        return (x.index_select(0, self.residue) + turned).permute(2, 0, 1).contiguous()


def bead_model(template: Template, kind: BeadKind, freedom: float = 0.0) -> BeadModel:
    """Make the beads of a template.

    Parameters
    ----------
    template
        With all its atoms for "residue" and "atom"; what is missing has no bead.
    kind
        "ca": one Gaussian on each Cα (C1' for nucleotides), amplitudes in electrons and widths of a published table;
        "residue": backbone and side chain (nucleotides: phosphate, sugar and base) as one Gaussian each; "atom": every
        heavy atom. The last two have the summed electron scattering of their heavy atoms as amplitude, in Å.
    freedom
        Of the places of the last two in their residues, see `FramedBeads`.

    Returns
    -------
    BeadModel

    Raises
    ------
    InputError
        If the kind is another one.
    """
    if kind in ("residue", "atom"):
        _say_bare_residues(template)
    if kind == "ca":
        return CentredBeads(calpha_groups(template), kind)
    if kind == "residue":
        return FramedBeads(template, residue_groups(template), kind, freedom)
    if kind == "atom":
        return FramedBeads(template, atom_groups(template), kind, freedom)
    raise InputError(f"beads '{kind}': no such kind; expected 'ca', 'residue' or 'atom'")


def _say_bare_residues(template: Template) -> None:
    bare = int((np.bincount(template.atom_residue, minlength=len(template)) == 1).sum())
    if bare:
        logger.info(
            "%s: %d of %d residues have one atom only, which is their bead", template.source, bare, len(template)
        )


def local_frames(x: Tensor) -> Tensor:
    """Orthonormal frames of the inner residues of a trace.

    Parameters
    ----------
    x
        Coordinates (n, 3, b) in Å.

    Returns
    -------
    Tensor (n - 2, 3, 3, b)
        Axis, component, conformation. Where three residues lie on a line (closer than 0.1 Å) the second and third axis
        shrink to zero, so that values and gradients stay bounded.
    """
    before, here, after = x[:-2], x[1:-1], x[2:]
    along = _normalised(after - before)
    bend = here - 0.5 * (before + after)
    bend = _normalised(bend - (bend * along).sum(1, keepdim=True) * along)
    return torch.stack([along, bend, torch.linalg.cross(along, bend, dim=1)], dim=1)


def _normalised(vectors: Tensor) -> Tensor:
    """Divide vectors (n, 3, b) by their length, or by 0.1 Å where they are shorter."""
    return vectors * vectors.square().sum(1, keepdim=True).clamp_min(SHORTEST_AXIS**2).rsqrt()


def frame_sources(template: Template) -> NDArray[np.int64]:
    """Return for each residue (n,) the one whose frame it turns with, -1 where there is none.

    That is the nearest residue of the same bonded stretch that has both neighbours and is not on a line with them.
    """
    count = len(template)
    lengths = torch.linalg.vector_norm(local_frames(_trace(template))[:, 2, :, 0], dim=1).numpy()
    has_frame = np.zeros(count, dtype=np.bool_)
    has_frame[1:-1] = template.bonded[:-1] & template.bonded[1:] & (lengths > 0.999)
    stretch = np.concatenate([[0], np.cumsum(~template.bonded)])
    sources = np.full(count, -1, dtype=np.int64)
    for number in np.unique(stretch):
        members = np.flatnonzero(stretch == number)
        framed = members[has_frame[members]]
        if len(framed):
            nearest = np.abs(members[:, None] - framed[None]).argmin(1)
            sources[members] = framed[nearest]
    return sources


def _in_frames(
    template: Template, sources: NDArray[np.int64], displacement: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Express displacements (B, 3) in the frames of residues `sources` (B,); as they are where that is -1."""
    frames = local_frames(_trace(template))[..., 0].numpy()
    turned = np.einsum("bai,bi->ba", frames[np.maximum(sources - 1, 0)], displacement)
    return np.where(sources[:, None] < 0, displacement, turned)


def _trace(template: Template) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(template.coordinates))[:, :, None]
