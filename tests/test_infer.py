"""New particles with a finished run, and runs that begin where another one ended."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gemmi import cif

import cryomorph.beginning
from cryomorph.config import ParticlesConfig, component, parse_config, read_config
from cryomorph.errors import InputError
from cryomorph.inference import infer
from cryomorph.particles.star import read_star
from cryomorph.results import FittedRun, evaluate, export_conformations, export_particles
from cryomorph.run import RunFolder
from cryomorph.structure.model import read_template
from cryomorph.training import Trainer
from cryomorph.workflows import train
from small_runs import assert_same_bits, assert_same_run, folder_state, latents_of, metrics_without_times, run_settings

ENCODER = {"kind": "encoder", "filters": (4, 8), "hidden": 16, "box": 16}
LONGER = {"epochs": 30, "batch_size": 8}


@pytest.fixture(scope="module")
def table_run(simulated, tmp_path_factory):
    """A run that tells the two conformations apart."""
    out = tmp_path_factory.mktemp("table") / "run"
    train(parse_config(run_settings(simulated, training=LONGER, latents="table"), "test"), out)
    return out


@pytest.fixture(scope="module")
def encoder_run(simulated, tmp_path_factory):
    out = tmp_path_factory.mktemp("encoder") / "run"
    train(parse_config(run_settings(simulated, latents=ENCODER), "test"), out)
    return out


def particles(simulated, **options):
    return ParticlesConfig(path=simulated / "particles.star", **options)


def rmsd(a, b):
    """Between conformations of the same particles in Å, without superposition, shape (m,)."""
    return np.sqrt(np.square(a - b).sum(-1).mean(-1))


def conformations(folder):
    fitted = FittedRun(folder)
    return np.concatenate([x for _, x in fitted.decode(np.arange(len(fitted.latents)))])


@pytest.mark.parametrize("likelihood", ["direct", "matched_filter"])
def test_an_encoder_sees_its_own_particles_as_in_training(simulated, tmp_path, likelihood):
    train(parse_config(run_settings(simulated, latents=ENCODER, likelihood=likelihood), "test"), tmp_path / "run")
    found = infer(tmp_path / "run", particles(simulated), tmp_path / "out")
    assert found.path == tmp_path / "out"
    np.testing.assert_array_equal(latents_of(tmp_path / "out"), latents_of(tmp_path / "run"))
    assert not (tmp_path / "out" / "cache").exists()  # one look at the images is all


def test_what_particles_share_is_not_changed(simulated, table_run, encoder_run, tmp_path):
    for run in (table_run, encoder_run):
        before = folder_state(run)
        out = tmp_path / run.parent.name
        infer(run, particles(simulated, first=10), out, epochs=2)
        assert folder_state(run) == before
        old, new = (RunFolder(folder).load_checkpoint() for folder in (run, out))
        assert old["reconstruction"].keys() == new["reconstruction"].keys()
        for name, value in old["reconstruction"].items():
            assert torch.equal(value, new["reconstruction"][name]), name
        for name, value in old["calibration"].items():
            assert torch.equal(value, new["calibration"][name]), name
        assert new["latents"].keys() == old["latents"].keys()
        assert latents_of(out).shape == (10, 2)


def test_latents_of_a_table_are_fitted_near_those_of_the_run(simulated, table_run, tmp_path):
    infer(table_run, particles(simulated), tmp_path / "out")
    expected, found = conformations(table_run), conformations(tmp_path / "out")
    between = rmsd(expected[:24].mean(0), expected[24:].mean(0))
    assert between > 3  # the run tells the conformations apart
    off = rmsd(found, expected)
    assert np.median(off) < 0.05 * between
    assert off.max() < 0.5 * between
    first, *_, last = metrics_without_times(tmp_path / "out")
    before, after = (sum(row[term] for term in ("misfit", "geometry", "shared", "latents")) for row in (first, last))
    assert after < before
    assert {row["gain"] for row in (first, last)} == {metrics_without_times(table_run)[-1]["gain"]}


def test_images_choose_where_their_latents_start(simulated, table_run, tmp_path, monkeypatch):
    """After one pass at next to no learning rate latents are where they were put, one of the few places."""
    settings = read_config(table_run / "config.yaml")
    still = settings.model_copy(
        update={"training": settings.training.model_copy(update={"latent_learning_rate": 1e-30, "latent_steps": 0})}
    )
    run = shutil.copytree(table_run, tmp_path / "run")
    still.write(run / "config.yaml")
    infer(run, particles(simulated), tmp_path / "out", epochs=1)
    found = latents_of(tmp_path / "out")
    assert 1 < len(np.unique(found, axis=0)) <= cryomorph.beginning.PLACES
    assert np.median(rmsd(conformations(tmp_path / "out"), conformations(table_run))) < 1.0


def test_the_folder_is_a_run_like_any_other(simulated, table_run, tmp_path):
    out = tmp_path / "out"
    rows = tmp_path / "rows.txt"
    rows.write_text("40\n3\n17\n")
    infer(table_run, particles(simulated, indices=rows), out)
    np.testing.assert_array_equal(FittedRun(out).source_index, [40, 3, 17])
    assert read_template(out / "template.cif").coordinates.tolist() == (
        read_template(table_run / "template.cif").coordinates.tolist()
    )
    result = evaluate(out, simulated / "truth.npz").as_dict()
    assert result["images"] == 3
    assert result["rmsd_mean"] < result["rmsd_template"]
    assert export_conformations(out, tmp_path / "x.cif") == 3
    assert export_particles(out, tmp_path / "x.star") == 3
    np.testing.assert_array_equal(
        read_star(tmp_path / "x.star").rotation, read_star(simulated / "particles.star").rotation[[40, 3, 17]]
    )
    (start,) = json.loads((out / "provenance.json").read_text())
    assert start["earlier_run"] == str(table_run)
    assert (out / "calibration.npz").is_file()


def test_an_inference_that_was_killed_goes_on_and_needs_the_run_no_more(simulated, table_run, tmp_path):
    run = shutil.copytree(table_run, tmp_path / "run")
    config = read_config(run / "config.yaml")
    every_batch = config.training.model_copy(update={"checkpoint_minutes": 1e-9})
    config.model_copy(update={"training": every_batch}).write(run / "config.yaml")
    infer(run, particles(simulated), tmp_path / "never stopped", epochs=3)
    driver, yaml = Path(__file__).parent / "killed_run.py", tmp_path / "never stopped" / "config.yaml"
    command = [str(part) for part in (sys.executable, driver, yaml, tmp_path, "batch:9")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    gone = shutil.copytree(tmp_path / "batch:9", tmp_path / "gone")
    infer(run, particles(simulated), tmp_path / "batch:9", epochs=3)
    assert_same_run(tmp_path / "never stopped", tmp_path / "batch:9")
    (run / "checkpoint.pt").unlink()
    train(read_config(yaml), gone, resume=True)
    assert_same_run(tmp_path / "never stopped", gone)


def test_poses_that_were_refined_are_taken_as_known(simulated, tmp_path):
    training = {"epochs": 1, "batch_size": 24}
    train(parse_config(run_settings(simulated, training=training, poses="refine"), "test"), tmp_path / "run")
    infer(tmp_path / "run", particles(simulated, first=5), tmp_path / "out")
    assert read_config(tmp_path / "out" / "config.yaml").poses.kind == "known"
    assert not (tmp_path / "out" / "poses.npz").exists()


@pytest.mark.parametrize("kind", ["search", "esl"])
def test_a_run_that_found_its_poses_is_refused(simulated, copied, kind, tmp_path):
    config = read_config(copied / "config.yaml")
    parse_config(config.model_dump(mode="json") | {"poses": kind}, "test").write(copied / "config.yaml")
    state = RunFolder(copied).load_checkpoint()
    made = parse_config(config.model_dump(mode="json") | {"poses": kind}, "test")
    poses = component("poses", kind)(made.poses, 48)
    state["reconstruction"] |= {f"poses.{name}": value for name, value in poses.state_dict().items()}
    RunFolder(copied).save_checkpoint(state)
    with pytest.raises(InputError, match=rf"run: found its poses itself \(poses: {kind}\)"):
        infer(copied, particles(simulated), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_of_another_size_are_refused(simulated, table_run, tmp_path):
    with pytest.raises(InputError, match=r"have 20 pixels of 3 Å, in .*run they have 24 of 2\.5 Å; see --box"):
        infer(table_run, particles(simulated, box=20), tmp_path / "out")
    with pytest.raises(InputError, match=r"have 24 pixels of 2\.6 Å"):
        infer(table_run, particles(simulated, pixel_size=2.6), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_optics_groups_than_the_run_knows_are_refused(simulated, table_run, tmp_path):
    for name in ("particles.mrcs", "template.cif"):
        shutil.copy(simulated / name, tmp_path)
    document = cif.read(str(simulated / "particles.star"))
    loop = document.find_block("optics").find_loop("_rlnOpticsGroup").get_loop()
    loop.add_row(
        [
            value.replace("1", "2") if tag == "_rlnOpticsGroup" else value
            for tag, value in zip(loop.tags, loop.values[: loop.width()], strict=True)
        ]
    )
    document.find_block("particles").find_loop("_rlnOpticsGroup")[7] = "2"
    document.write_file(str(tmp_path / "particles.star"))
    with pytest.raises(InputError, match=r"has 2 optics groups, .*run knows the gain of 1"):
        infer(table_run, particles(tmp_path), tmp_path / "out")
    rows = tmp_path / "rows.txt"
    rows.write_text("0\n1\n")
    infer(table_run, particles(tmp_path, indices=rows), tmp_path / "out", epochs=1)


def test_a_folder_that_holds_something_is_left_alone(simulated, table_run, encoder_run, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(InputError, match="is not empty and holds no run; choose another --out"):
        infer(encoder_run, particles(simulated), tmp_path)
    assert folder_state(tmp_path) == {"thesis.tex": b"do not touch"}
    before = folder_state(table_run)
    for run in (table_run, encoder_run):
        with pytest.raises(InputError, match="holds a finished run; choose another --out"):
            infer(run, particles(simulated), table_run)
    assert folder_state(table_run) == before


def test_a_run_that_is_not_complete_is_refused(simulated, copied, tmp_path):
    (copied / "latents.npy").unlink()
    with pytest.raises(InputError, match="training is not complete"):
        infer(copied, particles(simulated), tmp_path / "out")


def test_the_command_says_what_it_made(cryomorph, simulated, table_run, tmp_path):
    done = cryomorph("infer", table_run, simulated / "particles.star", "--out", tmp_path / "a", "--epochs", 2)
    assert done.code == 0, done.err
    assert f"inference complete: {tmp_path / 'a'}" in done.out.replace("\n", "")
    assert [row["epoch"] for row in metrics_without_times(tmp_path / "a")] == [1, 2]
    config = read_config(tmp_path / "a" / "config.yaml")
    assert (config.training.epochs, config.training.batch_size, config.infer_from) == (2, 8, table_run)
    assert config.hardware == read_config(table_run / "config.yaml").hardware
    done = cryomorph("evaluate", tmp_path / "a", "--truth", simulated / "truth.npz")
    assert done.code == 0, done.err


def test_errors_of_the_command_are_one_line(cryomorph, simulated, table_run, tmp_path):
    star = simulated / "particles.star"
    for arguments, message in (
        ((tmp_path / "nothing", star, "--out", tmp_path / "a"), "nothing: no run there"),
        ((table_run, tmp_path / "no.star", "--out", tmp_path / "a"), "no.star: no such file"),
        ((table_run, star, "--out", table_run), "holds a finished run; choose another --out"),
        ((table_run, star, "--out", tmp_path / "a", "--box", 20), "see --box and --pixel-size"),
        ((table_run, star, "--out", tmp_path / "a", "--first", 99), "the first 99 particles were asked for"),
        ((table_run, star, "--out", tmp_path / "a", "--precision", "8"), "precision: "),
    ):
        done = cryomorph("infer", *arguments)
        assert done.code == 2, done.out
        lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, done.err
        assert message in lines[0]
        assert "Traceback" not in done.err
    assert not (tmp_path / "a").exists()


def start_settings(simulated, folder, **changes):
    return run_settings(simulated, start_from=str(folder), **changes)


STILL = {
    "epochs": 1,
    "batch_size": 24,
    "learning_rate": 1e-30,
    "latent_learning_rate": 1e-30,
    "latent_steps": 0,
}


@pytest.mark.parametrize("latents", ["table", "variational"])
def test_a_table_starts_from_what_an_encoder_saw(simulated, encoder_run, tmp_path, latents):
    """At next to no learning rate nothing moves: the new run has the conformations of the old one."""
    train(parse_config(start_settings(simulated, encoder_run, latents=latents, training=STILL), "test"), tmp_path)
    np.testing.assert_array_equal(latents_of(tmp_path), latents_of(encoder_run))
    np.testing.assert_array_equal(conformations(tmp_path), conformations(encoder_run))
    state = RunFolder(tmp_path).load_checkpoint()
    if latents == "variational":
        assert torch.allclose(state["latents"]["table.weight"][:, 2:], torch.tensor(0.37).log())
    (start,) = json.loads((tmp_path / "provenance.json").read_text())
    assert start["earlier_run"] == str(encoder_run)


def test_a_start_from_a_run_is_a_head_start(simulated, encoder_run, tmp_path):
    one = {"epochs": 1, "batch_size": 8}
    train(parse_config(start_settings(simulated, encoder_run, training=one), "test"), tmp_path / "from")
    train(parse_config(run_settings(simulated, training=one), "test"), tmp_path / "scratch")
    with_start, without = (metrics_without_times(tmp_path / name)[0]["misfit"] for name in ("from", "scratch"))
    assert with_start < without


@pytest.mark.parametrize("changes", [{"latents": ENCODER}, {"latents": "variational", "poses": "refine"}])
def test_a_run_goes_on_from_one_with_the_same_settings(simulated, tmp_path, changes, monkeypatch):
    """Widths, corrections of poses and an encoder's weights are taken over as they are."""
    training = {"epochs": 2, "batch_size": 12}
    train(parse_config(run_settings(simulated, training=training, **changes), "test"), tmp_path / "one")
    old, states = RunFolder(tmp_path / "one").load_checkpoint(), []
    monkeypatch.setattr(Trainer, "fit", lambda trainer, **rest: states.append(trainer.state()))
    calibration = {"epochs": []}
    settings = start_settings(simulated, tmp_path / "one", training=training, calibration=calibration, **changes)
    train(parse_config(settings, "test"), tmp_path / "two")
    (new,) = states
    for name, value in old["latents"].items():
        if name == "table.weight":  # it begins where the other one ended, which is where its latents.npy says
            value[:, :2] = torch.from_numpy(latents_of(tmp_path / "one"))
        assert torch.equal(new["latents"][name], value)
    assert_same_bits(new["calibration"], old["calibration"])
    assert_same_bits(
        *(
            {name: value for name, value in state["reconstruction"].items() if not name.startswith("likelihood")}
            for state in (new, old)
        )
    )
    if "poses" in changes:
        assert new["reconstruction"]["poses.corrections.table.weight"].abs().amax(1).min() > 0
    gain = "likelihood.gain"  # estimated anew, from the conformations as they are
    torch.testing.assert_close(new["reconstruction"][gain], old["reconstruction"][gain], rtol=0.05, atol=0)


def test_a_run_that_began_with_another_needs_it_no_more(simulated, finished, tmp_path):
    earlier = shutil.copytree(finished, tmp_path / "earlier")
    training = {"epochs": 2, "batch_size": 12, "checkpoint_minutes": 1e-9}
    config = parse_config(start_settings(simulated, earlier, training=training), "test")
    train(config, tmp_path / "never stopped")
    driver, yaml = Path(__file__).parent / "killed_run.py", tmp_path / "never stopped" / "config.yaml"
    command = [str(part) for part in (sys.executable, driver, yaml, tmp_path, "batch:6")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(earlier)
    train(config, tmp_path / "batch:6", resume=True)
    assert_same_run(tmp_path / "never stopped", tmp_path / "batch:6")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": {"kind": "gnn", "latent_dim": 3, "layers": 2}}, "was trained with another decoder"),
        ({"latents": ENCODER}, "latents: encoder are shared by all particles"),
        ({"poses": "esl"}, r"its latents go with its poses \(known\)"),
        ({"particles": {"first": 40}}, "has other particles than"),
        ({"particles": {"invert": True}}, "its particles have another invert"),
        ({"template": {"path": "straight.pdb"}}, None),
    ],
)
def test_a_run_that_does_not_fit_is_no_start(simulated, finished, tmp_path, changes, message):
    settings = start_settings(simulated, finished)
    for name, value in changes.items():
        settings[name] = settings[name] | value if name == "particles" else value
    if "template" in changes:
        shutil.copy(simulated / "straight.pdb", tmp_path)
        settings["template"] = {"path": str(tmp_path / "straight.pdb")}
        docked, plain = (read_template(p).coordinates for p in (simulated / "template.cif", tmp_path / "straight.pdb"))
        assert np.abs(docked - plain).max() > 0.1
        message = "was trained with another template"
    with pytest.raises(InputError, match=message):
        train(parse_config(settings, "test"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_begins_in_one_place(simulated):
    with pytest.raises(InputError, match="start_from and infer_from exclude each other"):
        parse_config(run_settings(simulated, start_from="a", infer_from="b"), "test")


def test_the_command_line_starts_from_a_run(cryomorph, simulated, finished, tmp_path, monkeypatch):
    parse_config(run_settings(simulated, training=STILL), "test").write(tmp_path / "run.yaml")
    monkeypatch.chdir(finished.parent)
    done = cryomorph("train", "--config", tmp_path / "run.yaml", "--out", tmp_path / "run", "--start-from", "run")
    assert done.code == 0, done.err
    assert read_config(tmp_path / "run" / "config.yaml").start_from == finished
    np.testing.assert_array_equal(latents_of(tmp_path / "run"), latents_of(finished))
