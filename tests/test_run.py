import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.config import parse_config, read_config
from cryomorph.errors import InputError
from cryomorph.files import atomic_path
from cryomorph.geometry import random_rotations
from cryomorph.likelihood.direct import Direct
from cryomorph.particles.found import FoundPoses
from cryomorph.progress import Silent
from cryomorph.results import FittedRun
from cryomorph.run import RECORDED, RunFolder
from cryomorph.structure.beads import bead_model
from cryomorph.structure.model import read_template
from cryomorph.workflows import train
from small_runs import assert_same_run, folder_state, metrics_without_times, run_settings

BATCHES = 6  # an epoch of `simulated` in batches of 8
EVERY_BATCH = {"epochs": 3, "batch_size": 8, "checkpoint_minutes": 1e-9}
CALIBRATION = {"shells": "both", "epochs": [0, 1, 2]}
POINTS = {
    "batch:3": (0, 2),  # in the middle of the first epoch: the batch that was cut off had no checkpoint yet
    "batch:12": (1, 5),  # the last batch of the second epoch
    f"before-save:{2 * (BATCHES + 1)}": (1, 6),  # metrics of epoch 2 are written, its checkpoint is not
    "epoch:3": (2, 0),  # between two epochs
    "within-save:5": (0, 4),  # half a checkpoint
}


@pytest.fixture(scope="module")
def never_stopped(simulated, tmp_path_factory):
    out = tmp_path_factory.mktemp("never_stopped") / "run"
    # Variational latents draw random numbers at every step: their stream must be continued as well. Corrections of
    # poses are rows with an optimiser of their own.
    learned = {"latents": "variational", "poses": "refine"}
    settings = run_settings(simulated, training=EVERY_BATCH, calibration=CALIBRATION, **learned)
    train(parse_config(settings, "test"), out)
    return out


@pytest.fixture(scope="module")
def killed(never_stopped, tmp_path_factory):
    """Folder of runs that were killed, each named after the point; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("killed")
    driver = Path(__file__).parent / "killed_run.py"
    command = [sys.executable, driver, never_stopped / "config.yaml", folder, *POINTS, "within-save:1"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_ends_as_if_never_stopped(never_stopped, killed, tmp_path, point):
    out = shutil.copytree(killed / point, tmp_path / "run")
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert (state["epoch"], state["batches_done"]) == POINTS[point]
    assert not (out / "latents.npy").exists()
    with pytest.raises(InputError, match=rf"not complete \({POINTS[point][0]} of 3 epochs\)"):
        FittedRun(out)
    train(read_config(never_stopped / "config.yaml"), out, resume=True)
    assert_same_run(never_stopped, out)
    starts = json.loads((out / "provenance.json").read_text())
    assert [start["resumed_at_epoch"] for start in starts] == [0, POINTS[point][0]]


def test_calibrations_are_told_and_kept(never_stopped, tmp_path):
    run = RunFolder(never_stopped)
    assert [row.get("calibrated", False) for row in run.read_metrics()] == [True, True, False]
    written, kept = np.load(run.calibration), run.load_checkpoint()["calibration"]
    for name in ("noise", "signal"):
        assert written[name].shape == (1, 12)
        np.testing.assert_array_equal(written[name], kept[name].numpy())
        assert (written[name] != 1).any()
    np.testing.assert_allclose(written["frequency"], np.arange(12)[None] / 60)  # the box is 60 Å
    assert run.calibration_plot.read_text().lstrip().startswith("<?xml")
    assert FittedRun(never_stopped).epochs_done == 3


def test_metrics_after_the_checkpoint_are_computed_again_not_kept_twice(killed, tmp_path):
    """The metrics of epoch 2 were written, its checkpoint was not."""
    out = shutil.copytree(killed / f"before-save:{2 * (BATCHES + 1)}", tmp_path / "run")
    assert [row["epoch"] for row in metrics_without_times(out)] == [1, 2]
    train(read_config(out / "config.yaml"), out)
    assert [row["epoch"] for row in metrics_without_times(out)] == [1, 2, 3]


def test_half_a_checkpoint_is_swept_up_on_the_next_start(killed, tmp_path):
    out = shutil.copytree(killed / "within-save:5", tmp_path / "run")
    (leftover,) = out.glob(".checkpoint.*.pt")
    assert 0 < leftover.stat().st_size < (out / "checkpoint.pt").stat().st_size
    (out / "notes.txt").write_text("mine")
    (out / ".notes.txt").write_text("mine")
    train(read_config(out / "config.yaml"), out)
    assert sorted(path.name for path in out.glob(".*")) == [".notes.txt"]
    assert (out / "notes.txt").read_text() == "mine"


def test_a_kill_before_the_first_checkpoint_leaves_a_folder_that_can_be_started_again(simulated, killed, tmp_path):
    out = shutil.copytree(killed / "within-save:1", tmp_path / "run")
    assert len(list(out.glob(".checkpoint.*.pt"))) == 1
    assert not (out / "checkpoint.pt").exists()
    with pytest.raises(InputError, match="no checkpoint yet"):
        FittedRun(out)
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        train(read_config(out / "config.yaml"), out, resume=True)
    other = run_settings(simulated, training={"epochs": 1, "batch_size": 24}, seed=3)
    train(parse_config(other, "test"), out)
    assert FittedRun(out).config.seed == 3
    assert not list(out.glob(".*"))


def test_a_kill_before_anything_was_recorded_leaves_a_folder_that_can_be_started_again(simulated, tmp_path):
    """Only what the program itself leaves is swept up: a folder that holds no run belongs to somebody else."""
    config = parse_config(run_settings(simulated, training={"epochs": 1, "batch_size": 24}), "test")
    out = tmp_path / "run"
    out.mkdir()
    (out / ".particles.a1b2c3d4.npz").write_bytes(b"half")
    (out / ".config.local.yaml").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        train(config, out)
    assert folder_state(out)[".config.local.yaml"] == b"mine"
    (out / ".config.local.yaml").unlink()
    train(config, out)
    assert not list(out.glob(".*"))


def test_latents_that_are_older_than_the_checkpoint_are_not_read(copied):
    """As a run leaves them that was finished, then continued from an earlier checkpoint put back."""
    state = RunFolder(copied).load_checkpoint()
    RunFolder(copied).save_checkpoint(state | {"epoch": 1})
    with pytest.raises(InputError, match=r"training is not complete \(1 of 2 epochs\); run the same train command"):
        FittedRun(copied)


def test_latents_of_other_particles_are_not_read(copied):
    RunFolder(copied).save_latents(RunFolder(copied).load_latents()[:40])
    with pytest.raises(InputError, match=r"latents\.npy: has 40 rows for 48 particles"):
        FittedRun(copied)


def test_the_real_command_killed_from_outside_and_given_again(simulated, tmp_path):
    config = tmp_path / "config.yaml"
    parse_config(run_settings(simulated, training={"epochs": 12, "batch_size": 8}), "test").write(config)
    command = [sys.executable, "-m", "cryomorph", "train", "--config", str(config), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "run" / "metrics.jsonl"
    give_up = time.monotonic() + 60
    while not metrics.is_file() or metrics.read_text().count("\n") < 2:
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "run" / "latents.npy").exists()
    assert 1 <= torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["epoch"] < 12
    train(read_config(config), tmp_path / "run", resume=True)
    train(read_config(config), tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_checkpoint_cannot_run_code(copied, tmp_path):
    for payload in (
        lambda path: torch.save({"epoch": Bomb(tmp_path / "bang")}, path),
        lambda path: path.write_bytes(pickle.dumps(Bomb(tmp_path / "bang"))),
    ):
        payload(copied / "checkpoint.pt")
        with pytest.raises(InputError, match=r"checkpoint\.pt: damaged or not a checkpoint"):
            FittedRun(copied)
    assert not (tmp_path / "bang").exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_damaged_checkpoint_is_refused_and_left_alone(copied, finished, keep):
    path = copied / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)] if isinstance(keep, float) else whole[:keep])
    before = folder_state(copied)
    with pytest.raises(InputError, match="damaged or not a checkpoint; remove the run folder to start over"):
        RunFolder(copied).load_checkpoint()
    with pytest.raises(InputError, match="damaged"):
        FittedRun(copied)
    with pytest.raises(InputError, match="damaged"):
        train(read_config(copied / "config.yaml"), copied)
    assert folder_state(copied) == before


def test_a_checkpoint_of_an_earlier_version_is_refused(copied):
    state = RunFolder(copied).load_checkpoint()
    del state["reconstruction"]["rest"]
    RunFolder(copied).save_checkpoint(state)
    with pytest.raises(InputError, match="written by an earlier version; train again, with another --out"):
        RunFolder(copied).load_checkpoint()


def test_a_checkpoint_of_something_else_is_refused(copied):
    torch.save({"weights": torch.zeros(3)}, copied / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint\.pt: damaged or not a checkpoint"):
        FittedRun(copied)


@pytest.mark.parametrize("name", ["latents.npy", "particles.npz", "template.cif", "config.yaml"])
def test_a_damaged_file_of_a_run_is_named(copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 3] + b"\0[")
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        FittedRun(copied)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match="no run there"):
        RunFolder(tmp_path).require()
    with pytest.raises(InputError, match="no checkpoint yet"):
        RunFolder(tmp_path).load_checkpoint()


def test_metrics_survive_a_line_cut_off_by_a_kill(tmp_path):
    run = RunFolder(tmp_path)
    assert run.read_metrics() == []
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch, "misfit": -1 / 3})
    whole = run.metrics.read_text()
    run.metrics.write_text(whole[:-7])
    assert run.read_metrics() == [{"epoch": epoch, "misfit": -1 / 3} for epoch in (1, 2)]
    run.truncate_metrics(2)
    run.append_metrics({"epoch": 3, "misfit": -1 / 3})
    assert run.metrics.read_text() == whole
    run.truncate_metrics(1)
    assert [row["epoch"] for row in run.read_metrics()] == [1]


def test_provenance_tells_how_a_run_came_about(finished):
    (start,) = json.loads((finished / "provenance.json").read_text())
    assert start["versions"].keys() == set(RECORDED)
    assert start["versions"]["torch"] == version("torch")
    assert (start["seed"], start["resumed_at_epoch"]) == (0, 0)
    assert start["command"] == sys.argv


def test_particles_are_recognised_by_content_and_rows(tmp_path):
    run, source, further = RunFolder(tmp_path), tmp_path / "p.cs", tmp_path / "passthrough.cs"
    source.write_text("one")
    further.write_text("two")
    rows = np.array([4, 2, 7])
    run.record_particles([source, further], rows, 9, 24, np.array([2.5, np.nan]))
    run.check_particles([source, further], rows)
    np.testing.assert_array_equal(run.source_index(), rows)
    assert run.source_count() == 9
    box, pixel_size = run.images()
    assert box == 24
    np.testing.assert_array_equal(pixel_size, [2.5, np.nan])
    for other in (rows[:2], rows[::-1]):
        with pytest.raises(InputError, match="changed since"):
            run.check_particles([source, further], other)
    with pytest.raises(InputError, match="changed since"):
        run.check_particles([source], rows)
    for path in (source, further):
        before = path.read_text()
        path.write_text("three")
        with pytest.raises(InputError, match=r"p\.cs: changed since the run"):
            run.check_particles([source, further], rows)
        path.write_text(before)
    run.check_particles([source, further], rows)


class Halves:
    """A source of batches that reads a file of the cache, made once, in which images are kept at half their value."""

    def __init__(self, stack, path):
        self.stack, self.images = stack, np.load(path, mmap_mode="r")

    def batch(self, rows):
        return replace(self.stack.batch(rows, images=False), image=torch.from_numpy(2 * self.images[rows]))


@pytest.fixture
def prepares(monkeypatch):
    """A likelihood that keeps the images of the stack in the cache; the beads of each preparation, when it was made."""
    calls = []

    def prepare(likelihood, stack, beads, cache, progress=None, *, room=0.0):
        path = cache / "halves.npy"
        if not path.exists():
            calls.append(beads)
            with atomic_path(path) as temporary:
                np.save(temporary, 0.5 * stack.images(np.arange(len(stack))))
        return Halves(stack, path)

    monkeypatch.setattr(Direct, "prepare", prepare)
    monkeypatch.setattr(Direct, "remarks", lambda likelihood: ["two remarks", "an epoch"])
    return calls


@pytest.fixture(scope="module")
def unprepared(simulated, tmp_path_factory):
    """A run whose batches come from the stack itself."""
    out = tmp_path_factory.mktemp("unprepared") / "run"
    train(parse_config(run_settings(simulated, training=EVERY_BATCH, likelihood="direct"), "test"), out)
    assert not (out / "cache").exists()
    return out


def test_batches_come_from_what_the_likelihood_prepared(unprepared, prepares, tmp_path, caplog):
    train(read_config(unprepared / "config.yaml"), tmp_path / "run")
    assert_same_run(unprepared, tmp_path / "run")
    (beads,) = prepares
    template = read_template(unprepared / "template.cif")
    positions = bead_model(template, "residue")(torch.from_numpy(template.coordinates).float()[None]).positions
    torch.testing.assert_close(beads.positions, positions)
    assert [path.name for path in (tmp_path / "run" / "cache").iterdir()] == ["halves.npy"]
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["two remarks", "an epoch"] * 3


class StopError(Exception):
    pass


class StopsAfter(Silent):
    def __init__(self, batches):
        self.batches = batches

    def advance(self, amount=1, note=""):
        self.batches -= 1
        if self.batches == 0:
            raise StopError


def test_a_cache_is_used_again_made_again_and_swept(unprepared, prepares, tmp_path):
    config, out = read_config(unprepared / "config.yaml"), tmp_path / "run"
    with pytest.raises(StopError):
        train(config, out, progress=StopsAfter(4))
    assert len(prepares) == 1
    with pytest.raises(StopError):
        train(config, out, resume=True, progress=StopsAfter(4))
    assert len(prepares) == 1
    (out / "cache" / "halves.npy").unlink()
    for leftover in (out / "cache" / ".halves.abc.npy", out / ".calibration.abc.svg"):
        leftover.write_text("half")
    train(config, out, resume=True)
    assert len(prepares) == 2
    assert [path.name for path in (out / "cache").iterdir()] == ["halves.npy"]
    assert not list(out.glob(".*"))
    assert_same_run(unprepared, out)


@pytest.fixture
def found_poses():
    generator = np.random.default_rng(0)
    return FoundPoses(random_rotations(5, generator), generator.normal(size=(5, 2)), generator.random(5))


def test_poses_that_were_found_are_kept_whole(found_poses, tmp_path):
    run = RunFolder(tmp_path)
    assert run.load_poses() is None
    run.save_poses(found_poses)
    assert [path.name for path in tmp_path.iterdir()] == ["poses.npz"]
    for name, value in vars(run.load_poses()).items():
        assert value.dtype == np.float64
        np.testing.assert_array_equal(value, getattr(found_poses, name))


def test_damaged_poses_are_named(found_poses, tmp_path):
    run = RunFolder(tmp_path)
    run.save_poses(replace(found_poses, shift=found_poses.shift[:3]))
    with pytest.raises(InputError, match=r"poses\.npz: damaged"):
        run.load_poses()
    run.poses.write_bytes(run.poses.read_bytes()[:100])
    with pytest.raises(InputError, match=r"poses\.npz: not a readable \.npz archive"):
        run.load_poses()
