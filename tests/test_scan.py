"""The fast scan, against the likelihood at the very same poses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.errors import InputError
from cryomorph.scan import fast
from cryomorph.scan.exact import exact
from cryomorph.scan.fast import RingScan, shift_lattice
from cryomorph.scan.grid import ProductGrid
from cryomorph.scan.kernels import kernels
from cryomorph.scan.plain import PlainScan
from cryomorph.selection import FreeSettings, Selection
from engines import ENGINES, device_of
from scan_cases import RADIUS, molecule, particles, seen, windowed

GRID = ProductGrid(9, 10)


def make(
    folder, *, box=96, widths=(2.5, 2.5), conformations=1, calibrated=False, selection=None, settings=None, **optics
):
    beads = molecule(widths=widths, conformations=conformations)
    one = replace(beads, positions=beads.positions[-1:])
    batch, gain = seen(one, particles(box, **optics), box)
    likelihood, batch = windowed(
        batch, beads, gain, folder, calibrated=calibrated, selection=selection, **(settings or {})
    )
    return likelihood, batch, beads


def every_pose(scan, batch, beads, *, normalised=False):
    """All poses and conformations as the scan has them, and their exact misfit (b, poses)."""
    find = scan.lowest_normalised if normalised else scan.lowest
    found = find(scan.see(batch), beads, len(scan) * len(beads.positions))
    again = exact(found, batch, beads, scan.likelihood, normalised=normalised)
    order = exact_order(found, batch, beads, scan.likelihood, normalised=normalised)
    torch.testing.assert_close(again.misfit, order.sort(dim=1).values)
    return found, order


def exact_order(found, batch, beads, likelihood, *, normalised):
    """Exact misfit of candidates in the order that they come in."""
    columns = []
    for number in range(found.misfit.shape[1]):
        own = replace(beads, positions=beads.positions[found.conformation[:, number]])
        pose = found.rotation[:, number].float(), found.shift[:, number].float()
        with torch.no_grad():
            cross, power = likelihood.terms(own, *pose, batch)
            columns.append(
                likelihood.normalised_misfit(cross, power) if normalised else likelihood.misfit(cross, power, batch)
            )
    return torch.stack(columns, dim=1)


CASES = {
    "round": ({}, 5e-4),
    "odd": ({"box": 95}, 5e-4),
    "astigmatic": ({"astigmatism": 500.0}, 5e-4),
    "very astigmatic, phase plate": ({"astigmatism": 2000.0, "phase_shift": 1.4}, 5e-4),
    "groups": ({"pixel_sizes": (1.8, 2.3), "astigmatism": 800.0}, 2e-3),
    "calibrated": ({"calibrated": True, "pixel_sizes": (2.0, 2.1)}, 5e-3),
    "widths": ({"widths": (2.0, 4.0)}, 2e-3),
    "float16": ({"settings": {"storage": "float16"}}, 5e-4),
    # At which in-plane angles something is left out is not looked at.
    "a tenth left out": ({"selection": Selection.work(96, FreeSettings(), 0)}, 0.3),
}
"""Settings, and the largest error of a misfit as a share of the misfits' standard deviation over poses."""


@pytest.mark.parametrize(("case", "tolerance"), CASES.values(), ids=CASES)
def test_misfits_are_those_of_the_likelihood_in_all_poses(case, tolerance, tmp_path):
    likelihood, batch, beads = make(tmp_path, **case)
    scan = RingScan(likelihood, GRID, radius=RADIUS + 0.1)
    found, expected = every_pose(scan, batch, beads)
    error = (found.misfit - expected).abs().amax(1) / expected.std(1)
    assert error.max() < tolerance, error
    assert torch.equal(found.shift, batch.shift[:, None].expand(-1, len(GRID), -1))
    distinct = {tuple(np.round(rotation.ravel(), 5)) for rotation in found.rotation[0].numpy()}
    assert len(distinct) == len(GRID)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("astigmatism", [0.0, 700.0])
def test_every_engine_shift_and_conformation(engine, astigmatism, tmp_path):
    sizes = (2.0, 2.2)
    likelihood, batch, beads = make(tmp_path, conformations=2, astigmatism=astigmatism, images=2, pixel_sizes=sizes)
    scan = RingScan(likelihood, ProductGrid(2, 6), shift_range=4.0, shift_step=3.0, radius=RADIUS)
    assert len(scan) == 12 * 5
    if device_of(engine).type == "cpu":  # whole scans on a GPU: see test_gpu
        scan.kernels = kernels(engine, torch.device("cpu"))
    found, expected = every_pose(scan, batch, beads)
    assert ((found.misfit - expected).abs().amax(1) / expected.std(1)).max() < 2e-3
    assert torch.unique(found.conformation).tolist() == [0, 1]
    moved = (found.shift - batch.shift[:, None]) / batch.pixel_size[:, None, None]  # the same samples for all sizes
    assert len(torch.unique(moved.round(decimals=3))) == 3


def test_at_the_best_scale(tmp_path):
    likelihood, batch, beads = make(tmp_path, conformations=2)
    likelihood.gain.fill_(123.0)
    scan = RingScan(likelihood, GRID, radius=RADIUS)
    found, expected = every_pose(scan, batch, beads, normalised=True)
    assert (expected == 0).any()
    assert ((found.misfit - expected).abs().amax(1) / expected.std(1)).max() < 1e-3


@pytest.mark.parametrize("numbers", [1, 50_000])
def test_blocks_of_images_give_the_same(numbers, monkeypatch, tmp_path):
    likelihood, batch, beads = make(tmp_path, conformations=2, astigmatism=300.0)
    scan = RingScan(likelihood, GRID)
    expected = scan.lowest(scan.see(batch), beads, 20)
    monkeypatch.setitem(fast.NUMBERS_AT_ONCE, "cpu", numbers)
    found = scan.lowest(scan.see(batch), beads, 20)
    torch.testing.assert_close(found.misfit, expected.misfit, rtol=1e-4, atol=1e-3)


def test_images_are_found_among_thousands_of_poses(tmp_path):
    """Within the grid's spacing, and among shifts within theirs; best of all where they are clear."""
    grid = ProductGrid(250, 30)
    likelihood, batch, beads = make(tmp_path, images=6)
    moved = replace(batch, shift=batch.shift + torch.tensor([3.0, -2.0]))
    for images, ranges in ((batch, {}), (moved, {"shift_range": 5.0, "shift_step": 2.0})):
        # The windows are centred on the shifts of the file: those of the moved ones are made again.
        if images is moved:
            picture, gain = seen(beads, replace(batch, statistic=None), 96)
            misplaced = replace(picture, shift=moved.shift)
            likelihood, images = windowed(misplaced, beads, gain, tmp_path / "moved")
        scan = RingScan(likelihood, grid, radius=RADIUS, **ranges)
        best = scan.lowest(scan.see(images), beads, 1)
        trace = torch.einsum("bij,bij->b", best.rotation[:, 0].double(), batch.rotation.double())
        angle = torch.rad2deg(torch.arccos((0.5 * (trace - 1)).clamp(-1, 1)))
        assert angle.max() < 15
        assert angle.mean() < 9
        assert (best.shift[:, 0] - batch.shift).norm(dim=1).max() < 2.2


def test_the_best_of_many_exactly_compared_are_those_of_the_plain_scan(tmp_path):
    """Noisy images of one conformation, scanned with another one: hard to tell apart."""
    grid, count = ProductGrid(24, 14), 16
    beads = molecule(beads=16)
    shown = replace(beads, positions=0.9 * beads.positions + torch.randn(1, 16, 3).clamp(-1, 1))
    batch, gain = seen(shown, particles(64, images=200, astigmatism=200.0, seed=3), 64, strength=0.1)
    likelihood, batch = windowed(batch, beads, gain, tmp_path, margin=10.0, storage="float16")
    scan = RingScan(likelihood, grid, radius=RADIUS)
    found = exact(scan.lowest(scan.see(batch), beads, 32), batch, beads, likelihood)
    every = torch.from_numpy(grid.rotations(*np.divmod(np.arange(len(grid)), grid.in_plane))).float()
    own = replace(beads, positions=beads.positions.expand(len(batch), -1, -1))
    plain = PlainScan(every).lowest(batch, own, likelihood, count)
    torch.testing.assert_close(found.misfit[:, :count], plain.misfit, rtol=1e-4, atol=1e-3)
    same = torch.cdist(found.rotation[:, :count].flatten(2).float(), plain.rotation.flatten(2)) < 1e-3
    assert same.any(2).all(1).float().mean() > 0.999


def test_a_molecule_that_windows_have_no_room_for_is_refused(tmp_path):
    likelihood, batch, beads = make(tmp_path)
    with pytest.raises(InputError, match="margin"):
        RingScan(likelihood, GRID, radius=80.0)
    scan = RingScan(likelihood, GRID, radius=RADIUS)
    large = replace(beads, positions=torch.cat([beads.positions, 1.3 * beads.positions]))
    assert scan.fits(large).tolist() == [True, False]
    with pytest.raises(ValueError, match="larger"):
        scan.lowest(scan.see(batch), large, 1)
    with pytest.raises(ValueError, match="even number"):
        RingScan(likelihood, ProductGrid(4, 5))
    with pytest.raises(ValueError, match="windows"):
        scan.see(replace(batch, statistic=None))


def test_progress_counts_images_times_conformations(tmp_path):
    likelihood, batch, beads = make(tmp_path, conformations=2)

    class Counter:
        total = 0

        def advance(self, count):
            self.total += count

    progress = Counter()
    scan = RingScan(likelihood, GRID)
    scan.lowest(scan.see(batch), beads, 3, progress)
    assert progress.total == 2 * len(batch)
    assert not likelihood.cross_sum.any()


def test_shift_lattices():
    lattice = shift_lattice(6.1, 3.0, 1.5)
    assert lattice[0].tolist() == [0, 0]
    assert np.abs(lattice).max() == 4
    assert set(map(tuple, lattice)) == set(map(tuple, -lattice))
    assert (np.hypot(*lattice.T) * 1.5 <= 6.1).all()
    assert len(lattice) == 13
    assert shift_lattice(0.0, 3.0, 1.5).tolist() == [[0, 0]]
