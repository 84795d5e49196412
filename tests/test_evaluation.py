import io
import zipfile

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import cryomorph.evaluation
from cryomorph.errors import InputError
from cryomorph.evaluation import (
    Evaluation,
    PoseErrors,
    Truth,
    per_image_rmsd,
    pose_errors,
    read_truth,
    share_off,
    summarise,
)
from cryomorph.geometry import random_rotations, rmsd


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


def test_baselines_are_of_the_conformations_that_the_run_s_images_show(case, monkeypatch):
    """Others cost neither time nor memory, and change nothing."""
    truth, source_index, _, _ = case
    seen = []

    def watched(a, b):
        seen.append(len(a))
        return rmsd(a, b)

    monkeypatch.setattr(cryomorph.evaluation, "rmsd", watched)
    alone = summarise(np.ones(12), truth.coordinates[0], truth, source_index)
    assert seen == [4, 4]
    others = np.random.default_rng(5).normal(0, 20, (500, 9, 3))
    among = Truth(np.concatenate([others, truth.coordinates]), truth.conformation + 500)
    assert summarise(np.ones(12), truth.coordinates[0], among, source_index) == alone
    assert seen == [4, 4, 4, 4]


def test_names_of_the_result():
    names = ["images", "rmsd_mean", "rmsd_median", "rmsd_p95", "rmsd_max", "rmsd_template", "rmsd_constant"]
    of_poses = ["rotation_error_median_deg", "rotation_error_p95_deg", "rotation_error_over_20deg"]
    of_poses += ["shift_error_median_angstrom"]
    result = Evaluation(*range(11)).as_dict()
    assert list(result.items()) == list(zip(names + of_poses, range(11), strict=True))
    assert Evaluation(*range(7)).as_dict() == result | dict.fromkeys(of_poses)


@pytest.fixture
def poses():
    """Truth of the poses of 500 images; what a run found of 300 of them, by known amounts off."""
    generator = np.random.default_rng(1)
    rotation, shift = random_rotations(500, generator), generator.normal(0, 5, (500, 2))
    truth = Truth(np.zeros((1, 3, 3)), np.zeros(500, np.int64), rotation, shift)
    source_index = generator.permutation(500)[:300]
    angles, distances = np.linspace(0, 8, 300), np.linspace(0, 3, 300)
    angles[-120:] = np.linspace(25, 175, 120)  # 40 %
    axes = generator.normal(size=(300, 3))
    axes[1::2] = -axes[::2]  # in pairs, so that they have no mean of their own
    turn = Rotation.from_rotvec(np.deg2rad(angles)[:, None] * axes / np.linalg.norm(axes, axis=1)[:, None])
    directions = generator.normal(size=(300, 2))
    directions[1::2] = -directions[::2]
    found = turn.as_matrix() @ rotation[source_index]
    moved = shift[source_index] + distances[:, None] * directions / np.linalg.norm(directions, axis=1)[:, None]
    return truth, source_index, found, moved, angles, distances


def test_errors_of_poses_are_angle_and_distance_to_the_truth(poses):
    truth, source_index, found, moved, angles, distances = poses
    errors = pose_errors(found, moved, truth, source_index)
    np.testing.assert_allclose(errors.rotation, angles, atol=0.3)
    np.testing.assert_allclose(errors.shift, distances, atol=0.1)
    exact = pose_errors(truth.rotation[source_index], truth.shift[source_index], truth, source_index)
    assert exact.rotation.max() < 1e-6
    assert exact.shift.max() < 1e-6


def test_errors_of_poses_do_not_depend_on_the_frame_of_the_map(poses):
    """Molecule and poses are turned and moved together: x to Q.T (x - c), so that every image stays what it is."""
    truth, source_index, found, moved, *_ = poses
    turn, move = random_rotations(1, np.random.default_rng(2))[0], np.array([4.0, -7.0, 2.0])
    before = pose_errors(found, moved, truth, source_index)
    after = pose_errors(found @ turn, moved + truth.rotation[source_index][:, :2] @ move, truth, source_index)
    np.testing.assert_allclose(after.rotation, before.rotation, atol=1e-5)
    np.testing.assert_allclose(after.shift, before.shift, atol=1e-5)


def test_the_other_hand_is_an_error(poses):
    """A mirrored map fits projections as well, with other poses; no common rotation makes up for that."""
    truth, source_index, *_ = poses
    mirror = np.diag([1.0, 1.0, -1.0])
    found = mirror @ truth.rotation[source_index] @ mirror
    errors = pose_errors(found, truth.shift[source_index], truth, source_index)
    assert np.median(errors.rotation) > 20


def test_without_true_poses_there_are_no_errors_of_poses(poses):
    truth, source_index, found, moved, *_ = poses
    none = Truth(truth.coordinates, truth.conformation, None, truth.shift)
    assert pose_errors(found, moved, none, source_index) is None
    rotation_only = Truth(truth.coordinates, truth.conformation, truth.rotation)
    errors = pose_errors(found, moved, rotation_only, source_index)
    assert errors.shift is None
    np.testing.assert_array_equal(errors.rotation, pose_errors(found, moved, truth, source_index).rotation)


def test_summary_of_poses(case):
    truth, source_index, _, _ = case
    rotation, shift = np.array([1.0] * 9 + [30, 20, 170]), np.arange(12) / 10
    result = summarise(np.ones(12), truth.coordinates[0], truth, source_index, PoseErrors(rotation, shift))
    assert result.rotation_error_median_deg == 1
    assert result.rotation_error_p95_deg == pytest.approx(30 + 0.45 * 140)
    assert result.rotation_error_over_20deg == pytest.approx(2 / 12)
    assert result.shift_error_median_angstrom == pytest.approx(0.55)
    result = summarise(np.ones(12), truth.coordinates[0], truth, source_index, PoseErrors(rotation, None))
    assert result.rotation_error_median_deg == 1
    assert result.shift_error_median_angstrom is None


def test_share_of_images_far_off_along_the_path():
    conformation = np.array([3, 0, 1, 2, 3, 0, 1, 2])
    errors = np.array([30.0, 5, 90, 1, 100, 21, 20, 2])
    assert share_off(errors, conformation, 4).tolist() == [0.5, 0.5, 0, 1]
    assert share_off(errors, conformation, 2).tolist() == [0.5, 0.5]
    assert share_off(errors, conformation, 1, limit=95).tolist() == [1 / 8]


def test_a_run_that_does_not_belong_to_the_truth_is_refused(case):
    truth, source_index, turned, batches = case
    with pytest.raises(InputError, match="knows 30 images, the run refers to row 31"):
        per_image_rmsd(batches, truth, np.append(source_index[:-1], 30))
    with pytest.raises(InputError, match="run has 8 residues, the truth 9"):
        per_image_rmsd([(np.arange(12), turned[:, :8])], truth, source_index)


GOOD = {"coordinates": np.ones((2, 4, 3), np.float32), "conformation": np.array([0, 1, 1])}


def test_truth_is_read(tmp_path):
    np.savez(tmp_path / "t.npz", dose=np.zeros(3), **GOOD)
    truth = read_truth(tmp_path / "t.npz")
    assert truth.rotation is None
    assert truth.shift is None
    assert truth.coordinates.dtype == np.float64
    np.testing.assert_array_equal(truth.coordinates, GOOD["coordinates"])
    np.testing.assert_array_equal(truth.conformation, [0, 1, 1])


def test_true_poses_are_read(tmp_path):
    rotation, shift = random_rotations(3, np.random.default_rng(0)), np.arange(6).reshape(3, 2)
    np.savez(tmp_path / "t.npz", rotation=rotation.astype(np.float32), shift=shift, **GOOD)
    truth = read_truth(tmp_path / "t.npz")
    assert truth.rotation.dtype == truth.shift.dtype == np.float64
    np.testing.assert_allclose(truth.rotation, rotation, atol=1e-6)
    np.testing.assert_array_equal(truth.shift, shift)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotation": np.eye(3)}, r"rotation must be finite and of shape \(3, 3, 3\), found \(3, 3\)"),
        ({"rotation": np.full((3, 3, 3), np.nan)}, "rotation must be finite"),
        ({"rotation": np.ones((3, 3, 3))}, "rotation has matrices that are no rotations"),
        ({"shift": np.ones((2, 2))}, r"shift must be finite and of shape \(3, 2\), found \(2, 2\)"),
        ({"shift": np.array([["a", "b"]] * 3)}, "shift must be"),
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
