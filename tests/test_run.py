import json
import os
import pickle
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomorph.config import parse_config, read_config
from cryomorph.errors import InputError
from cryomorph.run import RECORDED, RunFolder
from cryomorph.workflows import FittedRun, train
from small_runs import assert_same_run, folder_state, metrics_without_times, run_settings

BATCHES = 6  # an epoch of `simulated` in batches of 8
EVERY_BATCH = {"epochs": 3, "batch_size": 8, "checkpoint_minutes": 1e-9}
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
    # Variational latents draw random numbers at every step: their stream must be continued as well.
    train(parse_config(run_settings(simulated, training=EVERY_BATCH, latents="variational"), "test"), out)
    return out


@pytest.fixture(scope="module")
def killed(never_stopped, tmp_path_factory):
    """Folder of runs that were killed, each named after the point."""
    folder = tmp_path_factory.mktemp("killed")
    driver = Path(__file__).parent / "killed_run.py"
    command = [sys.executable, driver, never_stopped / "config.yaml", folder, *POINTS, "within-save:1"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_ends_as_if_never_stopped(never_stopped, killed, point):
    out = killed / point
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert (state["epoch"], state["batches_done"]) == POINTS[point]
    assert not (out / "latents.npy").exists()
    with pytest.raises(InputError, match=rf"not complete \({POINTS[point][0]} of 3 epochs\)"):
        FittedRun(out)
    train(read_config(never_stopped / "config.yaml"), out, resume=True)
    assert_same_run(never_stopped, out)
    starts = json.loads((out / "provenance.json").read_text())
    assert [start["resumed_at_epoch"] for start in starts] == [0, POINTS[point][0]]


def test_metrics_after_the_checkpoint_are_computed_again_not_kept_twice(killed):
    rows = [row["epoch"] for row in metrics_without_times(killed / f"before-save:{2 * (BATCHES + 1)}")]
    assert rows in ([1, 2], [1, 2, 3])  # before and after it was continued by the test above


def test_a_kill_before_the_first_checkpoint_leaves_a_folder_that_can_be_started_again(simulated, killed):
    out = killed / "within-save:1"
    assert not (out / "checkpoint.pt").exists()
    with pytest.raises(InputError, match="no checkpoint yet"):
        FittedRun(out)
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        train(read_config(out / "config.yaml"), out, resume=True)
    other = run_settings(simulated, training={"epochs": 1, "batch_size": 24}, seed=3)
    train(parse_config(other, "test"), out)
    assert FittedRun(out).config.seed == 3


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


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be damaged."""
    out = tmp_path / "run"
    out.mkdir()
    for name, content in folder_state(finished).items():
        (out / name).write_bytes(content)
    return out


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
    with pytest.raises(InputError, match="damaged or not a checkpoint; remove it to start over"):
        RunFolder(copied).load_checkpoint()
    with pytest.raises(InputError, match="damaged"):
        FittedRun(copied)
    with pytest.raises(InputError, match="damaged"):
        train(read_config(copied / "config.yaml"), copied)
    assert folder_state(copied) == before


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
    run, source = RunFolder(tmp_path), tmp_path / "p.star"
    source.write_text("one")
    rows = np.array([4, 2, 7])
    run.record_particles(source, rows)
    run.check_particles(source, rows)
    np.testing.assert_array_equal(run.source_index(), rows)
    with pytest.raises(InputError, match="changed since"):
        run.check_particles(source, rows[:2])
    with pytest.raises(InputError, match="changed since"):
        run.check_particles(source, rows[::-1])
    source.write_text("two")
    with pytest.raises(InputError, match=r"p\.star: changed since the run"):
        run.check_particles(source, rows)
