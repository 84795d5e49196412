"""Which beads are chosen for images that are made of known ones, and that a run keeps to its choice."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryomorph import choices as choices_module
from cryomorph.bead_sets import BeadSets
from cryomorph.config import parse_config
from cryomorph.demo import MODEL, demo_data
from cryomorph.fitted import FittedRun
from cryomorph.held_out import HeldOut, ShellTerms
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.poses.known import KnownPoses, KnownPosesSettings
from cryomorph.reconstruction import Reconstruction
from cryomorph.run import RunFolder
from cryomorph.selection import FreeSettings, Selection
from cryomorph.structure.beads import BEAD_KINDS, bead_model
from cryomorph.structure.model import read_template
from cryomorph.trials import TrialSettings
from cryomorph.workflows import train
from particle_arrays import ArrayStack
from projected_images import batch_of
from small_runs import assert_same_run, metrics_without_times, run_settings

BOX, IMAGES, CPU = 48, 96, torch.device("cpu")


class AsItIs(torch.nn.Module):
    """Latents and conformations in one: every image shows the template."""

    sees_images = False

    def __init__(self, template):
        super().__init__()
        self.template = torch.from_numpy(template.coordinates).float()

    def forward(self, batch):
        return self.template.expand(len(batch), -1, -1)


@pytest.fixture(scope="module")
def adk():
    return read_template(demo_data(MODEL))


def add_up(*tensors):
    """Of one process."""


def comparison(template, images_of, noise, *, start="residue", pixel_size=2.2, groups=1, settings=None):
    """Images made of one set of beads, and a model with another."""
    beads = bead_model(template, images_of)
    position = beads.positions(torch.from_numpy(template.coordinates).float()[None])[0].double().numpy()
    known = (beads.amplitude.double().numpy(), beads.width.double().numpy())
    batch, *_ = batch_of(position, *known, IMAGES, box=BOX, pixel_size=pixel_size, noise=noise, groups=groups)
    likelihood = Direct(DirectSettings(), groups)
    batch.image /= noise * (batch.image.std() / (1 + noise**2) ** 0.5)
    likelihood.gain.fill_(0.01)
    selection = Selection.work(BOX, FreeSettings(), 0)
    likelihood.selection = selection
    latents = AsItIs(template)
    poses = KnownPoses(KnownPosesSettings(), IMAGES)
    as_they_are = torch.nn.Identity()
    as_they_are.template = torch.from_numpy(template.coordinates).float()
    reconstruction = Reconstruction(as_they_are, bead_model(template, start), poses, likelihood, [], 1.0)
    owned = np.ones(IMAGES, dtype=bool)
    held_out = HeldOut(reconstruction, latents, ArrayStack(batch), selection, IMAGES, owned, CPU)
    return BeadSets(held_out, template, settings or TrialSettings(), 0.0)


@pytest.mark.parametrize("start", ["ca", "residue"])
@pytest.mark.parametrize("made_of", BEAD_KINDS)
def test_the_beads_that_images_are_made_of_are_chosen(adk, made_of, start):
    sets = comparison(adk, made_of, noise=1.0, start=start)
    choice = sets.choose(add_up)
    assert choice.tried == BEAD_KINDS
    assert choice.chosen == made_of == sets.held_out.reconstruction.molecule.kind
    assert choice.free[BEAD_KINDS.index(made_of)] == max(choice.free)
    assert f"beads: {made_of} (ca " in str(choice)
    assert choice.as_dict()["chosen"] == made_of


@pytest.mark.parametrize("start", ["ca", "residue"])
def test_where_images_tell_no_difference_beads_stay(adk, start):
    """Atoms at a resolution of 20 Å and much noise: that there are better beads is not to be seen."""
    assert comparison(adk, "atom", noise=10.0, pixel_size=10.0, start=start).choose(add_up).chosen == start


def test_neither_gains_nor_noise_of_optics_groups_decide(adk):
    """Beads are compared at gains of their own, whatever the unit of their amplitudes."""
    sets = comparison(adk, "residue", noise=1.0, groups=3)
    likelihood = sets.held_out.reconstruction.likelihood
    first = sets.choose(add_up)
    likelihood.gain.mul_(7.0)
    second = sets.choose(add_up)
    np.testing.assert_allclose(first.free, second.free, rtol=1e-4)
    assert first.chosen == second.chosen == "residue"


def test_gains_of_shells_come_from_what_the_fit_saw():
    """Written out for two images and shells, the second of which would have a negative gain."""
    cross, power = np.array([[2.0, -1.0], [4.0, -3.0]]), np.array([[1.0, 1.0], [2.0, 1.0]])
    free_cross, free_power = np.array([[3.0, 5.0], [1.0, 5.0]]), np.array([[1.0, 2.0], [2.0, 2.0]])
    found = ShellTerms(cross, power, free_cross, free_power).explained()
    np.testing.assert_allclose(found, [2 * 3 - 0.5 * 4 * 1, 2 * 1 - 0.5 * 4 * 2])


def test_sets_are_compared_once():
    sets = BeadSets(SimpleNamespace(), SimpleNamespace(), TrialSettings(), 0.0)
    due = [epoch for epoch in range(1, 31) if sets.due(epoch, 30)]
    assert due == [round(TrialSettings().beads_after * 30)]


CHOSEN = {"training": {"epochs": 4, "batch_size": 8}, "trials": {"beads_after": 0.25}}


@pytest.fixture(scope="module")
def whole(simulated, tmp_path_factory):
    """A complete run that chose its beads."""
    out = tmp_path_factory.mktemp("beads") / "run"
    train(parse_config(run_settings(simulated, **CHOSEN), "test"), out)
    return out


def other_than_at_the_start(monkeypatch):
    """Let any difference count, so that other beads than at the start are taken whatever images say."""
    choose = BeadSets.choose

    def ca(sets, add_up):
        choice = choose(sets, add_up)
        reconstruction = sets.held_out.reconstruction
        reconstruction.use_molecule(bead_model(sets.template, "ca"))
        return type(choice)(**(vars(choice) | {"chosen": "ca"}))

    monkeypatch.setattr(choices_module.BeadSets, "choose", ca)


def test_a_run_writes_down_its_beads_and_why(whole):
    row = next(row for row in metrics_without_times(whole) if "beads" in row)
    assert row["epoch"] == 1
    assert row["beads"]["tried"] == list(BEAD_KINDS)
    assert len(row["beads"]["free"]) == len(row["beads"]["free_error"]) == 3
    assert RunFolder(whole).load_checkpoint()["beads"] == row["beads"]["chosen"]
    assert FittedRun(whole).reconstruction.molecule.kind == row["beads"]["chosen"]


def test_a_run_goes_on_with_the_beads_it_chose_wherever_it_was_stopped(simulated, tmp_path, monkeypatch):
    other_than_at_the_start(monkeypatch)
    config = parse_config(run_settings(simulated, **CHOSEN), "test")
    train(config, tmp_path / "whole")
    assert RunFolder(tmp_path / "whole").load_checkpoint()["beads"] == "ca"
    fitted = FittedRun(tmp_path / "whole")
    assert (fitted.reconstruction.molecule.kind, fitted.config.beads) == ("ca", "auto")

    class StoppedError(Exception):
        pass

    save, saves = RunFolder.save_checkpoint, []

    def stop(folder, state):
        saves.append(state["epoch"])
        if len(saves) == at:
            raise StoppedError
        save(folder, state)

    for at in (1, 2, 3):  # before the choice is in a checkpoint, and after
        saves.clear()
        monkeypatch.setattr(RunFolder, "save_checkpoint", stop)
        with pytest.raises(StoppedError):
            train(config, tmp_path / f"stopped{at}")
        monkeypatch.setattr(RunFolder, "save_checkpoint", save)
        train(config, tmp_path / f"stopped{at}")
        assert_same_run(tmp_path / "whole", tmp_path / f"stopped{at}")


def test_a_run_begins_with_the_beads_of_the_one_it_starts_from(simulated, tmp_path, monkeypatch):
    other_than_at_the_start(monkeypatch)
    train(parse_config(run_settings(simulated, **CHOSEN), "test"), tmp_path / "first")
    monkeypatch.undo()
    later = run_settings(simulated, start_from=tmp_path / "first", training={"epochs": 1, "batch_size": 8})
    train(parse_config(later, "test"), tmp_path / "later")
    assert RunFolder(tmp_path / "later").load_checkpoint()["beads"] == "ca"
    train(parse_config(later | {"beads": "residue"}, "test"), tmp_path / "others")
    assert RunFolder(tmp_path / "others").load_checkpoint()["beads"] == "residue"
