"""Footprints, kept samples, and the sums between beads and samples by every engine."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.errors import InputError
from cryomorph.gridding.footprints import Footprints, kernel_transform
from cryomorph.gridding.rows import Rows
from cryomorph.gridding.transfer import resolve, transfer
from engines import ENGINES, device_of

STEPS = np.array([1.0, 1.3])
"""Å between samples."""
STEP_INDEX = torch.tensor([0, 1, 0])
BEADS = 7
GRIDS = [(32, [1.5], 1.25), (45, [1.5, 2.1], 1.25), (36, [2.3, 2.7, 1.2], 2.0)]
"""Samples along an edge, widths in Å, oversampling."""


class Sums:
    """The sums of one engine, of numbers that are on the CPU."""

    def __init__(self, engine):
        self.device = device_of(engine)
        self.module = transfer(engine, self.device)

    def spread(self, points, amplitude, footprints, step_index, size):
        here = (value.to(self.device) for value in (points, amplitude, footprints, step_index))
        return self.module.spread(*here, size).cpu()

    def collect(self, *arguments):
        total, gradient = self.module.collect(*(value.to(self.device) for value in arguments))
        return total.cpu(), gradient.cpu()


@pytest.fixture(params=ENGINES)
def sums(request):
    return Sums(request.param)


def make(grid, seed=0):
    """Return beads in and around a grid: points, amplitudes, footprints."""
    size, widths, oversampling = grid
    generator = torch.Generator().manual_seed(seed)
    points = size * (3 * torch.rand(len(STEP_INDEX), BEADS, 2, generator=generator) - 1)
    points[:, 0] = torch.tensor([0.1, size - 0.2])  # across the edge of the period
    points[:, 1] = torch.tensor([-0.3, 5.2])
    width = np.resize(np.array(widths), BEADS)
    return points, 0.5 + torch.rand(BEADS, generator=generator), Footprints.make(width, STEPS, oversampling)


def field_on(rows, seed=1):
    return torch.randn(len(STEP_INDEX), len(rows), generator=torch.Generator().manual_seed(seed))


def both_rows(size):
    """Everything, and a disc outside of which some of the beads are."""
    return [Rows.disc(size, float("inf")), Rows.disc(size, 0.37 * size)]


def doubled(footprints):
    return replace(footprints, table=footprints.table.double())


def exact_collect(samples, rows, points, amplitude, footprints):
    return Sums("torch").collect(
        samples.double(), rows, points.double(), amplitude.double(), doubled(footprints), STEP_INDEX
    )


def assert_close(found, expected, tolerance):
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("grid", GRIDS)
def test_coefficients_of_what_was_spread_are_those_of_gaussians(sums, grid):
    """The nonuniform Fourier transform, against the sum written out."""
    (points, amplitude, footprints), (size, _, oversampling) = make(grid), grid
    spectrum = torch.fft.fft2(sums.spread(points, amplitude, footprints, STEP_INDEX, size).double())
    k = np.arange(-int(size / (2 * oversampling)), int(size / (2 * oversampling)) + 1)
    kernel = torch.from_numpy(kernel_transform(k / size, oversampling))
    found = spectrum[:, k[:, None], k] / (kernel[:, None] * kernel)
    wave = torch.exp(-2j * torch.pi * points.double()[..., None] * torch.from_numpy(k) / size)  # (b, B, 2, k)
    width = np.resize(np.array(grid[1], dtype=np.float32), BEADS).astype(np.float64)
    extra = (width**2 - width.min() ** 2) / STEPS[STEP_INDEX.numpy(), None] ** 2  # (b, B), in samples
    k2 = torch.from_numpy(np.add.outer(k**2, k**2) / size**2)
    gaussian = torch.exp(-2 * torch.pi**2 * torch.from_numpy(extra)[..., None, None] * k2)
    weighed = amplitude.double()[:, None, None] * gaussian
    expected = torch.einsum("nbyx,nby,nbx->nyx", weighed.cdouble(), wave[:, :, 1], wave[:, :, 0])
    # Of each bead remains what the kernel has at the frequencies that the grid does not tell from the right ones.
    aliases = sum(np.abs(kernel_transform(k / size + turn, oversampling)) for turn in (-1, 1)) / kernel.numpy()
    tolerance = float(amplitude.sum()) * (np.add.outer(aliases, aliases) + 2e-6)
    assert ((found - expected).abs() < torch.from_numpy(tolerance)).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_engines_spread_alike(sums, grid):
    points, amplitude, footprints = make(grid)
    exact = Sums("torch").spread(points.double(), amplitude.double(), doubled(footprints), STEP_INDEX, grid[0])
    assert_close(sums.spread(points, amplitude, footprints, STEP_INDEX, grid[0]), exact, 1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_engines_collect_alike(sums, grid):
    points, amplitude, footprints = make(grid)
    for rows in both_rows(grid[0]):
        samples = field_on(rows)
        total, gradient = sums.collect(samples, rows, points, amplitude, footprints, STEP_INDEX)
        exact_total, exact_gradient = exact_collect(samples, rows, points, amplitude, footprints)
        assert_close(total, exact_total, 2e-6)
        assert_close(gradient, exact_gradient, 2e-6)


@pytest.mark.parametrize("grid", GRIDS[:2])
def test_collecting_is_the_adjoint_of_spreading(sums, grid):
    points, amplitude, footprints = make(grid)
    grids = sums.spread(points, amplitude, footprints, STEP_INDEX, grid[0]).double().flatten(1)
    for rows in both_rows(grid[0]):
        samples = field_on(rows)
        total, _ = sums.collect(samples, rows, points, amplitude, footprints, STEP_INDEX)
        products = samples * grids[:, rows.places()]
        assert float((total - products.sum(1)).abs().max()) < 1e-6 * float(products.abs().sum(1).max())


def test_samples_that_are_not_kept_count_as_zero(sums):
    size = GRIDS[0][0]
    points, amplitude, footprints = make(GRIDS[0])
    whole, disc = both_rows(size)
    samples = field_on(disc)
    padded = torch.zeros(len(samples), size * size)
    padded[:, disc.places()] = samples
    found = sums.collect(samples, disc, points, amplitude, footprints, STEP_INDEX)
    expected = sums.collect(padded, whole, points, amplitude, footprints, STEP_INDEX)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_gradient_is_that_of_the_sum():
    """By automatic differentiation and by differences."""
    points, amplitude, footprints = make(GRIDS[1])
    points = points.double().requires_grad_()
    for rows in both_rows(GRIDS[1][0]):
        samples = field_on(rows)
        total, gradient = exact_collect(samples, rows, points, amplitude, footprints)
        (derived,) = torch.autograd.grad(total.sum(), points)
        torch.testing.assert_close(gradient.detach(), derived, rtol=0, atol=1e-11)
        with torch.no_grad():
            step = 1e-5 * torch.randn(points.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
            ahead, _ = exact_collect(samples, rows, points + step, amplitude, footprints)
            behind, _ = exact_collect(samples, rows, points - step, amplitude, footprints)
            torch.testing.assert_close(ahead - behind, 2 * (gradient * step).sum((1, 2)), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("nowhere", [np.nan, np.inf, -np.inf, 2e7])
def test_a_position_that_is_not_finite_shows_in_its_image_and_bead_alone(sums, nowhere):
    size = GRIDS[0][0]
    points, amplitude, footprints = make(GRIDS[0])
    intact = points.clone()
    points[1, 3, 0] = nowhere
    grids = sums.spread(points, amplitude, footprints, STEP_INDEX, size)
    assert grids.isnan().all(2).all(1).tolist() == [False, True, False]
    assert grids[[0, 2]].isfinite().all()
    rows = Rows.disc(size, float("inf"))
    total, gradient = sums.collect(field_on(rows), rows, points, amplitude, footprints, STEP_INDEX)
    assert total.isnan().tolist() == [False, True, False]
    assert gradient.isnan().all(2).nonzero().tolist() == [[1, 3]]
    _, expected = sums.collect(field_on(rows), rows, intact, amplitude, footprints, STEP_INDEX)
    others = torch.ones(points.shape[:2], dtype=torch.bool)
    others[1, 3] = False
    torch.testing.assert_close(gradient[others], expected[others])


def test_no_images_and_no_beads_are_no_trouble(sums):
    size = GRIDS[0][0]
    points, amplitude, footprints = make(GRIDS[0])
    rows = Rows.disc(size, float("inf"))
    none = replace(footprints, bead_class=footprints.bead_class[:0])
    assert not sums.spread(points[:, :0], amplitude[:0], none, STEP_INDEX, size).any()
    assert not sums.collect(field_on(rows), rows, points[:, :0], amplitude[:0], none, STEP_INDEX)[0].any()
    assert sums.spread(points[:0], amplitude, footprints, STEP_INDEX[:0], size).shape == (0, size, size)


def test_more_samples_for_wider_beads_in_steps():
    taps = [Footprints.make(np.array([1.0, width]), np.array([1.0]), 1.25).taps for width in (1.0, 2.0, 3.0, 5.0)]
    assert taps[0] == 16
    assert taps == sorted(set(taps))
    assert not any(number % 8 for number in taps)


def test_beads_of_too_different_widths_are_refused():
    with pytest.raises(ValueError, match="covers more than 96 samples of the grid: beads of one kind"):
        Footprints.make(np.array([1.0, 60.0]), np.array([1.0]), 1.25)


@pytest.mark.parametrize("size", [10, 11])
@pytest.mark.parametrize("radius", [0.0, 2.5, 3.0, 3.7, 4.0, 5.0, 20.0])
def test_a_disc_keeps_what_is_close_to_the_origin(size, radius):
    rows = Rows.disc(size, radius)
    at = np.arange(size) - size // 2
    distance = np.hypot(at[:, None], at)
    kept = distance <= radius if radius < -at[0] - (size % 2 == 0) else np.full((size, size), True)
    assert len(rows) == kept.sum()
    assert rows.whole == kept.all()
    places = rows.places()
    assert places.tolist() == np.flatnonzero(kept).tolist()
    row, column = places // size, places % size
    assert (rows.offset[row] + column).tolist() == list(range(len(rows)))
    # Within the safe radius nothing is missing, not even across the edge of the period.
    assert kept[distance <= rows.safe].all()
    assert rows.safe <= size - 1 - size // 2


def test_the_engine_follows_the_device(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    installed = {"triton": object()}
    monkeypatch.setattr("importlib.util.find_spec", installed.get)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert [resolve("auto", device) for device in (cpu, cuda, torch.device("mps"))] == ["numba", "triton", "torch"]
    with pytest.raises(InputError, match="triton works on GPUs"):
        resolve("triton", cpu)
    with pytest.raises(InputError, match="numba works on CPUs only"):
        resolve("numba", cuda)
    installed.clear()
    assert resolve("auto", cuda) == "torch"
    with pytest.raises(InputError, match="not installed"):
        resolve("triton", cuda)


def test_kernels_compile_for_a_gpu(tmp_path):
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6
