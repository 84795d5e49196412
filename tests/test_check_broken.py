"""Data broken on purpose, each in one way: the right test says so, and no other."""

import warnings

import pytest

from check_cases import BROKEN, HEALTHY, simulated_tripod
from cryomorph.checking import check
from cryomorph.config import ParticlesConfig, TemplateConfig

FOLLOWS = {
    "defocus < 0": {"CTF columns"},  # which looks at the numbers alone
    "defocus in nm": {"CTF columns"},
    "amplitude contrast": {"pixel size"},  # zeros of the CTF in other places
}
AS_CS = ("inverted", "mirrored z", "inverse", "one row on", "shifts in pixels", "defocus in nm", "copies")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tripod")


@pytest.fixture(scope="module")
def tripod(folder):
    return simulated_tripod(folder)


def judged(path, folder):
    report = check(ParticlesConfig(path=path), TemplateConfig(path=folder / "template.cif"))
    return report, {finding.name for finding in report.findings if finding.verdict in ("wrong", "suspect")}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("program", ["star", "cs"])
def test_healthy_data_are_not_flagged(tripod, folder, tmp_path, name, program):
    report, flagged = judged(getattr(HEALTHY[name](tripod), program)(tmp_path), folder)
    assert flagged == set()
    assert report.verdict == "good"
    tested = {finding.name for finding in report.findings if finding.verdict == "good"}
    assert {"contrast", "docking", "hand", "rotations", "row order", "shifts", "pixel size"} <= tested


@pytest.mark.parametrize(("name", "program"), [(name, "star") for name in BROKEN] + [(name, "cs") for name in AS_CS])
def test_what_is_broken_is_found(tripod, folder, tmp_path, name, program):
    test, change, mend = BROKEN[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Data array contains NaN", RuntimeWarning)  # says who writes the file
        path = getattr(change(tripod), program)(tmp_path)
    report, flagged = judged(path, folder)
    assert test in flagged
    assert flagged <= {test} | FOLLOWS.get(name, set())
    assert mend in report[test].mend
    assert report[test].verdict == ("suspect" if name in ("top views", "amplitude contrast") else "wrong")


def test_the_pixel_size_is_measured(tripod, folder, tmp_path):
    path = BROKEN["pixel size x 1.5"][1](tripod).star(tmp_path)
    mend = judged(path, folder)[0]["pixel size"].mend
    assert float(mend.split()[1].rstrip(",")) == pytest.approx(2.5, rel=0.03)
