"""Gaussian beads on regular grids: Fourier sums over points that are on no grid (nonuniform FFT), in two dimensions.

`footprints` says how a bead is spread over the samples around it, `rows` which samples of a periodic grid are kept,
`transfer` moves numbers between beads and samples, on the CPU or a GPU.
"""
