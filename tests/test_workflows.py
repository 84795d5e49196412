import gemmi
import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryomorph.config import parse_config, read_config
from cryomorph.errors import InputError
from cryomorph.geometry import matrix_to_relion
from cryomorph.particles.star import read_star
from cryomorph.results import FittedRun, export_particles
from cryomorph.simulate import SimulationSettings
from cryomorph.structure.model import read_template
from cryomorph.workflows import read_rotations, simulate_images, train
from particle_files import Facts, without, write_cs, write_star
from small_runs import assert_same_run, folder_state, run_settings


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
