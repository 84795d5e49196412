import copy
import json
import socket
import subprocess
import sys

import mrcfile
import numpy as np
import pytest
import torch
from gemmi import cif

from cryomorph.config import open_particles, parse_config, read_config
from cryomorph.conformations.gnn import GNN
from cryomorph.errors import InputError
from cryomorph.geometry import superpose_core
from cryomorph.hardware import HardwareSettings, make_fabric, mixed_precision
from cryomorph.likelihood.direct import Direct
from cryomorph.poses.refine import RefinedPoses, RefinedPosesSettings
from cryomorph.progress import Silent
from cryomorph.results import FittedRun
from cryomorph.run import RunFolder
from cryomorph.schedule import TrainingSettings, latent_cost_factor, learning_rate_factor
from cryomorph.training import Trainer
from cryomorph.workflows import train
from small_runs import latents_of, metrics_without_times, run_settings


class StopError(Exception):
    pass


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


def test_what_latents_cost_rises_to_its_full_weight():
    settings = TrainingSettings(epochs=20, latents_free=0.5)
    costs = [latent_cost_factor(epoch, settings) for epoch in (0, 5, 9.5, 12, 20)]
    assert costs == pytest.approx([0.05, 0.55, 1, 1, 1])
    assert latent_cost_factor(0, TrainingSettings(latents_free=0)) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_input_error():
    with pytest.raises(InputError, match="PyTorch finds no GPU here; use --accelerator cpu or auto"):
        make_fabric(HardwareSettings(accelerator="cuda"))
    assert make_fabric(HardwareSettings(accelerator="auto")).device == torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("accelerator", ["cuda", "auto"])
def test_more_gpus_than_there_are_is_an_input_error(two_gpus, accelerator):
    with pytest.raises(InputError, match="--devices 3: PyTorch finds 2 GPUs here; use fewer"):
        make_fabric(HardwareSettings(accelerator=accelerator, devices=3))


def test_processes_on_the_cpu_are_not_limited_by_gpus(two_gpus):
    fabric = make_fabric(HardwareSettings(accelerator="cpu", devices=3))
    assert (fabric.world_size, fabric.device) == (3, torch.device("cpu"))


SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
    "SLURM_NNODES": "2",
    "SLURM_STEP_NODELIST": "node[1-2]",
}


@pytest.fixture
def in_a_job(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)


def test_a_job_of_a_cluster_s_scheduler_is_trained_in_like_anywhere(in_a_job, simulated, finished, tmp_path):
    train(parse_config(run_settings(simulated), "test"), tmp_path / "run")
    np.testing.assert_array_equal(latents_of(tmp_path / "run"), latents_of(finished))


def test_processes_asked_for_in_a_job_are_started_here(in_a_job):
    fabric = make_fabric(HardwareSettings(accelerator="cpu", devices=2))
    assert (fabric.world_size, fabric.global_rank, fabric.local_rank) == (2, 0, 0)


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [("auto", "cpu", False), ("32-true", "cpu", False), ("32-true", "cuda", False), ("bf16-mixed", "cpu", True)],
)
def test_the_decoder_is_rounded_where_it_is_asked_for(precision, device, expected):
    assert mixed_precision(HardwareSettings(precision=precision), torch.device(device)) is expected


def test_only_the_decoder_is_rounded(simulated, tmp_path, monkeypatch):
    """In bfloat16 a defocus of 10,000 Å is off by up to 30 Å, a coordinate of 40 Å by 0.1 Å."""
    seen, decoded = set(), set()
    terms, propagate = Direct.terms, GNN._propagate

    def recorded_terms(likelihood, beads, rotation, shift, batch):
        tensors = [*vars(beads).values(), rotation, shift, batch.image, batch.pixel_size, *vars(batch.ctf).values()]
        result = terms(likelihood, beads, rotation, shift, batch)
        seen.update(tensor.dtype for tensor in (*tensors, *result))
        assert not torch.is_autocast_enabled("cpu")
        return result

    def recorded_propagation(decoder, features):
        decoded.add(features.dtype)
        return propagate(decoder, features)

    monkeypatch.setattr(Direct, "terms", recorded_terms)
    monkeypatch.setattr(GNN, "_propagate", recorded_propagation)
    hardware = {"accelerator": "cpu", "precision": "bf16-mixed"}
    training = {"epochs": 1, "batch_size": 24}
    settings = run_settings(simulated, hardware=hardware, training=training, likelihood="direct")
    train(parse_config(settings, "test"), tmp_path / "run")
    assert seen == {torch.float32}
    assert decoded == {torch.bfloat16}
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    kept = [value.dtype for value in state["reconstruction"].values() if value.is_floating_point()]
    assert set(kept) == {torch.float32, torch.float64}
    assert state["latents"]["table.weight"].dtype == torch.float32


def test_metrics_tell_what_happened(finished):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    names = {"epoch", "misfit", "geometry", "shared", "latents", "poses", "gain", "learning_rate"}
    names |= {"work", "free", "work_shells", "free_shells", "seconds", "images_per_second"}
    assert rows[0].pop("prior_strength")["tried"] == [100.0, 33.33]
    assert rows[0].pop("latent_prior")["tried"] == [1.0, 0.3333, 3.0]
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
    calibration = {"epochs": [0, 1, 2]}  # nothing is left to be calibrated for after the last
    training = {"epochs": 2, "batch_size": 10}
    settings = run_settings(simulated, training=training, likelihood="direct", calibration=calibration)
    train(parse_config(settings, "test"), tmp_path / "run", progress=progress)
    names = ["calibration", "epoch 1/2", "calibration", "strengths", "epoch 2/2", "uncertainty"]
    images = [48, 48, 48, 2 * 48, 48, 48]  # the strength so far and a weaker one are tried
    assert progress.stretches == [[name, m, "images", m, "done"] for name, m in zip(names, images, strict=True)]


def test_an_objective_that_is_not_finite_stops_the_run(simulated, tmp_path):
    """A learning rate of 1e30 makes the first step infinite; the checkpoint before it must not be replaced by it."""
    settings = run_settings(simulated, training={"epochs": 3, "batch_size": 8, "learning_rate": 1e30})
    with pytest.raises(InputError, match="objective is not finite in epoch 1: lower the learning rates"):
        train(parse_config(settings, "test"), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("part", ["network", "latents", "poses"])
def test_a_number_that_is_not_finite_never_replaces_a_good_checkpoint(simulated, tmp_path, monkeypatch, part):
    """A checkpoint after every batch; the sums, which are looked at now and then only, are finite still."""
    step = Trainer._step

    def spoilt_step(trainer, batch, batches):
        step(trainer, batch, batches)
        if trainer.batches_done == 3:
            parts = {"network": trainer.reconstruction.conformations, "latents": trainer.latents}
            module = parts.get(part, trainer.reconstruction.poses)
            next(module.parameters()).data.view(-1)[0] = float("nan")

    monkeypatch.setattr(Trainer, "_step", spoilt_step)
    training = {"epochs": 2, "batch_size": 8, "checkpoint_minutes": 1e-9}
    settings = run_settings(simulated, training=training, poses={"kind": "refine", "start": 0})
    with pytest.raises(InputError, match="not finite in epoch 1: lower the learning rates, or check the images"):
        train(parse_config(settings, "test"), tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert (state["epoch"], state["batches_done"]) == (0, 2)
    for tensor in (*state["reconstruction"].values(), *state["latents"].values()):
        assert torch.isfinite(tensor).all()


def test_the_end_of_an_epoch_is_reported_when_it_fails(simulated, tmp_path):
    class Breaks(Silent):
        events: list[str] = []

        def advance(self, amount=1, note=""):
            self.events.append("advance")
            raise StopError

        def finish(self):
            self.events.append("finish")

    with pytest.raises(StopError):
        train(parse_config(run_settings(simulated), "test"), tmp_path / "run", progress=Breaks())
    assert Breaks.events == ["advance", "finish"]


@pytest.fixture
def two_groups(simulated, tmp_path):
    """A copy of `simulated` whose particles 41, 42 and 43 are of a second optics group; and where they lie in it."""
    rows = [41, 42, 43]
    for name in ("particles.mrcs", "template.cif"):
        (tmp_path / name).write_bytes((simulated / name).read_bytes())
    document = cif.read(str(simulated / "particles.star"))
    optics, particles = (document.find_block(name) for name in ("optics", "particles"))
    first = optics.find("_rln", ["OpticsGroup"])
    row = [second.replace("1", "2") if tag == "_rlnOpticsGroup" else second for tag, second in first_row(optics)]
    assert len(first) == 1
    optics.find_loop("_rlnOpticsGroup").get_loop().add_row(row)
    column = particles.find_loop("_rlnOpticsGroup")
    for place in rows:
        column[place] = "2"
    document.write_file(str(tmp_path / "particles.star"))
    return tmp_path, rows


def first_row(block):
    loop = block.find_loop("_rlnOpticsGroup").get_loop()
    return list(zip(loop.tags, loop.values[: loop.width()], strict=True))


def few_gain_images(monkeypatch):
    """An even pick of four out of 48 misses particles 41 to 43."""
    monkeypatch.setattr("cryomorph.gain.GAIN_IMAGES", 4)
    monkeypatch.setattr("cryomorph.gain.GAIN_IMAGES_OF_GROUP", 2)


def test_a_group_that_anticorrelates_is_named_however_small_it_is(two_groups, tmp_path, monkeypatch):
    few_gain_images(monkeypatch)
    folder, rows = two_groups
    with mrcfile.mmap(folder / "particles.mrcs", "r+") as stack:
        stack.data[rows] *= -1
    with pytest.raises(InputError, match=r"particles\.star, optics group 2: the images anticorrelate .* --invert"):
        train(parse_config(run_settings(folder), "test"), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_the_first_gain_of_a_small_group_is_its_own(two_groups, tmp_path, monkeypatch):
    few_gain_images(monkeypatch)
    folder, rows = two_groups
    with mrcfile.mmap(folder / "particles.mrcs", "r+") as stack:
        background = stack.data[rows].std()
        noise = np.random.default_rng(0).normal(0, 3 * background, (len(rows), *stack.data.shape[1:]))
        stack.data[rows] += noise.astype(np.float32)
    gains = []
    monkeypatch.setattr(Trainer, "fit", lambda trainer, **rest: gains.extend(trainer.reconstruction.likelihood.gain))
    train(parse_config(run_settings(folder), "test"), tmp_path / "run")
    assert len(gains) == 2
    assert 0 < gains[1] < 0.6 * gains[0]


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
    settings = run_settings(simulated, training=SHORT | {"latent_steps": 0})
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
    assert set(steps.unique().tolist()) == {1.0, 3.0}  # those that were moved after the second epoch began anew
    table = state["latents"]["table.weight"]
    np.testing.assert_array_equal(table.numpy(), latents_of(out))
    # The same start in one process, one epoch at a rate of next to nothing.
    still = {"epochs": 1, "learning_rate": 1e-30, "latent_learning_rate": 1e-30, "latent_steps": 0}
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


@pytest.fixture(scope="module")
def refined_by_two(localhost, simulated, tmp_path_factory):
    """A run of two processes that corrects poses; 47 particles, so that the processes own different numbers."""
    out = tmp_path_factory.mktemp("refined") / "run"
    settings = run_settings(simulated, training=SHORT, poses={"kind": "refine", "start": 0})
    settings["particles"]["first"] = 47
    done = run_command(command(out, settings, 2))
    assert done.returncode == 0, done.stderr
    return out, settings


def test_two_processes_correct_all_poses_into_one_checkpoint(refined_by_two):
    out, settings = refined_by_two
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert torch.equal(state["pose_optimizer"]["state"][0]["steps"], torch.full((47, 1), 3.0))
    table = state["reconstruction"]["poses.corrections.table.weight"]
    assert table.shape == (47, 5)
    assert (table.abs().amax(1) > 1e-4).all()
    # What a rotation of the molecule would do as well is taken out over both processes, not by each of them.
    assert table[:, :3].mean(0).abs().max() < 1e-6
    assert table[::2, :3].mean(0).abs().max() > 1e-4
    # The first process wrote the poses of all.
    poses = RefinedPoses(RefinedPosesSettings(), 47)
    poses.corrections.table.weight.data = table
    rotation, shift = poses.best(open_particles(parse_config(settings, "test").particles).batch(np.arange(47)))
    fitted = FittedRun(out)
    with torch.inference_mode():
        x = fitted.model(torch.from_numpy(fitted.latents)).double().numpy()
    turn, move = superpose_core(x, fitted.template.coordinates)  # the frame that poses refer to in the end
    turned = rotation.detach().double().numpy() @ np.swapaxes(turn, 1, 2)
    moved = shift.detach().double().numpy() - np.einsum("bij,bj->bi", turned[:, :2], move)
    found = RunFolder(out).load_poses()
    np.testing.assert_allclose(found.rotation, turned, atol=1e-5)
    np.testing.assert_allclose(found.shift, moved, atol=1e-5)
    assert not found.entropy.any()


def test_two_processes_correct_poses_as_one_does(refined_by_two, tmp_path):
    out, settings = refined_by_two
    train(parse_config(settings | {"training": SHORT | {"batch_size": 12}}, "test"), tmp_path / "run")
    two, one = metrics_without_times(out), metrics_without_times(tmp_path / "run")
    for a, b in zip(two, one, strict=True):
        assert a["misfit"] == pytest.approx(b["misfit"], rel=0.02)
        assert a["poses"] == pytest.approx(b["poses"], rel=0.2)
    assert two[-1]["poses"] > 0


def test_two_processes_calibrate_as_one_does(localhost, simulated, tmp_path):
    """Nothing moves, so that both see the same conformations; the processes own 24 and 23 of the images."""
    still = {"epochs": 2, "learning_rate": 1e-30, "latent_learning_rate": 1e-30}
    settings = run_settings(simulated, training=still, calibration={"shells": "both", "images": 40, "epochs": [0, 1]})
    settings["particles"]["first"] = 47
    done = run_command(command(tmp_path / "two", settings, 2))
    assert done.returncode == 0, done.stderr
    train(parse_config(settings, "test"), tmp_path / "one")
    two, one = (np.load(tmp_path / name / "calibration.npz") for name in ("two", "one"))
    assert two.files == one.files == ["noise", "signal", "frequency"]
    for name in two.files:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5)
    for a, b in zip(*(metrics_without_times(tmp_path / name) for name in ("two", "one")), strict=True):
        assert a.get("calibrated") is b.get("calibrated") is (True if a["epoch"] == 1 else None)
        assert a["misfit"] == pytest.approx(b["misfit"], rel=1e-4)


DIES_AT_SAVE_6 = """
import os, signal
import cryomorph.training
from cryomorph.cli import main
from cryomorph.run import RunFolder
from cryomorph.schedule import TrainingSettings, latent_cost_factor, learning_rate_factor

cryomorph.training.LOOK_EVERY = 1  # several processes save after every so many batches only
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


FEW_GAIN_IMAGES = """
import cryomorph.gain
from cryomorph.cli import main

cryomorph.gain.GAIN_IMAGES = cryomorph.gain.GAIN_IMAGES_OF_GROUP = 2  # a bad image is met in the training
if __name__ == "__main__":
    main()
"""


def spoilt(simulated, folder, image):
    """Start a run of two processes on a copy of `simulated` with an image that is not a number."""
    folder.mkdir()
    for name in ("particles.star", "particles.mrcs", "template.cif"):
        (folder / name).write_bytes((simulated / name).read_bytes())
    with mrcfile.mmap(folder / "particles.mrcs", "r+") as stack:
        stack.data[image - 1, 3, 4] = np.nan
    (folder / "driver.py").write_text(FEW_GAIN_IMAGES)
    arguments = command(folder / "run", run_settings(folder, likelihood="direct"), 2)
    arguments = [arguments[0], str(folder / "driver.py"), *arguments[3:]]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_image_that_stops_one_of_two_processes_stops_both_and_is_named(localhost, simulated, tmp_path):
    """Particles of even rows, counted from 0, are the first process's; both cases at a time, since starting is slow."""
    runs = {image: spoilt(simulated, tmp_path / str(image), image) for image in (7, 8)}
    for image, run in runs.items():
        out, err = run.communicate(timeout=60)
        assert run.returncode != 0, err
        assert "run complete" not in out
        assert "Traceback" not in err
        named = [line for line in err.splitlines() if f"image {image} has a pixel that is NaN" in line]
        assert len(named) == 1, err
        assert named[0].startswith("error: process 1: " if image == 8 else "error: /"), err
        assert not (tmp_path / str(image) / "run" / "latents.npy").exists()


def test_an_error_of_both_processes_is_told_in_a_line_of_each(localhost, simulated, tmp_path):
    settings = run_settings(simulated)
    settings["particles"]["invert"] = True
    done = run_command(command(tmp_path / "run", settings, 2))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert 1 <= len(errors) <= 2, done.stderr
    assert all("--invert" in line for line in errors)


def test_more_processes_than_particles_are_refused(simulated, tmp_path):
    settings = run_settings(simulated, hardware={"accelerator": "cpu", "devices": 3})
    settings["particles"]["first"] = 2
    with pytest.raises(InputError, match="--devices: 3 processes for 2 particles"):
        train(parse_config(settings, "test"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
