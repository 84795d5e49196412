import json
import shutil
from pathlib import Path

import gemmi
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryomorph.config import parse_config, read_config
from cryomorph.errors import InputError
from cryomorph.geometry import random_rotations
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.star import read_star
from cryomorph.results import FittedRun, evaluate, export_conformations, export_particles
from cryomorph.run import RunFolder
from cryomorph.structure.model import read_template
from cryomorph.workflows import train
from small_runs import folder_state, run_settings

LEARNS = {
    "decoder": {"kind": "gnn", "latent_dim": 2, "layers": 4},
    "training": {"epochs": 30, "batch_size": 8, "learning_rate": 0.01, "latent_learning_rate": 0.1},
    "priors": {"strength": 3000},
}


@pytest.fixture(scope="module")
def learned(simulated, tmp_path_factory):
    """A run long enough to find the two conformations; particles in reverse order, every image but the last."""
    folder = tmp_path_factory.mktemp("learned")
    np.save(folder / "rows.npy", np.arange(47)[::-1])
    settings = run_settings(simulated, **LEARNS)
    settings["particles"]["indices"] = str(folder / "rows.npy")
    train(parse_config(settings, "test"), folder / "run")
    return folder / "run"


def rmsd_by_scipy(a, b):
    a, b = a - a.mean(0), b - b.mean(0)
    return Rotation.align_vectors(b, a)[1] / np.sqrt(len(a))


def test_the_whole_way_finds_the_conformation_of_every_image(simulated, learned):
    result = evaluate(learned, simulated / "truth.npz")
    assert result.images == 47
    assert 1.5 < result.rmsd_constant < result.rmsd_template < 2.0
    assert result.rmsd_mean < 0.35 * result.rmsd_constant
    assert result.rmsd_max < 0.6 * result.rmsd_constant


def test_evaluation_agrees_with_a_plain_loop_over_the_exported_models(simulated, learned, tmp_path):
    result = evaluate(learned, simulated / "truth.npz")
    export_conformations(learned, tmp_path / "all.cif")
    models = [[a.atom.pos.tolist() for a in m.all()] for m in gemmi.read_structure(str(tmp_path / "all.cif"))]
    with np.load(simulated / "truth.npz") as truth:
        shown = truth["coordinates"][truth["conformation"][46::-1]]
    errors = [rmsd_by_scipy(np.array(model), x) for model, x in zip(models, shown, strict=True)]
    template = read_template(simulated / "template.cif").coordinates
    assert result.rmsd_mean == pytest.approx(np.mean(errors), abs=2e-3)
    assert result.rmsd_median == pytest.approx(np.median(errors), abs=2e-3)
    assert result.rmsd_p95 == pytest.approx(np.quantile(errors, 0.95), abs=2e-3)
    assert result.rmsd_max == pytest.approx(max(errors), abs=2e-3)
    assert result.rmsd_template == pytest.approx(np.mean([rmsd_by_scipy(template, x) for x in shown]), abs=2e-3)
    written = json.loads((learned / "evaluation.json").read_text())
    names = ["images", "rmsd_mean", "rmsd_median", "rmsd_p95", "rmsd_max", "rmsd_template", "rmsd_constant"]
    names += ["rotation_error_median_deg", "rotation_error_p95_deg", "rotation_error_over_20deg"]
    assert list(written) == [*names, "shift_error_median_angstrom"]
    assert written == result.as_dict()
    assert max(written["rotation_error_p95_deg"], written["shift_error_median_angstrom"]) < 1e-5  # known ones


def test_latents_tell_the_two_conformations_apart(learned):
    latents = FittedRun(learned).latents
    second = np.arange(47)[::-1] >= 24
    centres = np.array([latents[~second].mean(0), latents[second].mean(0)])
    nearest = np.linalg.norm(latents[:, None] - centres, axis=-1).argmin(1)
    assert ((nearest == 1) == second).all()


def test_a_decoder_in_bfloat16_finds_it_as_well(simulated, learned, tmp_path):
    """With a seed whose run converges: on the way there, runs on 47 images part at the least difference."""
    config = read_config(learned / "config.yaml").model_copy(update={"seed": 1})
    found = []
    for precision in ("32-true", "bf16-mixed"):
        hardware = config.hardware.model_copy(update={"precision": precision})
        train(config.model_copy(update={"hardware": hardware}), tmp_path / precision)
        found.append(evaluate(tmp_path / precision, simulated / "truth.npz").rmsd_mean)
    exact, rounded = found
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)


def test_a_truth_of_another_number_of_images_is_refused(simulated, tmp_path):
    """A run of the first 12 particles refers to rows that any truth of at least 12 images has."""
    settings = run_settings(simulated, training={"epochs": 1, "batch_size": 12})
    settings["particles"]["first"] = 12
    run = train(parse_config(settings, "test"), tmp_path / "run").path
    with np.load(simulated / "truth.npz") as truth:
        coordinates, conformation = truth["coordinates"], truth["conformation"]
    for count in (12, 47, 49):
        other = tmp_path / f"{count}.npz"
        np.savez(other, coordinates=coordinates, conformation=np.resize(conformation, count))
        with pytest.raises(InputError, match=rf"{count}\.npz: knows {count} images, .*particles\.star has 48"):
            evaluate(run, other)
    assert not (run / "evaluation.json").exists()
    assert evaluate(run, simulated / "truth.npz").images == 12


@pytest.mark.parametrize("suffix", [".cif", ".pdb"])
def test_exported_models_are_the_decoded_ones(finished, tmp_path, suffix):
    rows = np.array([40, 3, 3])
    assert export_conformations(finished, tmp_path / f"c{suffix}", indices=rows) == 3
    structure = gemmi.read_structure(str(tmp_path / f"c{suffix}"))
    found = [[a.atom.pos.tolist() for a in model.all()] for model in structure]
    expected = np.concatenate([x for _, x in FittedRun(finished).decode(rows)])
    np.testing.assert_allclose(found, expected, atol=6e-4)
    assert [r.name for r in structure[0]["A"]] == list(FittedRun(finished).template.residue_names)
    assert export_conformations(finished, tmp_path / f"e{suffix}", every=20) == 3
    assert len(gemmi.read_structure(str(tmp_path / f"e{suffix}"))) == 3


def test_exported_particles_are_rows_of_the_original_file(simulated, learned, tmp_path):
    """The run's rows are 46, 45, ...: its row 0 is row 46 of the file."""
    assert export_particles(learned, tmp_path / "out.star", indices=np.array([0, 46, 10])) == 3
    original, chosen = read_star(simulated / "particles.star"), read_star(tmp_path / "out.star")
    np.testing.assert_array_equal(chosen.frame, original.frame[[46, 0, 36]])
    np.testing.assert_array_equal(chosen.rotation, original.rotation[[46, 0, 36]])
    assert export_particles(learned, tmp_path / "some.star", every=10) == 5


def test_exports_that_cannot_be_are_refused_and_write_nothing(finished, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for bad, message in [([48], "row 48 does not exist"), ([-1], "row -1 does not exist"), ([], "--indices")]:
        rows = np.array(bad, dtype=np.int64)
        with pytest.raises(InputError, match=message):
            export_conformations(finished, out / "c.cif", indices=rows)
        with pytest.raises(InputError, match=message):
            export_particles(finished, out / "p.star", indices=rows)
    with pytest.raises(InputError, match=r"p\.cs: the particles are from a \.star file"):
        export_particles(finished, out / "p.cs")
    assert not any(out.iterdir())


@pytest.fixture
def looked(copied, simulated):
    """A finished run that looked for poses: 5° and 2 Å off the truth, every fourth somewhere else, in another frame."""
    generator = np.random.default_rng(9)
    turn, move = random_rotations(1, generator)[0], generator.normal(0, 3, 3)
    with np.load(simulated / "truth.npz") as truth:
        rotation, shift = truth["rotation"], truth["shift"]
    axes = generator.normal(size=(48, 3))
    axes *= np.deg2rad(5) / np.linalg.norm(axes, axis=1)[:, None]
    found = Rotation.from_rotvec(axes).as_matrix() @ rotation @ turn
    found[::4] = random_rotations(12, generator)
    angle = generator.uniform(0, 2 * np.pi, 48)
    shift = shift + 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rotation[:, :2] @ move
    poses = FoundPoses(found, shift, generator.random(48))
    RunFolder(copied).save_poses(poses)
    return copied, poses


def test_exported_particles_have_the_poses_that_the_run_found(looked, simulated, tmp_path, caplog):
    run, poses = looked
    rows = np.array([40, 3, 17])
    with caplog.at_level("INFO"):
        assert export_particles(run, tmp_path / "found.star", indices=rows) == 3
        assert export_particles(run, tmp_path / "first.star", indices=rows, original_poses=True) == 3
    assert [record.message.rpartition("with ")[2] for record in caplog.records][-2:] == [
        "the poses that the run found",
        "the poses of the original file",
    ]
    table = read_star(tmp_path / "found.star")
    np.testing.assert_allclose(table.rotation, poses.rotation[rows], atol=1e-7)
    np.testing.assert_allclose(table.shift, poses.shift[rows], atol=1e-6)
    np.testing.assert_array_equal(table.frame, rows)
    original, unchanged = read_star(simulated / "particles.star"), read_star(tmp_path / "first.star")
    np.testing.assert_array_equal(unchanged.rotation, original.rotation[rows])
    assert "cryomorphPoseEntropy" not in (tmp_path / "first.star").read_text()


def test_evaluation_compares_the_poses_that_the_run_found(looked, simulated):
    run, _ = looked
    result = evaluate(run, simulated / "truth.npz")
    assert result.rotation_error_median_deg == pytest.approx(5, abs=1)
    assert result.rotation_error_over_20deg == pytest.approx(0.25, abs=0.05)
    assert result.rotation_error_p95_deg > 60
    assert result.shift_error_median_angstrom == pytest.approx(2, abs=0.3)


def test_poses_of_other_particles_are_refused(looked):
    run, poses = looked
    RunFolder(run).save_poses(poses.take(np.arange(40)))
    with pytest.raises(InputError, match=r"poses\.npz: has 40 poses for 48 particles"):
        FittedRun(run)


def test_poses_are_compared_where_both_are_known(own, simulated, tmp_path, caplog):
    """The truth may have none, and those of the particle file cannot be had when that is gone or has changed."""
    run, names = own / "run", ["rotation_error_median_deg", "shift_error_median_angstrom"]
    with np.load(simulated / "truth.npz") as truth:
        np.savez(tmp_path / "few.npz", coordinates=truth["coordinates"], conformation=truth["conformation"])
    known = evaluate(run, simulated / "truth.npz")
    assert max(getattr(known, name) for name in names) < 1e-5
    unknown = evaluate(run, tmp_path / "few.npz")
    assert unknown.as_dict() == known.as_dict() | {name: None for name in known.as_dict() if "error" in name}
    assert not caplog.records
    star = own / "particles.star"
    star.write_text(star.read_text() + "\n# edited\n")
    for message in ("changed since the run", "no such file"):
        with caplog.at_level("INFO"):
            assert evaluate(run, simulated / "truth.npz") == unknown
        assert f"poses are not compared: {star}: {message}" in caplog.messages[-1]
        star.unlink(missing_ok=True)


@pytest.fixture
def own(simulated, finished, tmp_path):
    """A finished run on a copy of `simulated`, both in one folder."""
    for name in ("particles.star", "particles.mrcs", "template.cif"):
        (tmp_path / name).write_bytes((simulated / name).read_bytes())
    shutil.copytree(finished, tmp_path / "run")
    parse_config(run_settings(tmp_path), "test").write(tmp_path / "run" / "config.yaml")
    return tmp_path


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_export_never_replaces_the_run_or_its_input(own, monkeypatch, overwrite):
    monkeypatch.chdir(own)
    run = own / "run"
    (run / "alias.cif").symlink_to(own / "template.cif")
    before = folder_state(own)
    message = "belongs to the run or is its input; choose another name"
    for path in (own / "particles.star", Path("particles.star"), run / ".." / "particles.star"):
        with pytest.raises(InputError, match=message):
            export_particles(run, path, overwrite=overwrite)
    for path in (run / "template.cif", own / "template.cif", Path("template.cif"), run / "alias.cif"):
        with pytest.raises(InputError, match=message):
            export_conformations(run, path, overwrite=overwrite)
    assert folder_state(own) == before


def test_an_export_replaces_a_file_only_if_told_to(own):
    run, star, movie = own / "run", own / "out.star", own / "out.cif"
    star.write_text("mine")
    movie.write_text("mine")
    with pytest.raises(InputError, match=r"out\.star: exists already; choose another name, or give --overwrite"):
        export_particles(run, star, every=20)
    with pytest.raises(InputError, match=r"out\.cif: exists already; choose another name, or give --overwrite"):
        export_conformations(run, movie, every=20)
    assert star.read_text() == movie.read_text() == "mine"
    assert export_particles(run, star, every=20, overwrite=True) == len(read_star(star)) == 3
    assert export_conformations(run, movie, every=20, overwrite=True) == len(gemmi.read_structure(str(movie))) == 3


def test_a_fitted_run_decodes_in_any_order_and_number(finished):
    fitted = FittedRun(finished)
    together = np.concatenate([x for _, x in fitted.decode(np.arange(48))])
    assert together.shape == (48, 24, 3)
    (rows, alone), *rest = fitted.decode(np.array([17]))
    assert not rest
    np.testing.assert_array_equal(rows, [17])
    np.testing.assert_allclose(alone[0], together[17], atol=1e-5)
    np.testing.assert_array_equal(fitted.source_index, np.arange(48))
