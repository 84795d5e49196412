import io
import zipfile

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryomorph.errors import InputError
from cryomorph.evaluation import Evaluation, Truth, per_image_rmsd, read_truth, summarise


def aligned_rmsd(a, b):
    """RMSD after superposition, by another program."""
    a, b = a - a.mean(0), b - b.mean(0)
    return Rotation.align_vectors(b, a)[1] / np.sqrt(len(a))


@pytest.fixture
def case():
    """Truth of 4 conformations and 30 images; a run of 12 of them, in batches."""
    generator = np.random.default_rng(0)
    base = np.cumsum(generator.normal(0, 2, (9, 3)), axis=0)
    coordinates = base + generator.normal(0, 1.5, (4, 9, 3))
    truth = Truth(coordinates, generator.integers(0, 4, 30))
    source_index = generator.permutation(30)[:12]
    decoded = coordinates[truth.conformation[source_index]] + generator.normal(0, 0.7, (12, 9, 3))
    turned = decoded @ np.swapaxes(Rotation.random(12, rng=generator).as_matrix(), 1, 2) + 30
    batches = [(rows, turned[rows].astype(np.float32)) for rows in (np.array([7, 2, 3]), np.array([0, 1, 4, 5, 6]))]
    batches.append((np.arange(8, 12), turned[8:].astype(np.float32)))
    return truth, source_index, turned, batches


def test_rmsd_of_each_image_to_what_it_shows(case):
    truth, source_index, turned, batches = case
    shown = truth.coordinates[truth.conformation[source_index]]
    expected = [aligned_rmsd(a, b) for a, b in zip(turned, shown, strict=True)]
    np.testing.assert_allclose(per_image_rmsd(batches, truth, source_index), expected, rtol=1e-4)


def test_a_mirror_image_is_not_superposed(case):
    truth, source_index, _, _ = case
    shown = truth.coordinates[truth.conformation[source_index]]
    errors = per_image_rmsd([(np.arange(12), shown * [1, 1, -1])], truth, source_index)
    assert errors.min() > 0.5
    np.testing.assert_allclose(per_image_rmsd([(np.arange(12), shown)], truth, source_index), 0, atol=1e-6)


def test_summary_and_template_baseline_are_over_images_not_conformations(case):
    truth, source_index, _, _ = case
    errors = np.array([0.1, 5.0, *np.linspace(1, 2, 10)])
    template = truth.coordinates[2] @ Rotation.from_euler("xyz", [1, 2, 3]).as_matrix() - 5
    result = summarise(errors, template, truth, source_index)
    assert (result.images, result.rmsd_max) == (12, 5.0)
    assert result.rmsd_mean == pytest.approx(sum(errors) / 12)
    assert result.rmsd_median == pytest.approx(sorted(errors)[5] / 2 + sorted(errors)[6] / 2)
    assert result.rmsd_p95 == pytest.approx(np.interp(0.95 * 11, np.arange(12), sorted(errors)))
    shown = truth.coordinates[truth.conformation[source_index]]
    assert result.rmsd_template == pytest.approx(np.mean([aligned_rmsd(template, x) for x in shown]), rel=1e-6)


def test_constant_baseline_is_the_best_single_structure(case):
    """Each of two conformations that differ by a move of one atom is as far from the mean of both."""
    base = np.array([[0, 0, 0], [3.8, 0, 0], [0, 3.8, 0], [0, 0, 3.8], [-3.8, 1, 0], [1, -3.8, 0]], dtype=float)
    one, other = base.copy(), base.copy()
    one[5, 1] += 0.3
    other[5, 1] -= 0.3
    truth = Truth(np.stack([one, other]), np.array([0, 1] * 10))
    result = summarise(np.ones(20), base, truth, np.arange(20))
    assert result.rmsd_constant == pytest.approx(aligned_rmsd(one, other) / 2, rel=1e-2)
    # It weighs conformations by how many images show them: with one conformation only it is perfect.
    assert summarise(np.ones(10), base, truth, np.arange(0, 20, 2)).rmsd_constant == pytest.approx(0, abs=1e-6)
    truth, source_index, _, _ = case
    constant = summarise(np.ones(12), truth.coordinates[0], truth, source_index).rmsd_constant
    shown = truth.coordinates[truth.conformation[source_index]]
    for structure in truth.coordinates:
        squares = np.mean([aligned_rmsd(structure, x) ** 2 for x in shown])
        assert constant**2 < squares


def test_names_of_the_result():
    names = ["images", "rmsd_mean", "rmsd_median", "rmsd_p95", "rmsd_max", "rmsd_template", "rmsd_constant"]
    assert list(Evaluation(*range(7)).as_dict().items()) == list(zip(names, range(7), strict=True))


def test_a_run_that_does_not_belong_to_the_truth_is_refused(case):
    truth, source_index, turned, batches = case
    with pytest.raises(InputError, match="knows 30 images, the run refers to row 31"):
        per_image_rmsd(batches, truth, np.append(source_index[:-1], 30))
    with pytest.raises(InputError, match="run has 8 residues, the truth 9"):
        per_image_rmsd([(np.arange(12), turned[:, :8])], truth, source_index)


GOOD = {"coordinates": np.ones((2, 4, 3), np.float32), "conformation": np.array([0, 1, 1])}


def test_truth_is_read(tmp_path):
    np.savez(tmp_path / "t.npz", rotation=np.zeros(3), **GOOD)
    truth = read_truth(tmp_path / "t.npz")
    assert truth.coordinates.dtype == np.float64
    np.testing.assert_array_equal(truth.coordinates, GOOD["coordinates"])
    np.testing.assert_array_equal(truth.conformation, [0, 1, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coordinates": None}, "holds no array coordinates"),
        ({"conformation": None}, "holds no array conformation"),
        ({"coordinates": np.ones((2, 4))}, r"shape \(K, n, 3\), found \(2, 4\)"),
        ({"coordinates": np.ones((2, 4, 2))}, r"shape \(K, n, 3\)"),
        ({"coordinates": np.full((2, 4, 3), np.nan)}, "finite"),
        ({"coordinates": np.array([["a"]])}, "coordinates"),
        ({"conformation": np.array([0.0, 1.0, 1.0])}, "integers"),
        ({"conformation": np.array([[0, 1]])}, "integers"),
        ({"conformation": np.array([0, 2])}, r"outside coordinates \(K = 2\)"),
        ({"conformation": np.array([0, -1])}, r"outside coordinates"),
        ({"coordinates": np.array([{}])}, "not a readable"),
    ],
)
def test_wrong_truth_is_refused(tmp_path, change, message):
    arrays = {name: array for name, array in (GOOD | change).items() if array is not None}
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(InputError, match=rf"t\.npz: .*{message}"):
        read_truth(tmp_path / "t.npz")


def archive_bytes():
    buffer = io.BytesIO()
    np.savez(buffer, **GOOD)
    return buffer.getvalue()


def empty_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("coordinates.npy", b"nonsense")
        archive.writestr("conformation.npy", b"")
    return buffer.getvalue()


def array_bytes():
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"nonsense", archive_bytes()[:100], archive_bytes()[:-30], empty_zip(), array_bytes()],
    ids=["missing", "empty", "text", "head", "truncated", "zip", "npy"],
)
def test_what_is_no_archive_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.npz: "):
        read_truth(tmp_path / "t.npz")
