"""Graph neural network over the protein backbone (paper A)."""

import warnings
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cryomorph.components import Settings
from cryomorph.conformations.base import ConformationModel
from cryomorph.structure.graph import backbone_graph
from cryomorph.structure.model import Template

if TYPE_CHECKING:
    from cryomorph.conformations._convolution import Neighbours


class GNNSettings(Settings):
    """Size of the network; the defaults are paper A's for adenylate kinase."""

    kind: Literal["gnn"] = "gnn"
    latent_dim: int = Field(8, ge=1, description="number of latent coordinates d")
    layers: int = Field(16, ge=1, description="graph convolution layers K")
    channels: int = Field(16, ge=1, description="channels C of each layer")
    features: int = Field(16, ge=1, description="features F given to each node by the latents")


def normalised_adjacency(edges: NDArray[np.int64], nodes: int) -> Tensor:
    """Propagation matrix of graph convolution, `D^-½ (A + I) D^-½` (Kipf & Welling 2017), as sparse CSR (n, n).

    Parameters
    ----------
    edges
        Pairs of nodes, each once, shape (e, 2).
    nodes
        Number n.
    """
    loops = np.repeat(np.arange(nodes)[:, None], 2, axis=1)
    pairs = np.concatenate([edges, edges[:, ::-1], loops])
    degree = np.bincount(pairs[:, 0], minlength=nodes)
    values = 1 / np.sqrt(degree[pairs[:, 0]] * degree[pairs[:, 1]])
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pointers = np.concatenate([[0], np.cumsum(degree)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(pointers),
            torch.from_numpy(pairs[order, 1].copy()),
            torch.from_numpy(values[order]).float(),
            size=(nodes, nodes),
            check_invariants=True,
        )


class _Propagate(torch.autograd.Function):
    """Product of the symmetric propagation matrix with features; symmetric, so its own transpose in the gradient."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, adjacency: Tensor, features: Tensor) -> Tensor:
        ctx.adjacency = adjacency  # type: ignore[attr-defined]
        return adjacency @ features

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grad: Tensor) -> tuple[None, Tensor]:
        return None, ctx.adjacency @ grad[0]  # type: ignore[attr-defined]


class GNN(ConformationModel):
    """Latents to node features by one linear layer, K graph convolutions with ReLU and skip connections, linear to 3.

    Nodes are residues; edges are peptide bonds and backbone hydrogen bonds of the template. Features are laid out as
    (node, image, channel), so that one sparse product serves the whole batch. The output layer starts near zero, so
    that training starts at the template.
    """

    Settings = GNNSettings
    adjacency: Tensor

    def __init__(self, settings: GNNSettings, template: Template) -> None:
        super().__init__(template, settings.latent_dim)
        self.settings = settings
        self.nodes = len(template)
        self.embedding = nn.Linear(settings.latent_dim, self.nodes * settings.features)
        inputs = [settings.features] + [settings.channels] * (settings.layers - 1)
        self.layers = nn.ModuleList(nn.Linear(i, settings.channels) for i in inputs)
        self.output = nn.Linear(settings.channels, 3)
        nn.init.normal_(self.output.weight, std=1e-3)
        nn.init.zeros_(self.output.bias)
        adjacency = normalised_adjacency(backbone_graph(template), self.nodes)
        # Sparse tensors are left out of checkpoints: the template determines this one.
        self.register_buffer("adjacency", adjacency, persistent=False)
        self._neighbours: Neighbours | None = None

    def displacement(self, z: Tensor) -> Tensor:
        """Return Δ in Å, shape (b, n, 3)."""
        if z.device.type == "cpu" and z.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
            return self._compiled_displacement(z)
        return self._plain_displacement(z)

    def _plain_displacement(self, z: Tensor) -> Tensor:
        images = len(z)
        features = self.embedding(z).view(images, self.nodes, -1).transpose(0, 1)
        for layer in self.layers:
            convolved = F.relu(self._propagate(layer(features)))
            features = convolved + features if features.shape == convolved.shape else convolved
        with torch.autocast(features.device.type, enabled=False):  # a displacement of 10 Å must not be rounded
            moved: Tensor = self.output(features.float())
        return moved.transpose(0, 1)

    def _compiled_displacement(self, z: Tensor) -> Tensor:
        """Return the same, computed several times as fast on a CPU."""
        from cryomorph.conformations._convolution import convolve, neighbours_of

        if self._neighbours is None:
            self._neighbours = neighbours_of(self.adjacency)
        layers = [cast(nn.Linear, layer) for layer in self.layers]
        return convolve(
            self.embedding(z).view(len(z), self.nodes, -1),
            [layer.weight for layer in layers],
            [layer.bias for layer in layers],
            (self.output.weight, self.output.bias),
            self._neighbours,
        )

    def _propagate(self, features: Tensor) -> Tensor:
        flat = features.reshape(self.nodes, -1)
        # Sparse products exist in single precision only.
        with torch.autocast(features.device.type, enabled=False):
            propagated: Tensor = _Propagate.apply(self.adjacency, flat.float())  # type: ignore[no-untyped-call]
        return propagated.view_as(features).to(features.dtype)
