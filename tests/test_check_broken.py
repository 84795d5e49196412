"""Data broken on purpose, each in one way: the right test says so, and no other."""

import warnings

import pytest

from check_cases import BROKEN, HEALTHY, simulated_tripod
from cryomorph.checking import check
from cryomorph.checks import coverage, images, optics
from cryomorph.checks.turning import _orientations
from cryomorph.config import ParticlesConfig, TemplateConfig, open_particles
from cryomorph.progress import Silent

FOLLOWS = {
    "defocus < 0": {"CTF columns"},  # which looks at the numbers alone
    "defocus in nm": {"CTF columns"},
}
AS_CS = ("mirrored z", "inverse", "shifts in pixels", "defocus in nm")
OF_THE_FILE = {"dead images", "duplicates", "orientations", "CTF columns"}
"""Tests that compare nothing with the template."""
COMPARED = [name for name in BROKEN if BROKEN[name][0] not in OF_THE_FILE]


@pytest.fixture(autouse=True)
def few_orientations(monkeypatch):
    """A template that is docked needs no fine search for other orientations."""
    monkeypatch.setattr("cryomorph.checks.turning.ORIENTATIONS", 40)
    monkeypatch.setattr("cryomorph.checks.turning.KEPT", 1)
    _orientations.cache_clear()
    yield
    _orientations.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tripod")


@pytest.fixture(scope="module")
def tripod(folder):
    return simulated_tripod(folder)


def judged(path, folder):
    report = check(ParticlesConfig(path=path), TemplateConfig(path=folder / "template.cif"))
    return report, {finding.name for finding in report.findings if finding.verdict in ("wrong", "suspect")}


@pytest.mark.parametrize(("name", "program"), [*((name, "star") for name in HEALTHY), ("as it is", "cs")])
def test_healthy_data_are_not_flagged(tripod, folder, tmp_path, name, program):
    report, flagged = judged(getattr(HEALTHY[name](tripod), program)(tmp_path), folder)
    assert flagged == set()
    assert report.verdict == "good"
    tested = {finding.name for finding in report.findings if finding.verdict == "good"}
    assert {"contrast", "docking", "hand", "rotations", "row order", "shifts", "pixel size"} <= tested


@pytest.mark.parametrize(
    ("name", "program"), [*((name, "star") for name in COMPARED), *((name, "cs") for name in AS_CS)]
)
def test_what_is_broken_is_found(tripod, folder, tmp_path, name, program):
    test, change, mend = BROKEN[name]
    report, flagged = judged(getattr(change(tripod), program)(tmp_path), folder)
    assert test in flagged
    assert flagged <= {test} | FOLLOWS.get(name, set())
    assert mend in report[test].mend
    assert report[test].verdict == "wrong"
    if test == "pixel size":
        assert float(report[test].mend.split()[1].rstrip(",")) == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize("name", ["as it is", *(name for name in BROKEN if name not in COMPARED)])
@pytest.mark.parametrize("program", ["star", "cs"])
def test_what_is_broken_in_the_file_is_found(tripod, tmp_path, name, program):
    test, change, mend = BROKEN.get(name, ("", HEALTHY.get(name), ""))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Data array contains NaN", RuntimeWarning)  # says who writes the file
        path = getattr(change(tripod), program)(tmp_path)
    stack = open_particles(ParticlesConfig(path=path))
    seen = images.look_at(stack, Silent())
    findings = [
        images.dead(stack, seen),
        images.duplicates(stack, seen),
        coverage.finding(stack),
        optics.finding(stack),
    ]
    found = {finding.name: finding for finding in findings if finding.verdict != "good"}
    assert set(found) == ({test} if test else set())
    if test:
        assert mend in found[test].mend
        assert found[test].verdict == ("suspect" if name in ("top views", "amplitude contrast") else "wrong")
