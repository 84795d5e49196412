"""The command check and its report, and the currency that hypotheses are compared in."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from check_cases import everything, simulated_tripod
from command_line import refused
from cryomorph.checking import Report, check
from cryomorph.checks.coverage import sampled
from cryomorph.checks.finding import Finding
from cryomorph.checks.hypothesis import Hypothesis, Scorer, shell_strengths, standard_errors
from cryomorph.checks.sample import read_sample
from cryomorph.config import ParticlesConfig, TemplateConfig, open_particles
from cryomorph.progress import Silent
from cryomorph.structure.beads import bead_model
from cryomorph.structure.model import read_template
from cryomorph.structure.write import write_template


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tripod")


@pytest.fixture(scope="module")
def tripod(folder):
    return simulated_tripod(folder)


@pytest.fixture(scope="module")
def star(tripod, tmp_path_factory):
    return tripod.star(tmp_path_factory.mktemp("star"))


def scorer_of(star, template):
    stack = open_particles(ParticlesConfig(path=star))
    sample = read_sample(stack, np.arange(len(stack)), 7.0, Silent())
    beads = bead_model(template, "residue")(torch.from_numpy(template.coordinates).float()[None])
    return Scorer(sample, beads)


def test_a_prediction_that_has_nothing_to_do_with_images_gains_nothing(tripod, folder, tmp_path):
    noise = np.random.default_rng(5).standard_normal(tripod.images.shape)
    scorer = scorer_of(replace(tripod, images=noise).star(tmp_path), read_template(folder / "template.cif"))
    assert scorer.score(Hypothesis()).mean < 0.2
    assert scorer.score(Hypothesis()).z < 3


def test_strengths_are_least_squares_without_noise():
    power = np.random.default_rng(0).uniform(1, 2, (50, 3)) * 1e6
    found = shell_strengths(power * [0.5, 2.0, -1.0], power)
    np.testing.assert_allclose(found, [0.5, 2.0, 0.0], rtol=1e-4)


def test_standard_errors_are_those_of_a_mean():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert standard_errors(values) == pytest.approx(2.5 / (np.std(values, ddof=1) / 2))
    assert standard_errors(np.zeros(4)) == 0


def test_a_template_that_is_turned_and_moved_is_the_hypothesis_that_says_so(tripod, folder, star):
    template = read_template(folder / "template.cif")
    turn, move = Rotation.from_rotvec([0.3, -0.2, 0.5]), (3.0, -2.0, 1.0)
    said = scorer_of(star, template).score(Hypothesis(turned=(0.3, -0.2, 0.5), moved=move))
    done = scorer_of(star, template.transformed(turn.as_matrix(), np.array(move))).score(Hypothesis())
    np.testing.assert_allclose(said.nats, done.nats, atol=1e-2)


def test_a_row_on_is_a_row_on(tripod, folder, star, tmp_path):
    template = read_template(folder / "template.cif")
    moved = tripod.poses_of(np.roll(everything(tripod), 1)).star(tmp_path)
    found = scorer_of(moved, template).score(Hypothesis(order=1))
    np.testing.assert_allclose(found.nats, scorer_of(star, template).score(Hypothesis()).nats, atol=1e-6)


def test_a_side_view_says_nothing_along_itself():
    """Views about one axis see every direction, views along it only those at right angles to it."""
    angles = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    about = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    assert sampled(about).min() > 0
    along = sampled(np.tile([0.0, 0.0, 1.0], (10, 1)))
    assert (along == 0).mean() == pytest.approx(0.9, abs=0.01)  # |cos| > 0.1


def test_what_was_read(folder, star):
    read = check(ParticlesConfig(path=star, first=100), TemplateConfig(path=folder / "template.cif")).read
    assert read["particles"] == "100 of 120 in the file"
    assert read["box"] == "36 pixels"
    assert read["pixel size"] == "2.5 Å"
    assert read["template"] == "68 residues, chains A, B, C"


def test_a_template_elsewhere_is_found_and_nothing_else_is_tested(folder, star, tmp_path):
    write_template(tmp_path / "far.cif", read_template(folder / "template.cif").moved(np.array([500.0, 0, 0])))
    report = check(ParticlesConfig(path=star), TemplateConfig(path=tmp_path / "far.cif"))
    assert report["docking"].verdict == "wrong"
    assert "dock it" in report["docking"].sentence
    assert report["hand"].verdict == "not tested"


@pytest.mark.parametrize("change", ["moved", "turned"])
def test_a_template_that_is_not_docked_is_found(folder, star, tmp_path, change):
    template = read_template(folder / "template.cif")
    turn = Rotation.from_rotvec([1.2, 0.4, -0.3]).as_matrix()
    other = template.moved(np.array([9.0, -9, 5])) if change == "moved" else template.transformed(turn, np.zeros(3))
    write_template(tmp_path / "other.cif", other)
    report = check(ParticlesConfig(path=star), TemplateConfig(path=tmp_path / "other.cif"))
    assert report["docking"].verdict == "wrong"
    assert [finding.name for finding in report.findings if finding.verdict in ("wrong", "suspect")] == ["docking"]
    evidence = report["docking"].evidence
    if change == "moved":
        assert evidence["best_place_off_angstrom"] == pytest.approx(np.linalg.norm([9, 9, 5]), abs=2.5)
    else:
        assert evidence["best_turned_degrees"] == pytest.approx(np.rad2deg(np.linalg.norm([1.2, 0.4, 0.3])), abs=8)


def test_two_mistakes_are_both_found(tripod, folder, tmp_path):
    broken = replace(tripod.poses_of(np.roll(everything(tripod), 1)), images=-tripod.images)
    report = check(ParticlesConfig(path=broken.star(tmp_path)), TemplateConfig(path=folder / "template.cif"))
    assert {f.name for f in report.findings if f.verdict == "wrong"} == {"contrast", "row order"}


def test_the_command_ends_with_1_and_says_how_to_mend(cryomorph, tripod, folder, star, tmp_path):
    good = cryomorph("check", star, "--template", folder / "template.cif", "--json", tmp_path / "good.json")
    assert good.code == 0, good.err
    assert "verdict: good" in good.out
    assert json.loads((tmp_path / "good.json").read_text())["verdict"] == "good"
    dark = replace(tripod, images=-tripod.images).star(tmp_path)
    bad = cryomorph("check", dark, "--template", folder / "template.cif")
    assert bad.code == 1
    assert "mend: --invert" in bad.out
    assert "Traceback" not in bad.err
    mended = cryomorph("check", dark, "--template", folder / "template.cif", "--invert")
    assert mended.code == 0


def test_what_cannot_be_read_ends_with_2(cryomorph, folder, star, tmp_path):
    refused(cryomorph("check", tmp_path / "none.star", "--template", folder / "template.cif"), "no such file")
    refused(cryomorph("check", star, "--template", tmp_path / "none.cif"), r"none\.cif")


def test_where_no_image_was_compared_the_verdict_is_not_good():
    read = Finding("CTF columns", "good", "usual", {}, "")
    nothing = Finding("docking", "not tested", "no poses", {}, "")
    assert Report({}, (read, nothing)).verdict == "not tested"
    assert Report({}, (read, replace(nothing, verdict="good"))).verdict == "good"
    assert Report({}, (replace(read, verdict="suspect"), nothing)).verdict == "suspect"
