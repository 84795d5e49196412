import copy
import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from cryomorph.config import parse_config, read_config
from cryomorph.errors import InputError
from cryomorph.run import RunFolder
from cryomorph.training import HardwareSettings, TrainingSettings, learning_rate_factor, make_fabric
from cryomorph.workflows import train
from small_runs import latents_of, metrics_without_times, run_settings


def test_learning_rate_rises_linearly_then_falls_like_half_a_cosine():
    settings = TrainingSettings(epochs=10, warmup_epochs=2, final_learning_rate=0.1)
    times = [0, 0.5, 2, 4, 6, 8, 10, 11]
    half = 0.5**0.5  # cosine of 45°
    expected = [0, 0.25, 1, 0.1 + 0.45 * (1 + half), 0.55, 0.1 + 0.45 * (1 - half), 0.1, 0.1]
    assert [learning_rate_factor(t, settings) for t in times] == pytest.approx(expected)


def test_learning_rate_is_continuous_and_never_negative():
    settings = TrainingSettings(epochs=7, warmup_epochs=1.5, final_learning_rate=0)
    factors = [learning_rate_factor(t, settings) for t in np.linspace(0, 7, 2000)]
    assert np.abs(np.diff(factors)).max() < 0.004
    assert min(factors) >= 0
    assert factors[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("epochs", "warmup", "expected"), [(5, 0, 1), (1, 1, 0), (1, 4, 0)])
def test_learning_rate_at_the_start(epochs, warmup, expected):
    assert learning_rate_factor(0, TrainingSettings(epochs=epochs, warmup_epochs=warmup)) == expected


def test_learning_rate_without_a_decay_ends_with_the_warm_up():
    settings = TrainingSettings(epochs=2, warmup_epochs=4)
    assert learning_rate_factor(2, settings) == 0.5
    assert learning_rate_factor(1, TrainingSettings(epochs=1, warmup_epochs=1)) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_input_error():
    with pytest.raises(InputError, match="PyTorch finds no GPU here; use --accelerator cpu or auto"):
        make_fabric(HardwareSettings(accelerator="cuda"))
    assert make_fabric(HardwareSettings(accelerator="auto")).device == torch.device("cpu")


def test_metrics_tell_what_happened(finished):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    names = {"epoch", "misfit", "geometry", "latents", "gain", "learning_rate", "seconds", "images_per_second"}
    for row in rows:
        assert row.keys() == names
        assert row["gain"] > 0
        assert row["images_per_second"] == pytest.approx(48 / row["seconds"])
    assert rows[1]["misfit"] < rows[0]["misfit"] < 0
    factor = learning_rate_factor(2, TrainingSettings(epochs=2))
    assert rows[1]["learning_rate"] == pytest.approx(3e-3 * factor)


def test_progress_is_told_of_every_image(simulated, tmp_path):
    class Counts:
        stretches: list[list] = []

        def start(self, description, total, unit="images"):
            self.stretches.append([description, total, unit, 0])

        def advance(self, amount=1, note=""):
            self.stretches[-1][3] += amount

        def finish(self):
            self.stretches[-1].append("done")

    progress = Counts()
    settings = run_settings(simulated, training={"epochs": 2, "batch_size": 10})
    train(parse_config(settings, "test"), tmp_path / "run", progress=progress)
    assert progress.stretches == [[f"epoch {i}/2", 48, "images", 48, "done"] for i in (1, 2)]


def test_an_objective_that_is_not_finite_stops_the_run(simulated, tmp_path):
    """A learning rate of 1e30 makes the first step infinite; the checkpoint before it must not be replaced by it."""
    settings = run_settings(simulated, training={"epochs": 3, "batch_size": 8, "learning_rate": 1e30})
    with pytest.raises(InputError, match="objective is not finite in epoch 1: lower the learning rates"):
        train(parse_config(settings, "test"), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()


def command(out, settings, devices):
    config = out.parent / f"{out.name}.yaml"
    parse_config(settings, "test").write(config)
    arguments = ["train", "--config", config, "--out", out, "--devices", devices, "--accelerator", "cpu"]
    return [sys.executable, "-m", "cryomorph", *map(str, arguments)]


def run_command(*arguments):
    return subprocess.run(*arguments, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def localhost():
    """Processes find each other through a port of this machine."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=2).close()
    except OSError as error:
        pytest.skip(f"no connection to localhost here: {error}")


SHORT = {"epochs": 3, "batch_size": 6}


@pytest.fixture(scope="module")
def two_processes(localhost, simulated, tmp_path_factory):
    """What a run of two processes printed and left; 47 particles, so that the processes own different numbers."""
    out = tmp_path_factory.mktemp("two") / "run"
    settings = run_settings(simulated, training=SHORT)
    settings["particles"]["first"] = 47
    return run_command(command(out, settings, 2)), out, settings


def test_two_processes_finish_and_report_once(two_processes):
    done, out, _ = two_processes
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run complete") == 1
    assert "Traceback" not in done.stderr
    assert "deprecated" not in done.stderr
    assert done.stderr.count("correlation") == 1
    assert [row["epoch"] for row in metrics_without_times(out)] == [1, 2, 3]


def test_two_processes_train_all_particles_into_one_checkpoint(two_processes, tmp_path):
    _, out, settings = two_processes
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    steps = state["latent_optimizer"]["state"][0]["steps"]
    assert torch.equal(steps, torch.full((47, 1), 3.0))
    table = state["latents"]["table.weight"]
    np.testing.assert_array_equal(table.numpy(), latents_of(out))
    # The same start in one process, one epoch at a rate of next to nothing.
    still = {"epochs": 1, "learning_rate": 1e-30, "latent_learning_rate": 1e-30}
    train(parse_config(settings | {"training": still}, "test"), tmp_path / "run")
    moved = np.abs(latents_of(tmp_path / "run") - table.numpy()).max(1)
    assert moved.min() > 1e-4


def test_two_processes_explain_the_images_as_one_does(two_processes, tmp_path):
    """Two processes with batches of 6 average their gradients: the steps of one process with batches of 12."""
    _, out, settings = two_processes
    train(parse_config(settings | {"training": SHORT | {"batch_size": 12}}, "test"), tmp_path / "run")
    two, one = metrics_without_times(out), metrics_without_times(tmp_path / "run")
    for a, b in zip(two, one, strict=True):
        assert a["misfit"] == pytest.approx(b["misfit"], rel=0.02)
        assert a["gain"] == pytest.approx(b["gain"], rel=0.02)
        assert a["learning_rate"] == pytest.approx(b["learning_rate"])


DIES_AT_SAVE_6 = """
import os, signal
from cryomorph.cli import main
from cryomorph.run import RunFolder

save, saves = RunFolder.save_checkpoint, []

def save_and_die(run, state):
    save(run, state)
    saves.append(run)
    if len(saves) == 6:
        os.kill(os.getpid(), signal.SIGKILL)

RunFolder.save_checkpoint = save_and_die
if __name__ == "__main__":
    main()
"""


class StopError(Exception):
    pass


def test_one_process_continues_what_two_began(localhost, simulated, tmp_path, monkeypatch):
    """Killed after one of the four batches of the second epoch, which has to start over with another number."""
    settings = run_settings(simulated, training=SHORT | {"epochs": 2, "checkpoint_minutes": 1e-9})
    out = tmp_path / "run"
    (tmp_path / "driver.py").write_text(DIES_AT_SAVE_6)
    arguments = command(out, settings, 2)
    done = run_command([arguments[0], str(tmp_path / "driver.py"), *arguments[3:]])
    assert done.returncode == -9, done.stderr
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert (state["epoch"], state["batches_done"], state["processes"]) == (1, 1, 2)

    # The sums so far are those of both processes: as many images as one process sees in batches of twice the size.
    states = []

    def keep(run, state):
        states.append(copy.deepcopy(state))
        if len(states) == 6:
            raise StopError

    twice = parse_config(settings | {"training": settings["training"] | {"batch_size": 12}}, "test")
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", keep)
        with pytest.raises(StopError):
            train(twice, tmp_path / "one")
    assert state["sums"][-1] == states[-1]["sums"][-1] == 12
    for name in ("likelihood.cross_sum", "likelihood.power_sum"):
        torch.testing.assert_close(state["reconstruction"][name], states[-1]["reconstruction"][name], rtol=0.3, atol=0)

    train(read_config(tmp_path / "run.yaml"), out, resume=True)
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert (state["epoch"], state["processes"]) == (2, 1)
    steps = state["latent_optimizer"]["state"][0]["steps"].flatten()
    assert steps.long().bincount(minlength=4).tolist() == [0, 0, 36, 12]
    first, second = metrics_without_times(out)
    assert second["misfit"] < first["misfit"] < 0


def test_an_input_error_in_two_processes_is_told_once(localhost, simulated, tmp_path):
    settings = run_settings(simulated)
    settings["particles"]["invert"] = True
    done = run_command(command(tmp_path / "run", settings, 2))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1
    assert "--invert" in done.stderr
    assert "Traceback" not in done.stderr


def test_more_processes_than_particles_are_refused(simulated, tmp_path):
    settings = run_settings(simulated, hardware={"accelerator": "cpu", "devices": 3})
    settings["particles"]["first"] = 2
    with pytest.raises(InputError, match="--devices: 3 processes for 2 particles"):
        train(parse_config(settings, "test"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
