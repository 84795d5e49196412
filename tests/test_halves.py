"""Runs on two halves: which particles are in them, what is written, and what goes on after a kill."""

import json
from dataclasses import replace

import numpy as np
import pytest

from command_line import refused
from cryomorph.comparison import Comparison, Evidence
from cryomorph.config import open_particles, parse_config
from cryomorph.errors import InputError
from cryomorph.halves import compare_halves, split, train_halves
from cryomorph.progress import Silent
from cryomorph.resolved import agreement, resolved_motion
from cryomorph.run import RunFolder
from cryomorph.states import States
from cryomorph.verdict import as_dict, verdict
from small_runs import assert_same_run, folder_state, run_settings


def settings(simulated, **changes):
    return parse_config(run_settings(simulated, **changes), "test")


@pytest.fixture(scope="module")
def trained(simulated, tmp_path_factory):
    """Halves that were trained, and what their comparison found; not to be changed."""
    out = tmp_path_factory.mktemp("halves") / "run"
    return out, train_halves(settings(simulated), out)


@pytest.fixture
def stack(simulated):
    return open_particles(settings(simulated).particles)


def with_table(stack, **changes):
    return replace(stack, table=replace(stack.table, **changes))


def test_halves_are_those_of_the_file(stack):
    first, second = split(stack, seed=0)
    np.testing.assert_array_equal(first, np.flatnonzero(stack.table.half_set == 1))
    np.testing.assert_array_equal(second, np.flatnonzero(stack.table.half_set == 2))


def test_rows_are_those_of_the_original_file(stack):
    rows = np.arange(40)[::-1]
    first, second = split(stack.select(rows), seed=0)
    assert set(first) | set(second) == set(rows)
    assert (stack.table.half_set[first] == 1).all()
    assert (stack.table.half_set[second] == 2).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_halves_that_are_drawn_are_even_in_every_optics_group(stack, seed):
    groups = np.repeat([0, 1, 2], [30, 11, 7])
    drawn = with_table(stack, half_set=None, optics_group=groups)
    first, second = split(drawn, seed)
    assert sorted([*first, *second]) == list(range(48))
    assert len(first) == len(second)
    for group in range(3):
        assert abs((groups[first] == group).sum() - (groups[second] == group).sum()) <= 1
    again = split(drawn, seed)
    assert all(np.array_equal(a, b) for a, b in zip((first, second), again, strict=True))
    assert not np.array_equal(first, split(drawn, seed + 10)[0])


def test_halves_too_small_or_without_a_group_are_refused(stack):
    with pytest.raises(InputError, match="halves of 45 and 3 particles"):
        split(with_table(stack, half_set=np.repeat([1, 2], [45, 3])), seed=0)
    half = np.repeat([1, 2], 24)
    with pytest.raises(InputError, match="optics group 2 has particles in one half only"):
        split(with_table(stack, half_set=half, optics_group=(np.arange(48) < 5).astype(np.int64)), seed=0)


def test_each_half_is_an_ordinary_run_of_its_own(trained, stack):
    out, _ = trained
    for number in (1, 2):
        run = RunFolder(out / f"half{number}")
        assert (stack.table.half_set[run.source_index()] == number).all()
        assert len(run.load_latents()) == (stack.table.half_set == number).sum()
    seeds = [json.loads((out / f"half{number}" / "provenance.json").read_text())[0]["seed"] for number in (1, 2)]
    assert seeds[0] != seeds[1]


def test_what_is_written_is_what_was_found(trained):
    out, found = trained
    written = json.loads((out / "halves.json").read_text())
    assert written == json.loads(json.dumps(as_dict(found)))
    assert written["verdict"] == verdict(found)
    assert written["particles_compared"] == 48
    assert len(written["free_nats_per_image"]) == 2
    arrays = np.load(out / "halves.npz", allow_pickle=False)
    assert arrays["motion"].shape == arrays["correlation_between_models"].shape == (24,)
    assert arrays["means"].shape == (2, 24, 3)
    assert arrays["places"].shape == (48, 2)
    assert sorted(arrays["particles"]) == list(range(48))
    assert arrays["component"].shape == (24, 3)
    assert (out / "halves.svg").read_text().startswith("<?xml")


def test_comparing_again_finds_the_same(trained, tmp_path):
    out, found = trained
    assert as_dict(compare_halves(out)) == as_dict(found)


def test_without_coefficients_kept_out_there_is_no_evidence_of_them(simulated, tmp_path):
    found = train_halves(
        settings(simulated, free={"share": 0}, training={"epochs": 1, "batch_size": 24}), tmp_path / "run"
    )
    assert found.evidence == ()
    assert "mean conformation" in verdict(found)


def test_poses_that_the_halves_find_are_compared_in_the_frame_of_the_template(simulated, tmp_path):
    found = train_halves(
        settings(simulated, poses="refine", training={"epochs": 1, "batch_size": 24}), tmp_path / "run"
    )
    assert np.isfinite(found.motion.residue_covariance).all()
    assert (tmp_path / "run" / "half2" / "poses.npz").is_file()


class Stops(Silent):
    """Stops in the middle of the second half's training."""

    def __init__(self):
        self.trainings = 0

    def start(self, description, total, unit="images"):
        self.trainings += description.startswith("epoch")
        if self.trainings == 4:
            raise KeyboardInterrupt


def test_stopped_halves_go_on_where_they_were(simulated, trained, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_halves(settings(simulated), out, progress=Stops())
    assert (out / "half1" / "latents.npy").is_file()
    assert not (out / "half2" / "latents.npy").exists()
    first = folder_state(out / "half1")["checkpoint.pt"]
    found = train_halves(settings(simulated), out, resume=True)
    assert folder_state(out / "half1")["checkpoint.pt"] == first
    for number in (1, 2):
        assert_same_run(out / f"half{number}", trained[0] / f"half{number}")
    assert as_dict(found) == as_dict(trained[1])


def test_other_folders_and_settings_are_refused(simulated, trained, finished, tmp_path):
    out, _ = trained
    with pytest.raises(InputError, match=r"holds another run \(differs in beads\)"):
        train_halves(settings(simulated, beads="ca"), out)
    with pytest.raises(InputError, match="holds other halves"):
        train_halves(settings(simulated, particles={"path": str(simulated / "particles.star"), "first": 40}), out)
    with pytest.raises(InputError, match="holds a run on all particles"):
        train_halves(settings(simulated), finished)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no halves"):
        train_halves(settings(simulated), tmp_path)
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        train_halves(settings(simulated), tmp_path / "new", resume=True)
    with pytest.raises(InputError, match="leave --start-from out"):
        train_halves(settings(simulated, start_from=str(finished)), tmp_path / "new")
    with pytest.raises(InputError, match="leave --devices out"):
        train_halves(settings(simulated, hardware={"accelerator": "cpu", "devices": 2}), tmp_path / "new")


def test_the_command_prints_the_verdict(cryomorph, simulated, trained):
    out, found = trained
    config = out / "half1" / "config.yaml"
    result = cryomorph("train", "--config", config, "--halves", "--out", out)
    refused(result, "halves of 27 and 0 particles; --halves needs at least 10 in each")
    given = out.parent / "given.yaml"
    settings(simulated).write(given)
    result = cryomorph("train", "--config", given, "--halves", "--out", out)
    assert result.code == 0, result.err
    assert verdict(found) in result.out


def comparison(motion, *, noise=0.2, states=1, from_template=0.5, between=0.4, free=(1.0, 0.1), seen=(9.0, 1.0)):
    """What would be found for a motion of so many Å rms of ten residues."""
    generator = np.random.default_rng(0)
    true = motion * generator.standard_normal((400, 1, 1)) * np.ones((10, 3)) / np.sqrt(3)
    first, second = (true + noise * generator.standard_normal(true.shape) for _ in range(2))
    two = States(2, 2 * motion, 0.3, 0.2, (0.6, 0.4), 500.0)
    return Comparison(
        motion=resolved_motion(first, second, np.full((400, 1), 0.05)),
        agreement=agreement(first, second),
        states=two if states == 2 else States(1, 0.0, motion, 0.2, (1.0,), -5.0),
        component=np.ones((10, 3)),
        places=np.zeros((400, 2)),
        means=np.zeros((2, 10, 3)),
        from_template=from_template,
        between_halves=between,
        evidence=(Evidence(*seen, *free), Evidence(*seen, *free)),
        particles=np.arange(400),
        half=np.repeat([1, 2], 200),
    )


def test_verdicts_in_words():
    assert verdict(comparison(0.0)).startswith("no motion beyond noise: 0.0")
    assert "no further than the halves differ" in verdict(comparison(0.0))
    moved = verdict(comparison(0.0, from_template=4.2, between=0.3))
    assert moved.endswith("mean conformation 4.2 Å from the template (the halves' means: 0.30 Å apart)")
    real = verdict(comparison(3.0))
    assert real.startswith("motion of 3.0 ± 0.11 Å, the same in both halves (correlation 0.99);")
    assert "states" not in real
    assert "two states 6.0 Å apart (60% and 40% of the particles)" in verdict(comparison(3.0, states=2))
    assert "only partly the same in both halves" in verdict(comparison(1.0, noise=2.0))
    assert "does not explain coefficients" in verdict(comparison(3.0, free=(0.1, 0.1)))
    assert verdict(comparison(0.0, seen=(0.0, 0.0))).startswith("the molecule is not in the images at these poses; no")


def test_a_motion_that_explains_nothing_is_not_resolved():
    found = comparison(3.0, states=2, free=(0.1, 0.1))
    assert found.motion.resolved
    assert not found.resolved
    assert not as_dict(found)["motion"]["resolved"]
    assert as_dict(found)["states"]["count"] == 1
    assert verdict(found).startswith("no motion shown: a motion of 3.0 ± 0.11 Å, the same in both halves")
    assert comparison(3.0).resolved


def test_states_count_only_where_there_is_motion():
    assert as_dict(comparison(0.0, states=2))["states"]["count"] == 1
    assert as_dict(comparison(3.0, states=2))["states"]["count"] == 2
