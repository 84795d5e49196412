import numpy as np
import pytest
import torch

from cryomorph.fourier import image_coefficients, multiplicity
from cryomorph.geometry import random_rotations
from cryomorph.selection import FreeSettings, Selection
from cryomorph.volumes._kernels import insert
from cryomorph.volumes.backprojection import BackProjection, Optics
from cryomorph.volumes.model_map import model_map
from cryomorph.volumes.shells import mean_correlation, shell_correlation
from projected_images import batch_of, blobs

IMAGES = 500


@pytest.fixture(scope="module")
def molecule():
    return blobs()


def truth(molecule, box=48, pixel_size=2.0):
    return model_map(*molecule, box=box, pixel_size=pixel_size, resolution=0.0)


def inserted(batch, rotation, shift, box=48, pixel_size=2.0, optics=None):
    projection = BackProjection(box, pixel_size, optics or Optics.alike(1))
    projection.add(batch, rotation, shift, np.arange(len(batch)) % 2)
    return projection


def both(projection):
    halves = [projection.half_map(half) for half in (0, 1)]
    return projection.full_map(shell_correlation(*halves)), halves


@pytest.mark.parametrize("box", [48, 49])
def test_the_map_of_projections_is_the_structure_they_are_of(molecule, box):
    """Shifts, astigmatism and defocus differ from image to image; boxes are even and odd."""
    full, halves = both(inserted(*batch_of(*molecule, IMAGES, box=box), box=box))
    known = truth(molecule, box)
    last = int(0.9 * (box // 2))
    assert shell_correlation(full, known)[1:last].min() > 0.99
    assert shell_correlation(*halves)[1:last].min() > 0.95
    # A projection is the sum over voxels along the view, of density times the voxel's edge.
    assert (full * known).sum() / np.square(known).sum() == pytest.approx(2.0, rel=0.03)


def test_another_convention_of_poses_is_noticed(molecule):
    batch, rotation, shift = batch_of(*molecule, IMAGES)
    known = truth(molecule)
    mirrored = np.roll(known[::-1], 1, axis=0)  # about voxel D // 2
    mirror = np.diag([1.0, 1.0, -1.0])
    for wrong, off in [
        (np.swapaxes(rotation, 1, 2), shift),  # image frame to map frame
        (rotation, -shift),  # RELION's origin
        (rotation, shift[:, ::-1]),  # row before column
        (mirror @ rotation @ mirror, shift),  # the other hand
    ]:
        full, _ = both(inserted(batch, wrong, off))
        assert mean_correlation(shell_correlation(full, known), 16) < 0.6
    # What remains is the map of the other hand, as it must be.
    assert mean_correlation(shell_correlation(full, mirrored), 16) > 0.99


def test_without_correction_of_the_contrast_transfer_maps_are_worse(molecule):
    batch, rotation, shift = batch_of(*molecule, IMAGES, defocus=(20_000, 30_000))
    known = truth(molecule)
    corrected, _ = both(inserted(batch, rotation, shift))
    batch.ctf.defocus_u, batch.ctf.defocus_v = 0 * batch.ctf.defocus_u, 0 * batch.ctf.defocus_v
    batch.ctf.spherical_aberration = 0 * batch.ctf.spherical_aberration
    plain, _ = both(inserted(batch, rotation, shift))
    assert mean_correlation(shell_correlation(corrected, known), 20) > 0.99
    assert mean_correlation(shell_correlation(plain, known), 20) < 0.5


def test_the_filter_leaves_what_noise_leaves(molecule):
    """Halves tell how noisy the map is: `sqrt(2 F / (1 + F))` is its correlation with the truth (Rosenthal 2003)."""
    full, halves = both(inserted(*batch_of(*molecule, 800, noise=3.0)))
    known = truth(molecule)
    between = np.clip(shell_correlation(*halves), 0, 1)
    expected = np.sqrt(2 * between / (1 + between))
    np.testing.assert_allclose(shell_correlation(full, known)[1:16], expected[1:16], atol=0.08)
    assert np.abs(full - 2 * known).mean() < 0.6 * np.abs(halves[0] - 2 * known).mean()


def test_groups_of_images_share_a_map(molecule):
    """Two pixel sizes, the second group five times as strong and with twice as much noise at high frequency."""
    size = torch.where(torch.arange(IMAGES) % 2 == 0, 2.0, 2.4)
    batch, rotation, shift = batch_of(*molecule, IMAGES, pixel_size=size, groups=2)
    batch.image[1::2] *= 5
    optics = Optics(np.array([1.0, 5.0]), np.stack([np.ones(24), np.linspace(1, 2, 24)]))
    projection = BackProjection(48, 2.0, optics)
    projection.add(batch, rotation, shift, np.arange(IMAGES) // 2 % 2)
    full, _ = both(projection)
    known = truth(molecule)
    assert shell_correlation(full, known)[1:19].min() > 0.98
    assert (full * known).sum() / np.square(known).sum() == pytest.approx(
        2.0 * 3, rel=0.05
    )  # gains are 1/3 and 5/3 of their mean


def test_noisy_images_count_less(molecule):
    batch, rotation, shift = batch_of(*molecule, IMAGES, groups=2, noise=0.3)
    generator = torch.Generator().manual_seed(1)
    batch.image[1::2] += 10 * batch.image[::2].std() * torch.randn(batch.image[1::2].shape, generator=generator)
    known, half = truth(molecule), np.arange(IMAGES) // 2 % 2
    scores = []
    for noise in (1.0, 1e3):
        projection = BackProjection(48, 2.0, Optics(np.ones(2), np.array([[1.0], [noise]])))
        projection.add(batch, rotation, shift, half)
        scores.append(mean_correlation(shell_correlation(projection.half_map(0), known), 12))
    assert scores[1] > scores[0] + 0.2


def test_sums_depend_neither_on_batches_nor_on_threads(molecule):
    batch, rotation, shift = batch_of(*molecule, 60)
    whole = inserted(batch, rotation, shift)
    parts = BackProjection(48, 2.0, Optics.alike(1))
    for rows in np.array_split(np.arange(60), 4):
        parts.add(batch[torch.from_numpy(rows)], rotation[rows], shift[rows], rows % 2)
    np.testing.assert_array_equal(whole.half_map(0), parts.half_map(0))
    assert whole.count.tolist() == parts.count.tolist() == [30, 30]
    generator = np.random.default_rng(0)
    coefficients = generator.normal(size=(5, 15, 8)) + 1j * generator.normal(size=(5, 15, 8))
    axes = 2 * random_rotations(5, generator)[:, :2].astype(np.float32)
    results = []
    for slabs in (1, 3):
        sums = np.zeros((2, 31, 31, 17, 3), dtype=np.float32)
        insert(
            *(
                sums,
                np.array([0, 1, 0, 1, 0]),
                np.zeros((1, 15, 8), bool),
                np.zeros(5, int),
                coefficients.astype(np.complex64),
            ),
            *(np.ones((5, 15, 8), np.float32), np.ones((5, 1), np.float32)),
            *(np.ones((5, 8), np.complex64), np.ones((5, 15), np.complex64)),
            *(np.ascontiguousarray(axes[:, 0]), np.ascontiguousarray(axes[:, 1]), 7, slabs),
        )
        results.append(sums)
    assert results[0].any()
    np.testing.assert_array_equal(*results)


def test_weights_of_a_single_image_are_those_of_its_plane(molecule):
    """Trilinear weights of a sample add up to one: half the plane within the circle."""
    batch, _, _ = batch_of(*molecule, 1)
    batch.ctf.amplitude_contrast = torch.ones(1)  # with no other term the transfer is 1
    batch.ctf.defocus_u, batch.ctf.defocus_v = torch.zeros(1), torch.zeros(1)
    batch.ctf.spherical_aberration = torch.zeros(1)
    projection = BackProjection(48, 2.0, Optics.alike(1))
    projection.add(batch, np.eye(3)[None], np.zeros((1, 2)), np.array([0]))
    k = np.arange(-23, 24)
    inside = (k[:, None] ** 2 + k**2 <= 23**2).sum()
    assert projection._sums[0, ..., 2].sum() == pytest.approx((inside + 1) / 2, rel=1e-5)
    assert projection._sums[1].sum() == 0


def sorted_by_noise(seen, *, box=48, images=1200):
    """Images of nothing but noise, each given to the one of two structures that it resembles more.

    Returns the images with poses, and the structure (0 or 1) that the coefficients which count resemble.
    """
    structures = [blobs(seed=seed) for seed in (1, 2)]
    batch, rotation, shift = batch_of(*structures[0], images, box=box, shift=0)
    other, _, _ = batch_of(*structures[1], images, box=box, shift=0)  # the same poses
    kept = seen.of(batch.index) * multiplicity(box, torch.device("cpu"))
    models = [image_coefficients(part.image) for part in (batch, other)]
    generator = torch.Generator().manual_seed(3)
    batch.image = torch.randn(batch.image.shape, generator=generator)
    noise = image_coefficients(batch.image)
    scores = [(kept * (noise.conj() * m).real).sum((1, 2)) / (kept * m.abs() ** 2).sum((1, 2)).sqrt() for m in models]
    return structures, batch, rotation, shift, (scores[1] > scores[0]).long().numpy()


def test_noise_that_was_sorted_by_a_model_shows_it_but_not_where_the_sorting_did_not_look():
    """What was fitted to noise is found in it again: only coefficients that were kept out tell it from a motion."""
    seen = Selection.work(48, FreeSettings(share=0.1), seed=0)
    structures, batch, rotation, shift, nearest = sorted_by_noise(seen)
    known = [model_map(*structure, box=48, pixel_size=2.0, resolution=0.0) for structure in structures]
    gains = {"all": [], "free": []}
    for state in (0, 1):
        rows = np.flatnonzero(nearest == state)
        projection = BackProjection(48, 2.0, Optics.alike(1), fitted=seen)
        projection.add(batch[torch.from_numpy(rows)], rotation[rows], shift[rows], np.arange(len(rows)) % 2)
        own, other = known[state], known[1 - state]
        for kind, density in {"all": projection.half_map(0), "free": projection.free_map()}.items():
            score = [mean_correlation(shell_correlation(density, model), 20, 6) for model in (own, other)]
            gains[kind].append(score[0] - score[1])
    assert min(gains["all"]) > 0.03
    assert np.abs(gains["free"]).max() < 0.5 * min(gains["all"])


def test_what_was_seen_and_what_is_free_are_all_there_is(molecule):
    batch, rotation, shift = batch_of(*molecule, IMAGES)
    seen = Selection.work(48, FreeSettings(share=0.1), seed=0)
    half = np.arange(IMAGES) % 2
    apart = BackProjection(48, 2.0, Optics.alike(1), fitted=seen)
    apart.add(batch, rotation, shift, half)
    together = inserted(batch, rotation, shift)
    for part in (0, 1):
        np.testing.assert_allclose(apart.half_map(part), together.half_map(part), atol=2e-5)
    free = shell_correlation(apart.free_map(), truth(molecule))
    assert free[8:20].min() > 0.7
    with pytest.raises(ValueError, match="no coefficients were kept apart"):
        together.free_map()


def test_a_map_up_to_some_frequency_is_the_low_part_of_the_whole(molecule):
    batch, rotation, shift = batch_of(*molecule, IMAGES)
    projection = BackProjection(48, 2.0, Optics.alike(1), highest=12)
    projection.add(batch, rotation, shift, np.arange(IMAGES) % 2)
    whole = inserted(batch, rotation, shift)
    assert projection._sums.nbytes < 0.2 * whole._sums.nbytes
    limited, known = projection.half_map(0), whole.half_map(0)
    assert shell_correlation(limited, known)[1:11].min() > 0.999
    assert np.abs(np.fft.rfftn(limited)[24, 0, 0]) < 1e-3 * np.abs(np.fft.rfftn(known)).max()
