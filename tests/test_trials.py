"""Strengths of priors that are tried: what is chosen, and that a trial leaves nothing behind."""

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryomorph import training
from cryomorph.branches import Branch
from cryomorph.config import parse_config
from cryomorph.run import RunFolder
from cryomorph.trials import START, StrengthTrials, TrialSettings, Tried, choose
from cryomorph.workflows import train
from small_runs import assert_same_bits, run_settings

SETTINGS = TrialSettings()
BOTH = (1 / 3, 3.0)


def motions(weaker, stronger, base=20.0, spread=0.5, images=400, common_to_all=(0.0, 0.0)):
    """Nats of images at each strength, and those of motion: their differences are known on average, and vary."""
    generator = np.random.default_rng(0)
    common = base + 10 * generator.standard_normal(images)

    def go_on_with(strength):
        side = 0 if strength == START else 1 if strength < START else 2
        noise = (side > 0) * spread * generator.standard_normal(images)
        motion = common + (0.0, weaker, stronger)[side] + noise
        return Tried(motion + 80.0 + (0.0, *common_to_all)[side], motion)

    return go_on_with


@pytest.mark.parametrize(
    ("weaker", "stronger", "chosen"),
    [
        (0.0, -1.0, 1),  # a stronger prior costs motion, a weaker one finds no more
        (0.35, -1.0, 1),  # less than a twentieth of the motion, and half a hundredth of all
        (1.4, -1.0, 1 / 3),
        (0.0, 0.3, 3),
        (0.0, -0.14, 3),  # less than a hundredth of the motion
        (0.0, -0.3, 1),
        (-0.2, -0.05, 3),  # within the tolerance: the data do not ask for so weak a prior
    ],
)
def test_the_strongest_that_costs_no_motion_is_chosen(weaker, stronger, chosen):
    choice = choose(START, BOTH, motions(weaker, stronger), SETTINGS)
    assert choice.chosen == pytest.approx(START * chosen)
    assert choice.tried == pytest.approx((START, START / 3, START * 3))
    np.testing.assert_allclose(choice.motion_change, [0, weaker, stronger], atol=4 * 0.5 / 20)
    assert choice.motion_error[1] == pytest.approx(0.5 / 20, rel=0.2)
    assert choice.motion[0] == pytest.approx(20, abs=2)


@pytest.mark.parametrize(("weaker", "stronger", "chosen"), [(0.3, -0.5, 1), (3.0, -0.5, 1 / 3), (0.3, -3.0, 1)])
def test_what_all_images_have_in_common_counts_if_it_is_much(weaker, stronger, chosen):
    """Of 100 nats; the motion stays the same, but for a stronger prior that costs a little of it."""
    choice = choose(START, BOTH, motions(0.0, -0.4, common_to_all=(weaker, stronger)), SETTINGS)
    assert choice.chosen == pytest.approx(START * chosen)


def test_what_is_within_the_error_is_no_reason_for_a_weaker_prior():
    assert choose(START, BOTH, motions(0.5, -3.0, spread=20.0), SETTINGS).chosen == START


def test_without_motion_priors_get_stronger():
    assert choose(START, BOTH, motions(0.0, 0.0, base=-1.0), SETTINGS).chosen == START * 3


def test_the_choice_is_said_with_its_evidence():
    text = str(choose(START, BOTH, motions(0.6, -1.0), SETTINGS))
    assert text.startswith("prior strength 100 becomes 33.33 (free ")
    assert re.search(r"300: -\d\.\d\d ± 0\.\d\d, of motion -\d", text)
    assert "stays" in str(choose(START, BOTH, motions(0.0, -1.0), SETTINGS))


def test_trials_come_at_their_time():
    assert SETTINGS.epochs(30) == {6, 18}
    assert SETTINGS.epochs(2) == {1}
    assert SETTINGS.epochs(1) == set()


def test_a_change_is_tried_to_be_carried_on():
    everyone = np.ones(100, dtype=bool)
    trials = StrengthTrials(SimpleNamespace(rows=np.arange(10), own=np.arange(10)), SETTINGS, everyone, seed=0)
    weaker = START / 3
    assert trials.factors(weaker, 6, 30) == pytest.approx(BOTH)
    assert trials.factors(START, 6, 30) == pytest.approx(BOTH[:1])  # nothing is stronger than the start
    assert trials.factors(weaker, 9, 30) == ()
    trials.decided(choose(START, BOTH, motions(0.6, -1.0), SETTINGS), 6, 30)
    assert trials.factors(weaker, 9, 30) == pytest.approx((1 / 3,))  # weaker still
    trials.decided(choose(START, BOTH, motions(0.0, -1.0), SETTINGS), 9, 30)
    assert trials.factors(weaker, 15, 30) == ()
    trials.decided(choose(START, BOTH, motions(0.6, -1.0), SETTINGS), 24, 30)
    assert trials.factors(weaker, 27, 30) == ()  # too late


def test_particles_of_a_trial_are_those_that_decide_and_others():
    owned = np.ones(1000, dtype=bool)
    owned[::4] = False
    decide = np.arange(0, 1000, 10)
    held_out = SimpleNamespace(rows=decide, own=decide[owned[decide]])
    trials = StrengthTrials(held_out, TrialSettings(share=0.4), owned, seed=0)
    assert trials.images == 400
    rows = trials.rows(3)
    assert len(rows) == len(set(rows)) == 300
    assert owned[rows].all()
    assert set(held_out.own) <= set(rows)
    np.testing.assert_array_equal(rows, trials.rows(3))
    assert not np.array_equal(rows, trials.rows(4))


def test_a_branch_brings_everything_back():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(network.parameters())

    def step():
        optimizer.zero_grad()
        network(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()

    step()
    before = copy.deepcopy([network.state_dict(), optimizer.state_dict()])
    branch = Branch([network], [optimizer])
    drawn = []
    for _ in range(2):  # as often as one likes
        step()
        drawn.append(torch.rand(3))
        branch.restore()
        assert_same_bits([network.state_dict(), optimizer.state_dict()], before)
    assert torch.equal(*drawn)


def finished(simulated, folder, **changes):
    config = parse_config(run_settings(simulated, training={"epochs": 3, "batch_size": 8}, **changes), "test")
    return train(config, folder)


def test_a_run_writes_down_what_it_chose_and_why(simulated, tmp_path):
    run = finished(simulated, tmp_path / "run")
    rows = [row for row in run.read_metrics() if "prior_strength" in row]
    assert [row["epoch"] for row in rows] == [1, 2]  # in any case
    assert rows[1]["prior_strength"]["tried"][0] == pytest.approx(rows[0]["prior_strength"]["chosen"], rel=1e-3)
    kept = RunFolder(run.path).load_checkpoint()["reconstruction"]["strength"]
    assert float(kept) == pytest.approx(rows[1]["prior_strength"]["chosen"], rel=1e-3)


def test_a_trial_that_changes_nothing_leaves_the_training_as_it_was(simulated, tmp_path, monkeypatch):
    """The same run with the strength given: every weight and latent is the same to the bit."""

    def tried_in_vain(strength, factors, go_on_with, settings):
        choice = choose(strength, factors, go_on_with, settings)
        return replace(choice, chosen=strength)

    monkeypatch.setattr(training, "choose", tried_in_vain)
    states = []
    for name, strength in (("tried", "auto"), ("given", START)):
        run = finished(simulated, tmp_path / name, priors={"strength": strength}, latents="variational")
        states.append(RunFolder(run.path).load_checkpoint())
        assert any("prior_strength" in row for row in run.read_metrics()) == (strength == "auto")
    for name in ("reconstruction", "latents", "optimizer", "latent_optimizer", "random"):
        assert_same_bits(*(state[name] for state in states))


def test_a_given_strength_is_not_changed(simulated, tmp_path):
    run = finished(simulated, tmp_path / "run", priors={"strength": 12.5})
    assert not any("prior_strength" in row for row in run.read_metrics())
    assert float(RunFolder(run.path).load_checkpoint()["reconstruction"]["strength"]) == 12.5
