"""Where particles go on, where their misfit is the square of a distance and the best place is known."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryomorph.config import parse_config, read_config
from cryomorph.latents.variational import VariationalLatents, VariationalLatentsSettings
from cryomorph.search.moving import MotionSearch, MovingSettings
from cryomorph.structure.beads import Beads
from cryomorph.workflows import train
from dense_likelihood import coarse_batch
from small_runs import assert_same_run, metrics_without_times, run_settings

PARTICLES, STIFFNESS = 40, 5000.0


class OneMotion(torch.nn.Module):
    """Four residues that move along x by the first of two latent coordinates."""

    def __init__(self):
        super().__init__()
        self.register_buffer("template", torch.arange(12.0).view(4, 3))

    def forward(self, z):
        return self.template + z[:, :1, None] * torch.tensor([1.0, 0.0, 0.0])


class Distances:
    """A likelihood whose misfit is the square of how far a particle is along x from where it should be."""

    def __init__(self, wanted):
        self.wanted = wanted

    def terms(self, beads, rotation, shift, batch):
        along = beads.positions[:, 0, 0]
        return STIFFNESS * (along - self.wanted[batch.index]).square(), torch.zeros_like(along)

    def misfit(self, cross, power, batch):
        return cross

    def remarks(self):
        return []


class Source:
    def __len__(self):
        return PARTICLES

    def batch(self, rows, images=True):
        return coarse_batch(8, images=PARTICLES)[torch.from_numpy(np.asarray(rows))]


def search(place, wanted, **settings):
    latents = VariationalLatents(VariationalLatentsSettings(), {"shape": slice(0, 2)}, PARTICLES)
    with torch.no_grad():
        latents.table.weight[:, 0] = place
        latents.table.weight[:, 1] = 0.0
    reconstruction = SimpleNamespace(
        conformations=OneMotion(),
        beads=lambda x: Beads(x, torch.ones(4), torch.ones(4)),
        poses=SimpleNamespace(best=lambda batch: (batch.rotation, batch.shift)),
        likelihood=Distances(wanted),
        latent_prior=torch.tensor(1.0),
    )
    moving = MotionSearch(MovingSettings(**settings), reconstruction, latents, Source())
    share = moving.run(2, Source(), np.arange(PARTICLES), None, latents.optimizer(0.1, 0.01))
    latents.eval()
    return share, latents(coarse_batch(8, images=PARTICLES)).detach()


def test_particles_move_where_they_fit_better_and_beyond_what_was_learned():
    """The motion learned so far goes from -1 to 1; what the last of the images show lies at 1.6."""
    place = torch.linspace(-1, 1, PARTICLES)
    wanted = place.clone()
    wanted[-10:] = 1.6
    share, z = search(place, wanted, library=25)
    torch.testing.assert_close(z[:-10, 0], place[:-10])  # nothing fits better than what fits exactly
    step = 2 * (1 + 2 / 3) / 24
    assert ((z[-10:, 0] - 1.6).abs() < step).all()
    assert share == pytest.approx(10 / PARTICLES)


def test_what_is_beyond_pays_its_latents():
    """The prior's cost of going on is more than images gain that hardly tell conformations apart."""
    place = torch.linspace(-1, 1, PARTICLES)
    share, z = search(place, place + 1e-4)
    assert share == 0
    torch.testing.assert_close(z[:, 0], place)


def test_particles_that_are_all_alike_stay():
    share, z = search(torch.zeros(PARTICLES), torch.zeros(PARTICLES))
    assert share == 0
    assert torch.equal(z[:, 0], torch.zeros(PARTICLES))


@pytest.fixture(scope="module")
def moved(simulated, tmp_path_factory):
    out = tmp_path_factory.mktemp("moved") / "run"
    settings = run_settings(simulated, moving={"epochs": [1, 2]}, training={"epochs": 3, "batch_size": 8})
    train(parse_config(settings, "test"), out)
    return out


def test_a_run_says_how_many_moved_and_not_after_the_last_epoch(moved):
    rows = metrics_without_times(moved)
    assert [0 <= row["moved"] <= 1 if "moved" in row else None for row in rows] == [True, True, None]


def test_a_run_killed_after_particles_moved_ends_as_if_never_stopped(moved, tmp_path):
    driver = Path(__file__).parent / "killed_run.py"
    command = [sys.executable, driver, moved / "config.yaml", tmp_path, "epoch:2", "batch:14"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    for point in ("epoch:2", "batch:14"):
        train(read_config(moved / "config.yaml"), tmp_path / point, resume=True)
        assert_same_run(moved, tmp_path / point)
