"""The scan of each image against its own conformation, against the likelihood at every single rotation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.geometry import angle_between
from cryomorph.poses.esl import ESLPoses, ESLSettings
from cryomorph.scan.grid import ProductGrid
from cryomorph.scan.kernels import kernels
from cryomorph.scan.own import OwnScan
from cryomorph.scan.plain import PlainScan
from cryomorph.selection import FreeSettings, Selection
from dense_lifting import solved
from engines import ENGINES, device_of
from scan_cases import molecule, particles, seen, windowed

GRID = ProductGrid(7, 6)


def every(grid):
    return torch.from_numpy(grid.rotations(*np.divmod(np.arange(len(grid)), grid.in_plane))).float()


def make(
    folder, *, box=64, images=3, beads=16, widths=(2.5, 2.5), strength=0.7, calibrated=False, selection=None, **optics
):
    """Images of one conformation, to be compared with others, and the likelihood."""
    shown = molecule(beads=beads, widths=widths)
    batch, gain = seen(shown, particles(box, images=images, **optics), box, strength=strength)
    likelihood, batch = windowed(batch, shown, gain, folder, calibrated=calibrated, selection=selection)
    moved = torch.randn(images, beads, 3, generator=torch.Generator().manual_seed(5)).clamp(-1, 1)
    return likelihood, batch, replace(shown, positions=0.9 * shown.positions + moved)


def dense(likelihood, batch, beads, rotations):
    """Both terms (b, n) of each image and its conformation at rotations (n, 3, 3)."""
    terms = [likelihood.terms(beads, rotation.expand(len(batch), 3, 3), batch.shift, batch) for rotation in rotations]
    return [torch.stack(term, dim=1) for term in zip(*terms, strict=True)]


CASES = {
    "round": {},
    "astigmatic": {"astigmatism": 2000.0, "phase_shift": 1.4},
    "groups": {"pixel_sizes": (1.8, 2.3), "astigmatism": 800.0},
    "calibrated": {"calibrated": True, "pixel_sizes": (2.0, 2.1)},
    "widths": {"widths": (2.0, 4.0)},
}


@pytest.mark.parametrize("grid", [GRID, ProductGrid(5, 7)], ids=["even", "odd"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_both_terms_are_those_of_the_likelihood_at_all_rotations(case, grid, tmp_path):
    """Of widths between those that circles are made for the error is largest."""
    likelihood, batch, beads = make(tmp_path, box=96, **case)
    found = OwnScan(likelihood, grid).terms(batch, beads)
    for term, expected, tolerance in zip(
        found, dense(likelihood, batch, beads, every(grid)), (0.02, 5e-3), strict=True
    ):
        error = (term - expected).abs().amax(1) / expected.std(1)
        assert error.max() < tolerance, error


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("angles", [2, 5, 8, 36])
def test_engines_look_up_cubic_interpolation(engine, angles):
    """Of what is a cubic between circles the values are exact; around the circle, those of the four nearest steps."""
    fine, radii, kinds = 3, 9, 2
    device, generator = device_of(engine), torch.Generator().manual_seed(angles)
    wave = torch.randn(kinds, angles * fine, generator=generator)
    radial = torch.arange(radii) ** 3 - 4.0 * torch.arange(radii)
    columns = torch.arange(2 * angles + 8) % angles
    number = columns * fine + torch.arange(fine)[:, None]
    circles = radial[:, None, None] * wave[:, None][..., number]
    at = 1 + 4.99 * torch.rand(4, 6, generator=generator)
    turn = angles * fine * torch.rand(4, 6, generator=generator)
    turn[0, 0], turn[0, 1] = 0.0, angles * fine
    share, kind = torch.rand(6, generator=generator), torch.tensor([0, 0, 0, 1, 1, 1])
    arguments = [value.to(device) for value in (circles.contiguous(), at, turn, share, kind)]
    found = kernels(engine, device).look_up(*arguments, angles).cpu()
    u = (turn - turn.floor()).double().numpy()
    nodes = np.array([-1.0, 0, 1, 2])
    weights = [np.prod([(u - n) / (m - n) for n in nodes if n != m], axis=0) for m in nodes]  # Lagrange's
    expected = np.zeros((4, angles))
    for a in range(angles):
        for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
            place = (turn.floor().long() + offset + a * fine) % (angles * fine)
            value = wave[kind, place].double().numpy() * (at.double() ** 3 - 4 * at.double()).numpy()
            expected[:, a] += (share.numpy() * weight * value).sum(1)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("left_out", [False, True])
def test_the_best_are_those_of_the_plain_scan(left_out, normalised, tmp_path):
    """Noisy images, hard to tell apart; coefficients that are left out do not turn with the molecule."""
    selection = Selection.work(64, FreeSettings(), 0) if left_out else None
    likelihood, batch, beads = make(tmp_path, images=20, strength=0.1, astigmatism=200.0, selection=selection)
    grid, count = ProductGrid(24, 14), 16
    found = OwnScan(likelihood, grid).lowest(batch, beads, count, normalised=normalised)
    plain = PlainScan(every(grid))
    expected = (plain.lowest_normalised if normalised else plain.lowest)(batch, beads, likelihood, count)
    torch.testing.assert_close(found.misfit, expected.misfit, rtol=1e-4, atol=1e-3)
    assert not found.conformation.any()
    assert not likelihood.power_sum.any()


def test_the_lifted_measure_is_the_solution_over_the_whole_grid(tmp_path):
    likelihood, batch, beads = make(tmp_path, strength=0.2)
    poses = ESLPoses(ESLSettings(rotations=200), len(batch))
    measure = poses(batch, beads, likelihood)
    rotations = every(poses.grid)
    terms = dense(likelihood, batch, beads, rotations)
    misfit = likelihood.misfit(*(term.T for term in terms), batch).T
    for image in range(len(batch)):
        weights = np.zeros(len(rotations))
        number = angle_between(measure.rotation[image, :, None].numpy(), rotations[None].numpy()).argmin(1)
        np.add.at(weights, number, measure.weight[image].numpy())
        np.testing.assert_allclose(weights, solved(misfit[image].double().numpy()), atol=2e-3)


def test_a_bead_beyond_the_windows_is_compared_exactly_in_the_end(tmp_path):
    likelihood, batch, beads = make(tmp_path)
    scan = OwnScan(likelihood, GRID)
    positions = beads.positions.clone()
    positions[:, 0] *= 1.5 * scan.transform.rings.radius / positions[:, 0].norm(dim=1, keepdim=True)
    far = replace(beads, positions=positions)
    found = scan.lowest(batch, far, len(GRID))
    expected = PlainScan(every(GRID)).lowest(batch, far, likelihood, len(GRID))
    torch.testing.assert_close(found.misfit, expected.misfit, rtol=1e-4, atol=1e-3)
    positions[0, 3] = torch.nan
    assert scan.lowest(batch, far, 4).misfit.isnan().all(1).tolist() == [True, False, False]


def test_windows_made_anew_are_scanned_anew(tmp_path):
    likelihood, batch, beads = make(tmp_path / "first")
    other, seen_again, _ = make(tmp_path / "second", calibrated=True)
    poses, fresh = (ESLPoses(ESLSettings(rotations=200), len(batch)) for _ in range(2))
    poses(batch, beads, likelihood)
    again, expected = (source(seen_again, beads, other) for source in (poses, fresh))
    assert torch.equal(again.weight, expected.weight)
