"""Graph convolutions for a CPU: all layers in one compiled call, forwards and backwards.

A block of `LANES` images goes through the network by itself, so that threads meet once a call. Within a block,
features are laid out as (tile of `TILE` nodes, channel, node in the tile, image): a row of `RUN` numbers of one channel
feeds the products with weights, its parts of `LANES` numbers the sums over neighbours. Sizes of rows are constants and
offsets unsigned (no index counts from the end): without either, LLVM finds no vector instructions for these loops.
Channels come in fours, the last ones with weights of zero if need be, and so do neighbours.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from cryomorph.parallel import jit, prange, use_torch_threads

Array = NDArray[np.float32]

U = np.uintp
LANES = 16
TILE = 8
RUN = LANES * TILE
LANE_END = U(LANES)
END = U(RUN)
ROW_1, ROW_2, ROW_3 = U(RUN), U(2 * RUN), U(3 * RUN)
ZERO = np.float32(0)


class Neighbours(NamedTuple):
    """A symmetric propagation matrix; the entries of each row are filled up to a multiple of four with zeros.

    Attributes
    ----------
    pointers : array (n + 1,)
        Where the entries of each node begin.
    nodes, values : array (e,)
        Column and value of each entry.
    """

    pointers: NDArray[np.int64]
    nodes: NDArray[np.int64]
    values: Array


class Network(NamedTuple):
    """Weights of K layers and of the output, as (out, in), padded to multiples of four channels.

    Attributes
    ----------
    first : array (C, F)
    later : array (K - 1, C, C)
    biases : array (K, C)
    output : array (4, C)
    output_bias : array (4,)
    """

    first: Array
    later: Array
    biases: Array
    output: Array
    output_bias: Array


class Tape(NamedTuple):
    """What the gradient needs of each block, in the layout of tiles.

    Attributes
    ----------
    start : array (blocks, numbers)
        Input of the first layer.
    hidden : array (blocks, K, numbers)
        Output of each layer; of the last two only where no gradient is wanted.
    active : array (blocks, K, numbers)
        Where ReLU passed something.
    """

    start: Array
    hidden: Array
    active: NDArray[np.bool_]


def neighbours_of(adjacency: Tensor) -> Neighbours:
    """Bring a sparse CSR matrix (n, n) into the form that `convolve` takes."""
    ends = adjacency.crow_indices().numpy()
    degree = np.diff(ends)
    slots = 4 * -(-degree // 4)
    pointers = np.concatenate([[0], np.cumsum(slots)])
    nodes = np.repeat(np.arange(len(degree)), slots)
    values = np.zeros(len(nodes), dtype=np.float32)
    place = np.arange(ends[-1]) + np.repeat(pointers[:-1] - ends[:-1], degree)
    nodes[place] = adjacency.col_indices().numpy()
    values[place] = adjacency.values().numpy()
    return Neighbours(pointers, nodes, values)


def convolve(
    features: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    output: tuple[Tensor, Tensor],
    neighbours: Neighbours,
) -> Tensor:
    """Graph convolutions with ReLU and skip connections, and the linear layer behind them.

    Parameters
    ----------
    features
        Of the nodes, float32 on the CPU, shape (b, n, F).
    weights, biases
        Of the K layers: (C, F), then (C, C); (C,). The first layer has a skip connection if F = C.
    output
        Weight (3, C) and bias (3,) of the output.
    neighbours
        The propagation matrix.

    Returns
    -------
    Tensor (b, n, 3)
    """
    moved: Tensor = _Convolve.apply(  # type: ignore[no-untyped-call]
        features, neighbours, torch.is_grad_enabled(), *weights, *biases, *output
    )
    return moved


class _Convolve(torch.autograd.Function):
    """`convolve`; what the gradient needs is kept if `keep` is set."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, neighbours: Neighbours, keep: bool, *parameters: Tensor) -> Tensor:
        use_torch_threads()
        network = _network(parameters)
        layers, channels = network.biases.shape
        images, nodes, inputs = features.shape
        blocks, size = -(-images // LANES), -(-nodes // TILE) * RUN
        start = np.empty((blocks, network.first.shape[1] * size), dtype=np.float32)
        hidden = np.empty((blocks, layers if keep else 2, channels * size), dtype=np.float32)
        tape = Tape(start, hidden, np.empty(hidden.shape, dtype=np.bool_))
        moved = torch.empty(images, nodes, 3)
        skip = len(parameters[0]) == inputs
        _forward(features.detach().contiguous().numpy(), network, neighbours, skip, tape, moved.numpy())
        if keep:
            ctx.save_for_backward(*parameters)
            ctx.tape = tape, neighbours, skip, features.shape  # type: ignore[attr-defined]
        return moved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        use_torch_threads()
        tape, neighbours, skip, shape = ctx.tape
        parameters = ctx.saved_tensors
        network = _network(parameters)
        # Each block adds up its own gradients: their sum does not depend on which thread is done first.
        sums = Network(*(np.zeros((len(tape.start), *weight.shape), dtype=np.float32) for weight in network))
        towards = torch.empty(shape)
        _backward(gradients[0].contiguous().numpy(), network, neighbours, skip, tape, sums, towards.numpy())
        return towards, None, None, *_parameter_gradients(sums, parameters)


def _network(parameters: tuple[Tensor, ...]) -> Network:
    """Gather the parameters, as `convolve` hands them over, and pad them."""
    layers = len(parameters) // 2 - 1
    weights, biases, output = parameters[:layers], parameters[layers:-2], parameters[-2:]
    first, bias = weights[0].detach(), torch.stack(biases).detach()
    later = torch.stack(weights[1:]).detach() if layers > 1 else first.new_empty(0, len(first), len(first))
    padded = (_in_fours(first), _in_fours(later), _in_fours(bias, 1), _in_fours(output[0]), _in_fours(output[1], 1))
    return Network(*(tensor.detach().contiguous().numpy() for tensor in padded))


def _in_fours(tensor: Tensor, dims: int = 2) -> Tensor:
    """Append zeros to the last dimensions, up to the next multiple of four."""
    missing = [-tensor.shape[-1 - i] % 4 for i in range(dims)]
    return F.pad(tensor, [size for count in missing for size in (0, count)]) if any(missing) else tensor


def _parameter_gradients(sums: Network, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Add up the blocks' gradients and hand them out in the order and shape of the parameters."""
    first, later, biases, output, output_bias = (torch.from_numpy(total).sum(0) for total in sums)
    padded = [first, *later, *biases, output, output_bias]
    return [
        gradient[tuple(slice(length) for length in parameter.shape)]
        for gradient, parameter in zip(padded, parameters, strict=True)
    ]


@jit(parallel=True)
def _forward(features: Array, network: Network, neighbours: Neighbours, skip: bool, tape: Tape, moved: Array) -> None:
    for block in prange(len(tape.start)):
        _load(features, block, tape.start[block])
        _forward_block(network, neighbours, skip, tape, block, moved)


@jit(parallel=True)
def _backward(
    gradient: Array, network: Network, neighbours: Neighbours, skip: bool, tape: Tape, sums: Network, towards: Array
) -> None:
    for block in prange(len(tape.start)):
        _backward_block(gradient, network, neighbours, skip, tape, block, sums, towards)


@jit()
def _forward_block(network: Network, neighbours: Neighbours, skip: bool, tape: Tape, block: int, moved: Array) -> None:
    channels = len(network.first)
    kept, size = tape.hidden.shape[1:]
    mixed = np.empty(size, dtype=np.float32)
    summed = np.empty(size, dtype=np.float32)
    before = tape.start[block]
    passed_on = before if skip else np.zeros(size, dtype=np.float32)
    for k in range(len(network.biases)):
        _fill_rows(network.biases[k], mixed)
        _add_product(network.first if k == 0 else network.later[k - 1], before, mixed)
        _sum_neighbours(neighbours, mixed, channels, summed)
        after = tape.hidden[block, k % kept]
        _rectify(summed, passed_on, after, tape.active[block, k % kept])
        before = passed_on = after
    placed = np.empty(size // channels * 4, dtype=np.float32)
    _fill_rows(network.output_bias, placed)
    _add_product(network.output, before, placed)
    _store(placed, block, moved)


@jit()
def _backward_block(
    gradient: Array,
    network: Network,
    neighbours: Neighbours,
    skip: bool,
    tape: Tape,
    block: int,
    sums: Network,
    towards: Array,
) -> None:
    channels = len(network.first)
    size = tape.hidden.shape[2]
    placed = np.empty(size // channels * 4, dtype=np.float32)
    _load(gradient, block, placed)
    _add_outer(placed, tape.hidden[block, -1], sums.output[block])
    _add_row_sums(placed, sums.output_bias[block])
    slope = np.zeros(size, dtype=np.float32)
    passed = np.empty(size, dtype=np.float32)
    mixed = np.empty(size, dtype=np.float32)
    _add_product(network.output.T.copy(), placed, slope)
    for k in range(len(network.biases) - 1, -1, -1):
        _choose(slope, tape.active[block, k], passed)
        _sum_neighbours(neighbours, passed, channels, mixed)
        _add_row_sums(mixed, sums.biases[block, k])
        if k > 0:
            _add_outer(mixed, tape.hidden[block, k - 1], sums.later[block, k - 1])
            _add_product(network.later[k - 1].T.copy(), mixed, slope)
    _add_outer(mixed, tape.start[block], sums.first[block])
    if not skip:
        slope = np.zeros(tape.start.shape[1], dtype=np.float32)
    _add_product(network.first.T.copy(), mixed, slope)
    _store(slope, block, towards)


@jit()
def _offset(node: int, rows: int) -> int:
    """Where the numbers of a node's first channel begin."""
    return node // TILE * rows * RUN + node % TILE * LANES


@jit()
def _load(features: Array, block: int, into: Array) -> None:
    """Bring a block of (images, nodes, rows) into the layout of tiles; images and rows that are missing are zero."""
    images, nodes, rows = features.shape
    into[:] = ZERO
    padded = len(into) // (-(-nodes // TILE) * RUN)
    lanes = min(LANES, images - block * LANES)
    for node in range(nodes):
        for row in range(rows):
            place = _offset(node, padded) + row * RUN
            for lane in range(lanes):
                into[place + lane] = features[block * LANES + lane, node, row]


@jit()
def _store(tiles: Array, block: int, out: Array) -> None:
    """Bring a block from the layout of tiles back to (images, nodes, rows)."""
    images, nodes, rows = out.shape
    padded = len(tiles) // (-(-nodes // TILE) * RUN)
    lanes = min(LANES, images - block * LANES)
    for node in range(nodes):
        for row in range(rows):
            place = _offset(node, padded) + row * RUN
            for lane in range(lanes):
                out[block * LANES + lane, node, row] = tiles[place + lane]


@jit()
def _fill_rows(bias: Array, out: Array) -> None:
    """Give all nodes and images the channels of `bias`."""
    rows = len(bias)
    for row in range(len(out) // RUN):
        place = U(row * RUN)
        value = bias[row % rows]
        for i in range(END):
            out[place + i] = value


@jit()
def _add_product(weight: Array, x: Array, out: Array) -> None:
    """Add `weight @ x` over channels, four by four."""
    rows, columns = weight.shape
    for tile in range(len(x) // (columns * RUN)):
        for r in range(0, rows, 4):
            q = U((tile * rows + r) * RUN)
            for c in range(0, columns, 4):
                p = U((tile * columns + c) * RUN)
                a0, a1, a2, a3 = weight[r, c], weight[r, c + 1], weight[r, c + 2], weight[r, c + 3]
                b0, b1, b2, b3 = weight[r + 1, c], weight[r + 1, c + 1], weight[r + 1, c + 2], weight[r + 1, c + 3]
                c0, c1, c2, c3 = weight[r + 2, c], weight[r + 2, c + 1], weight[r + 2, c + 2], weight[r + 2, c + 3]
                d0, d1, d2, d3 = weight[r + 3, c], weight[r + 3, c + 1], weight[r + 3, c + 2], weight[r + 3, c + 3]
                for i in range(END):
                    x0, x1, x2, x3 = x[p + i], x[p + ROW_1 + i], x[p + ROW_2 + i], x[p + ROW_3 + i]
                    out[q + i] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                    out[q + ROW_1 + i] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
                    out[q + ROW_2 + i] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
                    out[q + ROW_3 + i] += d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3


@jit()
def _add_outer(gradient: Array, x: Array, total: Array) -> None:
    """Add `gradient @ x.T`, summed over nodes and images, two by four."""
    rows, columns = total.shape
    for tile in range(len(x) // (columns * RUN)):
        for r in range(0, rows, 2):
            q = U((tile * rows + r) * RUN)
            for c in range(0, columns, 4):
                p = U((tile * columns + c) * RUN)
                a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = ZERO
                for i in range(END):
                    x0, x1, x2, x3 = x[p + i], x[p + ROW_1 + i], x[p + ROW_2 + i], x[p + ROW_3 + i]
                    g0, g1 = gradient[q + i], gradient[q + ROW_1 + i]
                    a0 += g0 * x0
                    a1 += g0 * x1
                    a2 += g0 * x2
                    a3 += g0 * x3
                    b0 += g1 * x0
                    b1 += g1 * x1
                    b2 += g1 * x2
                    b3 += g1 * x3
                for j, (a, b) in enumerate(((a0, b0), (a1, b1), (a2, b2), (a3, b3))):
                    total[r, c + j] += a
                    total[r + 1, c + j] += b


@jit()
def _add_row_sums(x: Array, total: Array) -> None:
    """Add up each channel over nodes and images."""
    rows = len(total)
    for row in range(len(x) // RUN):
        place = U(row * RUN)
        s = ZERO
        for i in range(END):
            s += x[place + i]
        total[row % rows] += s


@jit()
def _sum_neighbours(neighbours: Neighbours, x: Array, channels: int, out: Array) -> None:
    """Apply the propagation matrix, four neighbours and four channels at a time."""
    pointers, nodes, values = neighbours
    out[:] = ZERO
    for node in range(len(pointers) - 1):
        q = _offset(node, channels)
        for e in range(pointers[node], pointers[node + 1], 4):
            p0, p1 = _offset(nodes[e], channels), _offset(nodes[e + 1], channels)
            p2, p3 = _offset(nodes[e + 2], channels), _offset(nodes[e + 3], channels)
            v0, v1, v2, v3 = values[e], values[e + 1], values[e + 2], values[e + 3]
            for c in range(0, channels * RUN, 4 * RUN):
                o = U(q + c)
                a, b, g, d = U(p0 + c), U(p1 + c), U(p2 + c), U(p3 + c)
                for i in range(LANE_END):
                    out[o + i] += v0 * x[a + i] + v1 * x[b + i] + v2 * x[g + i] + v3 * x[d + i]
                    out[o + ROW_1 + i] += (
                        v0 * x[a + ROW_1 + i] + v1 * x[b + ROW_1 + i] + v2 * x[g + ROW_1 + i] + v3 * x[d + ROW_1 + i]
                    )
                    out[o + ROW_2 + i] += (
                        v0 * x[a + ROW_2 + i] + v1 * x[b + ROW_2 + i] + v2 * x[g + ROW_2 + i] + v3 * x[d + ROW_2 + i]
                    )
                    out[o + ROW_3 + i] += (
                        v0 * x[a + ROW_3 + i] + v1 * x[b + ROW_3 + i] + v2 * x[g + ROW_3 + i] + v3 * x[d + ROW_3 + i]
                    )


@jit()
def _rectify(x: Array, passed_on: Array, out: Array, active: NDArray[np.bool_]) -> None:
    """Skip connection plus ReLU, and where that lets anything through; NaN gets through, so that divergence shows."""
    for i in range(len(x)):
        through = not (x[i] <= ZERO)
        active[i] = through
        out[i] = passed_on[i] + (x[i] if through else ZERO)


@jit()
def _choose(x: Array, active: NDArray[np.bool_], out: Array) -> None:
    """Keep the gradient where ReLU passed something."""
    for i in range(len(x)):
        out[i] = x[i] if active[i] else ZERO
