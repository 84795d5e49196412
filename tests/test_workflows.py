import json
import shutil
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryomorph.config import parse_config, read_config
from cryomorph.errors import InputError
from cryomorph.geometry import matrix_to_relion
from cryomorph.particles.star import read_star
from cryomorph.results import FittedRun, evaluate, export_conformations, export_particles
from cryomorph.simulate import SimulationSettings
from cryomorph.structure.model import read_template
from cryomorph.workflows import read_rotations, simulate_images, train
from particle_files import Facts, without, write_cs, write_star
from small_runs import assert_same_run, folder_state, run_settings

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
    assert list(written) == names
    assert written == result.as_dict()


def test_latents_tell_the_two_conformations_apart(learned):
    latents = FittedRun(learned).latents
    second = np.arange(47)[::-1] >= 24
    centres = np.array([latents[~second].mean(0), latents[second].mean(0)])
    nearest = np.linalg.norm(latents[:, None] - centres, axis=-1).argmin(1)
    assert ((nearest == 1) == second).all()


def test_a_decoder_in_bfloat16_finds_it_as_well(simulated, learned, tmp_path):
    config = read_config(learned / "config.yaml")
    hardware = config.hardware.model_copy(update={"precision": "bf16-mixed"})
    train(config.model_copy(update={"hardware": hardware}), tmp_path / "run")
    exact, rounded = (evaluate(run, simulated / "truth.npz") for run in (learned, tmp_path / "run"))
    assert rounded.rmsd_mean != exact.rmsd_mean
    assert rounded.rmsd_mean == pytest.approx(exact.rmsd_mean, rel=0.1)


def test_the_same_run_twice_gives_the_same_bits(simulated, finished, tmp_path):
    train(parse_config(run_settings(simulated), "test"), tmp_path / "run")
    assert_same_run(finished, tmp_path / "run")


def test_another_seed_gives_another_run(simulated, finished, tmp_path):
    train(parse_config(run_settings(simulated, seed=1), "test"), tmp_path / "run")
    assert not np.array_equal(FittedRun(finished).latents, FittedRun(tmp_path / "run").latents)


def test_a_complete_run_is_returned_as_it_is(copied):
    before = folder_state(copied)
    run = train(read_config(copied / "config.yaml"), copied)
    assert run.path == copied
    after = folder_state(copied)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed <= {"provenance.json"}
    train(read_config(copied / "config.yaml"), copied, resume=True)


def test_a_complete_run_whose_latents_were_lost_writes_them_again(copied):
    before = (copied / "latents.npy").read_bytes()
    (copied / "latents.npy").unlink()
    train(read_config(copied / "config.yaml"), copied)
    assert (copied / "latents.npy").read_bytes() == before


@pytest.mark.parametrize(
    ("section", "value"),
    [("seed", 4), ("training", {"epochs": 3, "batch_size": 8}), ("beads", "ca"), ("decoder", {"kind": "mlp"})],
)
def test_another_configuration_in_the_same_folder_is_refused(simulated, copied, section, value):
    before = folder_state(copied)
    with pytest.raises(InputError, match=rf"holds another run \(differs in {section}\); choose another --out"):
        train(parse_config(run_settings(simulated, **{section: value}), "test"), copied)
    assert folder_state(copied) == before


def test_other_hardware_is_no_other_configuration(copied, simulated):
    settings = run_settings(simulated, hardware={"accelerator": "auto", "precision": "32-true"})
    train(parse_config(settings, "test"), copied)


def test_particles_that_changed_are_refused(simulated, tmp_path):
    for name in ("particles.star", "particles.mrcs", "template.cif"):
        (tmp_path / name).write_bytes((simulated / name).read_bytes())
    config = parse_config(run_settings(tmp_path, training={"epochs": 1, "batch_size": 24}), "test")
    run = train(config, tmp_path / "run").path
    before = folder_state(run)
    with (tmp_path / "particles.star").open("a") as file:
        file.write("\n# edited\n")
    with pytest.raises(InputError, match=r"particles\.star: changed since the run"):
        train(config, run)
    with pytest.raises(InputError, match=r"particles\.star: changed since the run"):
        export_particles(run, tmp_path / "out.star")
    assert folder_state(run) == before
    assert not (tmp_path / "out.star").exists()


def test_a_passthrough_that_changed_is_refused(simulated, tmp_path):
    """The poses are in the one file, the CTF in the other."""
    table = read_star(simulated / "particles.star")
    (tmp_path / "particles.mrcs").write_bytes((simulated / "particles.mrcs").read_bytes())
    facts = Facts(count=48, box=24, name="particles.mrcs")
    facts.angles, facts.origin = np.stack(matrix_to_relion(table.rotation), axis=1), -table.shift
    facts.defocus_u, facts.defocus_v = table.defocus_u, table.defocus_v
    facts.angle, facts.phase = np.rad2deg(table.astigmatism_angle), np.rad2deg(table.phase_shift)
    whole = facts.cs()
    whole["blob/psize_A"] = 2.5
    poses = [name for name in whole.dtype.names if name.startswith("alignments3D")]
    further = without(whole, *poses)
    write_cs(tmp_path / "particles.cs", without(whole, *(n for n in whole.dtype.names if n not in ("uid", *poses))))
    write_cs(tmp_path / "passthrough.cs", further)
    settings = run_settings(simulated, training={"epochs": 1, "batch_size": 24})
    settings["particles"] = {
        "path": str(tmp_path / "particles.cs"),
        "passthrough": str(tmp_path / "passthrough.cs"),
    }
    config = parse_config(settings, "test")
    run = train(config, tmp_path / "run").path
    train(config, run, resume=True)
    further["ctf/df1_A"] += 100
    write_cs(tmp_path / "passthrough.cs", further)
    before = folder_state(run)
    with pytest.raises(InputError, match=r"particles\.cs: changed since the run"):
        train(config, run)
    with pytest.raises(InputError, match=r"particles\.cs: changed since the run"):
        export_particles(run, tmp_path / "out.cs")
    assert folder_state(run) == before
    assert not (tmp_path / "out.cs").exists()


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


def test_a_folder_of_something_else_is_left_alone(simulated, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(InputError, match="is not empty and holds no run; choose another --out"):
        train(parse_config(run_settings(simulated), "test"), tmp_path)
    assert folder_state(tmp_path) == {"thesis.tex": b"do not touch"}


def test_a_folder_with_a_configuration_of_somebody_s_own_is_left_alone(simulated, tmp_path):
    """`config.yaml` is a common name, and may be the very file that was given with --config."""
    config = parse_config(run_settings(simulated), "test")
    config.write(tmp_path / "config.yaml")
    before = folder_state(tmp_path)
    with pytest.raises(InputError, match="is not empty and holds no run; choose another --out"):
        train(config, tmp_path)
    assert folder_state(tmp_path) == before
    with pytest.raises(InputError, match=r"no run there \(no particles\.npz\)"):
        FittedRun(tmp_path)


def test_a_finished_run_whose_checkpoint_is_gone_is_left_alone(simulated, copied):
    (copied / "checkpoint.pt").unlink()
    before = folder_state(copied)
    for changes in ({}, {"seed": 1}):
        with pytest.raises(InputError, match="holds a finished run without its checkpoint; choose another --out"):
            train(parse_config(run_settings(simulated, **changes), "test"), copied)
    assert folder_state(copied) == before


def test_a_file_in_place_of_the_folder_is_an_input_error(simulated, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match="run"):
        train(parse_config(run_settings(simulated), "test"), tmp_path / "run")
    assert (tmp_path / "run").read_text() == "a file"


def test_there_must_be_something_to_resume(simulated, tmp_path):
    with pytest.raises(InputError, match="no checkpoint to resume from; leave --resume out"):
        train(parse_config(run_settings(simulated), "test"), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_a_run_that_failed_at_its_start_may_be_started_otherwise(simulated, tmp_path):
    settings = run_settings(simulated)
    settings["particles"]["invert"] = True
    with pytest.raises(InputError, match=r"particles\.star: the images anticorrelate .* --invert"):
        train(parse_config(settings, "test"), tmp_path / "run")
    with pytest.raises(InputError):
        FittedRun(tmp_path / "run")
    train(parse_config(run_settings(simulated, training={"epochs": 1, "batch_size": 24}), "test"), tmp_path / "run")
    assert FittedRun(tmp_path / "run").config.particles.invert is False


def test_inverted_images_are_trained_with_invert(simulated, finished, tmp_path):
    """Images with the other sign and `invert` are the same images."""
    for name in ("particles.star", "particles.mrcs", "template.cif"):
        (tmp_path / name).write_bytes((simulated / name).read_bytes())
    with mrcfile.mmap(tmp_path / "particles.mrcs", "r+") as stack:
        stack.data[:] = -stack.data
    settings = run_settings(tmp_path)
    settings["particles"]["invert"] = True
    train(parse_config(settings, "test"), tmp_path / "run")
    np.testing.assert_allclose(FittedRun(tmp_path / "run").latents, FittedRun(finished).latents, atol=1e-4)


def test_particles_without_poses_are_refused(helix_file, tmp_path):
    facts = Facts(box=32)
    blocks = facts.star31()
    for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"):
        del blocks["particles"][name]
    with mrcfile.new(tmp_path / "stack.mrcs", np.random.default_rng(0).normal(size=(5, 32, 32)).astype(np.float32)):
        pass
    write_star(tmp_path / "p.star", blocks)
    config = {"particles": {"path": str(tmp_path / "p.star")}, "template": {"path": str(helix_file)}}
    with pytest.raises(InputError, match="has no poses; run a consensus refinement first"):
        train(parse_config(config, "test"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


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


def test_simulated_template_is_docked_on_the_mean_conformation(simulated):
    with np.load(simulated / "truth.npz") as truth:
        mean = truth["coordinates"].mean(0)
    template = read_template(simulated / "template.cif").coordinates
    rotation, _ = Rotation.align_vectors(mean - mean.mean(0), template - template.mean(0))
    assert np.rad2deg(rotation.magnitude()) < 0.1
    np.testing.assert_allclose(template.mean(0), mean.mean(0), atol=1e-2)


@pytest.fixture
def small_simulation():
    return SimulationSettings(images_per_conformation=2, box=24, pixel_size=2.5, dose=None)


def test_a_template_with_other_residues_is_refused_before_any_image_is_made(simulated, tmp_path, small_simulation):
    structure = gemmi.read_structure(str(simulated / "straight.pdb"))
    del structure[0]["A"][20:]
    structure.write_pdb(str(tmp_path / "short.pdb"))
    out, ensemble = tmp_path / "new", simulated / "ensemble.pdb"
    with pytest.raises(InputError, match="the template has 20 residues and the conformations have 24"):
        simulate_images(ensemble, out, small_simulation, template=tmp_path / "short.pdb")
    assert not out.exists()


def test_a_template_that_is_there_is_not_replaced_by_a_docked_one(simulated, tmp_path, small_simulation):
    ensemble, straight = simulated / "ensemble.pdb", simulated / "straight.pdb"
    (tmp_path / "template.cif").write_text("mine")
    with pytest.raises(InputError, match=r"template\.cif: exists already; choose another --out"):
        simulate_images(ensemble, tmp_path, small_simulation, template=straight)
    assert folder_state(tmp_path) == {"template.cif": b"mine"}
    simulate_images(ensemble, tmp_path, small_simulation)  # asks for no template
    assert (tmp_path / "template.cif").read_text() == "mine"
    simulate_images(ensemble, tmp_path, small_simulation, template=straight, overwrite=True)
    assert len(read_template(tmp_path / "template.cif")) == 24


def test_rotations_are_taken_from_particle_and_truth_files(simulated, tmp_path):
    with np.load(simulated / "truth.npz") as truth:
        expected = truth["rotation"]
    np.testing.assert_allclose(read_rotations(simulated / "truth.npz"), expected)
    np.testing.assert_allclose(read_rotations(simulated / "particles.star"), expected, atol=1e-7)
    settings = SimulationSettings(images_per_conformation=24, box=24, pixel_size=2.5, dose=None)
    star = simulate_images(simulated / "ensemble.pdb", tmp_path, settings, poses=simulated / "truth.npz")
    np.testing.assert_allclose(read_star(star).rotation, expected, atol=1e-7)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_rotations_of_no_archive_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.npz: not a readable"):
        read_rotations(tmp_path / "t.npz")


def test_rotations_that_are_not_there_are_refused(tmp_path):
    np.savez(tmp_path / "t.npz", shift=np.zeros(3))
    with pytest.raises(InputError, match=r"t\.npz: holds no array rotation"):
        read_rotations(tmp_path / "t.npz")
    np.savez(tmp_path / "t.npz", rotation=np.array(["a"]))
    with pytest.raises(InputError, match=r"t\.npz: rotation must be"):
        read_rotations(tmp_path / "t.npz")
