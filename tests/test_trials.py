"""Strengths of priors that are tried: what is chosen, and that a trial leaves nothing behind."""

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryomorph import trials as trials_module
from cryomorph.branches import Branch
from cryomorph.config import parse_config
from cryomorph.run import RunFolder
from cryomorph.trials import (
    LATENT_PRIOR,
    START,
    Trials,
    TrialSettings,
    Tried,
    choose,
    epochs_after,
    most_explained,
    of_latents,
    of_priors,
    strongest,
)
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
        (0.0, -0.14, 1),  # little, but more than a thousandth of the motion and five times its error
        (0.0, -0.3, 1),
        (-0.2, -0.05, 3),  # within the tolerance: the data do not ask for so weak a prior
    ],
)
def test_the_strongest_that_costs_no_motion_is_chosen(weaker, stronger, chosen):
    choice = choose(START, BOTH, motions(weaker, stronger), strongest, SETTINGS)
    assert choice.chosen == pytest.approx(START * chosen)
    assert choice.tried == pytest.approx((START, START / 3, START * 3))
    np.testing.assert_allclose(choice.motion_change, [0, weaker, stronger], atol=4 * 0.5 / 20)
    assert choice.motion_error[1] == pytest.approx(0.5 / 20, rel=0.2)
    assert choice.motion[0] == pytest.approx(20, abs=2)


@pytest.mark.parametrize(("weaker", "stronger", "chosen"), [(0.3, -0.5, 1), (3.0, -0.5, 1 / 3), (0.3, -3.0, 1)])
def test_what_all_images_have_in_common_counts_if_it_is_much(weaker, stronger, chosen):
    """Of 100 nats; the motion stays the same, but for a stronger prior that costs a little of it."""
    choice = choose(START, BOTH, motions(0.0, -0.4, common_to_all=(weaker, stronger)), strongest, SETTINGS)
    assert choice.chosen == pytest.approx(START * chosen)


def test_what_is_within_the_error_is_no_reason_for_a_weaker_prior():
    assert choose(START, BOTH, motions(0.5, -3.0, spread=20.0), strongest, SETTINGS).chosen == START


def test_without_motion_priors_get_stronger():
    assert choose(START, BOTH, motions(0.0, 0.0, base=-1.0), strongest, SETTINGS).chosen == START * 3


def test_the_choice_is_said_with_its_evidence():
    text = str(choose(START, BOTH, motions(0.6, -1.0), strongest, SETTINGS))
    assert text.startswith("100 becomes 33.33 (free ")
    assert re.search(r"300: -\d\.\d\d ± 0\.\d\d, of motion -\d", text)
    assert "stays" in str(choose(START, BOTH, motions(0.0, -1.0), strongest, SETTINGS))


@pytest.mark.parametrize(
    ("weaker", "stronger", "chosen"),
    [
        (0.0, 0.0, 1),  # as good is no reason to change
        (-0.5, 0.4, 1),  # less than a twentieth of the motion, and half a hundredth of all
        (-3.0, 2.0, 3),
        (2.0, -3.0, 1 / 3),
        (2.0, 2.5, 3),  # the better of both
    ],
)
def test_the_latents_prior_that_explains_most_is_chosen(weaker, stronger, chosen):
    choice = choose(START, BOTH, motions(weaker, stronger), most_explained, SETTINGS)
    assert choice.chosen == pytest.approx(START * chosen)


def test_trials_come_at_their_time():
    assert epochs_after(SETTINGS.after, 30) == {2, 18}
    assert epochs_after(SETTINGS.after, 2) == {1}
    assert epochs_after(SETTINGS.after, 1) == set()


def make_trials(held_out, owned, settings=SETTINGS):
    return Trials(held_out, settings, (of_priors(settings), of_latents(settings)), owned, seed=0)


def test_a_change_is_tried_to_be_carried_on():
    trials = make_trials(SimpleNamespace(rows=np.arange(10), own=np.arange(10)), np.ones(100, dtype=bool))
    prior, latents = trials.strengths
    weaker = START / 3
    assert trials.factors(prior, weaker, 2, 30) == pytest.approx(BOTH)
    assert trials.factors(prior, START, 2, 30) == pytest.approx(BOTH[:1])  # nothing is stronger than the start
    assert trials.factors(prior, weaker, 5, 30) == ()
    less, same = (choose(START, BOTH, motions(gain, -1.0), strongest, SETTINGS) for gain in (1.4, 0.0))
    trials.decided(prior, less, 2, 30)
    assert trials.factors(prior, weaker, 5, 30) == pytest.approx((1 / 3,))  # weaker still
    assert trials.factors(latents, LATENT_PRIOR, 5, 30) == ()  # each by itself
    trials.decided(prior, same, 5, 30)
    assert trials.factors(prior, weaker, 8, 30) == ()
    trials.decided(prior, less, 24, 30)
    assert trials.factors(prior, weaker, 27, 30) == ()  # too late


def test_the_latents_prior_is_tried_once_with_both_factors():
    trials = make_trials(SimpleNamespace(rows=np.arange(10), own=np.arange(10)), np.ones(100, dtype=bool))
    tried = [epoch for epoch in range(1, 31) if trials.factors(trials.strengths[1], LATENT_PRIOR, epoch, 30)]
    assert tried == [18]
    assert trials.factors(trials.strengths[1], LATENT_PRIOR, 18, 30) == pytest.approx(BOTH)


def test_the_next_strength_is_tried_with_the_one_that_was_chosen():
    reconstruction = SimpleNamespace(
        strength=torch.tensor(START, dtype=torch.float64), latent_prior=torch.tensor(LATENT_PRIOR, dtype=torch.float64)
    )
    held_out = SimpleNamespace(rows=np.arange(10), own=np.arange(10), reconstruction=reconstruction)
    trials = make_trials(held_out, np.ones(100, dtype=bool))
    seen = []

    def go_on(of):
        strength, prior = float(reconstruction.strength), float(reconstruction.latent_prior)
        seen.append((of.name, strength, prior))
        values = np.linspace(99, 101, 400) + 2 * (strength < START) + 2 * (prior > LATENT_PRIOR)
        reconstruction.strength.fill_(START)
        reconstruction.latent_prior.fill_(LATENT_PRIOR)  # as a branch does
        return Tried(values, values - 80)

    said = trials.run(trials.due(18, 30), go_on, 18, 30)
    assert [one for one in seen if one[0] == "latent_prior"] == [
        ("latent_prior", pytest.approx(START / 3), pytest.approx(value)) for value in (1, 1 / 3, 3)
    ]
    assert {name: choice["chosen"] for name, choice in said.items()} == pytest.approx(
        {"prior_strength": START / 3, "latent_prior": 3.0}, rel=1e-3
    )
    assert float(reconstruction.strength) == pytest.approx(START / 3)
    assert float(reconstruction.latent_prior) == pytest.approx(3.0)


def test_particles_of_a_trial_are_those_that_decide_and_others():
    owned = np.ones(1000, dtype=bool)
    owned[::4] = False
    decide = np.arange(0, 1000, 10)
    held_out = SimpleNamespace(rows=decide, own=decide[owned[decide]])
    trials = make_trials(held_out, owned, TrialSettings(share=0.4))
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

    def tried_in_vain(strength, *arguments):
        return replace(choose(strength, *arguments), chosen=strength)

    monkeypatch.setattr(trials_module, "choose", tried_in_vain)
    states = []
    for name, given in (("tried", {}), ("given", {"priors": {"strength": START}, "latent_prior": LATENT_PRIOR})):
        run = finished(simulated, tmp_path / name, latents="variational", beads="residue", **given)
        states.append(RunFolder(run.path).load_checkpoint())
        for what in ("prior_strength", "latent_prior"):
            assert any(what in row for row in run.read_metrics()) == (name == "tried")
    for name in ("reconstruction", "latents", "optimizer", "latent_optimizer", "random"):
        assert_same_bits(*(state[name] for state in states))


def test_what_is_given_is_not_changed(simulated, tmp_path):
    run = finished(simulated, tmp_path / "run", priors={"strength": 12.5}, latent_prior=0.5, beads="ca")
    for name in ("prior_strength", "latent_prior", "beads"):
        assert not any(name in row for row in run.read_metrics())
    state = RunFolder(run.path).load_checkpoint()
    assert state["beads"] == "ca"
    assert float(state["reconstruction"]["strength"]) == 12.5
    assert float(state["reconstruction"]["latent_prior"]) == 0.5
