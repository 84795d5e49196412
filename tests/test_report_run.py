"""`write_report` on a real run: what is read from its folder, and what may be gone."""

import hashlib
import json

import numpy as np
import pytest
import torch
import yaml

from command_line import refused
from cryomorph.analysis.store import save_analysis
from cryomorph.errors import InputError
from cryomorph.fitted import FittedRun
from cryomorph.fourier import image_coefficients
from cryomorph.report.examples import image_of, low_pass
from cryomorph.reporting import write_report
from report_cases import analysis_of, data_of


@pytest.fixture
def analysed(copied):
    fitted = FittedRun(copied)
    save_analysis(analysis_of(fitted.template, len(fitted.source_index)), fitted.template, fitted.run.analysis)
    return copied


def change_config(run, **particles):
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["particles"] |= particles
    path.write_text(yaml.safe_dump(config))


def written(run):
    path = write_report(run)
    assert path == run / "report.html"
    return data_of(path.read_text())


def test_everything_there_is(analysed):
    found = written(analysed)
    assert found["title"] == f"{analysed.parent.name}/run"
    assert found["views"]["particles"] == 48
    assert 0.5 <= found["defocus"]["median"] <= 0.8
    assert len(found["convergence"]["epoch"]) == 2
    assert found["certainty"]["particles"] == 48
    assert found["sequence"]["secondary"].count("H") > 15
    shown = found["examples"]["particles"]
    assert len(shown) == 6
    assert [particle["state"] for particle in shown[:2]] == [1, 2]
    assert len({particle["number"] for particle in shown}) == 6
    # Clear images of a molecule at known poses: the model is in them.
    assert np.median([particle["correlation"] for particle in shown]) > 0.5


def test_images_that_are_gone_are_left_out_and_said(analysed, simulated, tmp_path):
    text = (simulated / "particles.star").read_text().replace("particles.mrcs", "gone.mrcs")
    star = tmp_path / "particles.star"
    star.write_text(text)
    change_config(analysed, path=str(star))
    record = dict(np.load(analysed / "particles.npz"))
    record["digests"] = np.array([hashlib.sha256(star.read_bytes()).hexdigest()])
    np.savez(analysed / "particles.npz", **record)
    found = written(analysed)
    assert found["examples"] is None
    assert found["views"]["particles"] == 48
    assert any("gone.mrcs" in remark["text"] for remark in found["remarks"])


def test_a_particle_file_that_is_gone(analysed, tmp_path):
    change_config(analysed, path=str(tmp_path / "moved.star"))
    found = written(analysed)
    assert [found[name] for name in ("views", "defocus", "examples")] == [None] * 3
    assert any("moved.star" in remark["text"] for remark in found["remarks"])


def test_a_run_on_half_of_the_data_has_the_verdict(analysed):
    residues = len(FittedRun(analysed).template)
    home = analysed.rename(analysed.parent / "half1")
    numbers = {
        "verdict": "no motion beyond noise: 0.1 Å, at most 0.3 Å",
        "particles_compared": 48,
        "motion": {"resolved": False},
        "agreement": {},
        "mean": {},
        "states": {},
    }
    (home.parent / "halves.json").write_text(json.dumps(numbers))
    curve = np.full(residues, 0.1)
    np.savez(
        home.parent / "halves.npz",
        motion=curve,
        covariance_error=curve,
        rmsd_between_models=curve,
        places=np.zeros((48, 2)),
    )
    found = written(home)
    assert found["halves"]["compared"] == 48
    assert "no motion beyond noise" in found["remarks"][0]["text"]


def test_a_run_that_was_not_analysed(copied, cryomorph):
    refused(cryomorph("report", copied), "analyze")


def test_an_analysis_of_other_particles(analysed):
    fitted = FittedRun(analysed)
    save_analysis(analysis_of(fitted.template, 9), fitted.template, fitted.run.analysis)
    with pytest.raises(InputError, match="cryomorph analyze"):
        write_report(analysed)


def test_the_command(analysed, cryomorph):
    result = cryomorph("report", analysed)
    assert result.code == 0, result.err
    assert "report.html" in result.out
    before = (analysed / "report.html").read_bytes()
    assert cryomorph("report", analysed).code == 0
    assert (analysed / "report.html").read_bytes() == before


@pytest.mark.parametrize("box", [15, 16])
def test_images_come_back_from_their_coefficients(box):
    x, y = np.meshgrid(np.arange(box) - box // 2, np.arange(box) - box // 2)
    image = np.exp(-((x - 2.0) ** 2 + (y + 1.0) ** 2) / 8)[None]
    back = image_of(image_coefficients(torch.from_numpy(image)).numpy(), box)
    np.testing.assert_allclose(back, image, atol=2e-3)  # what is beyond the circle, and Nyquist, is gone


def test_low_pass_keeps_what_is_coarse_and_nothing_that_is_fine():
    x = np.arange(64)
    coarse, fine = np.sin(2 * np.pi * 2 * x / 64), np.sin(2 * np.pi * 16 * x / 64)  # periods of 64 and 8 Å at 2 Å
    image = np.tile(coarse + fine, (64, 1))[None]
    np.testing.assert_allclose(low_pass(image, np.array([2.0]), 20.0)[0, 0], coarse, atol=1e-9)
