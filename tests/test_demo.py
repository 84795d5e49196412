import importlib.util

import gemmi
import numpy as np
import pytest

import cryomorph.demo
from cryomorph.demo import MODEL, TOPOLOGY, TRAJECTORY, demo, demo_data
from cryomorph.errors import InputError
from cryomorph.simulate import SimulationSettings


def test_without_the_package_the_demo_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package MDAnalysisTests: pip install 'cryomorph\[demo\]'"):
        demo_data(TRAJECTORY)


@pytest.fixture
def adenylate_kinase():
    if importlib.util.find_spec("MDAnalysisTests") is None:
        pytest.skip("MDAnalysisTests is not installed: pip install 'cryomorph[demo]'")


@pytest.mark.parametrize("name", [TRAJECTORY, TOPOLOGY, MODEL])
def test_the_demo_finds_its_data(adenylate_kinase, name):
    assert demo_data(name).is_file()


def stopped(*args):
    raise KeyboardInterrupt


def test_a_small_demo_goes_on_and_leaves_what_it_promises(adenylate_kinase, monkeypatch, tmp_path):
    settings = SimulationSettings(images_per_conformation=1, box=24, pixel_size=4.0, seed=1)
    monkeypatch.setattr(cryomorph.demo, "SIMULATION", settings)
    monkeypatch.setattr(cryomorph.demo, "TRAINING", {"epochs": 1, "batch_size": 51})
    with monkeypatch.context() as patch:
        patch.setattr("cryomorph.simulate.simulation.write_template", stopped)
        with pytest.raises(KeyboardInterrupt):
            demo(tmp_path)
    assert list((tmp_path / "data").iterdir()) == []
    result = demo(tmp_path)
    assert result.evaluation.images == 102
    # Closed to open, a fact about these data: the best single conformation is 2.19 Å away on average.
    assert result.evaluation.rmsd_constant == pytest.approx(2.19, abs=0.02)
    movie = gemmi.read_structure(str(result.movie))
    assert len(movie) == 102
    assert {len(list(model.all())) for model in movie} == {214}
    opened = [line.split()[1] for line in result.script.read_text().splitlines() if line.startswith("open ")]
    assert len(opened) == 2
    assert all((result.script.parent / name).is_file() for name in opened)
    assert result.report.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    images = (tmp_path / "data" / "particles.mrcs").stat()
    again = demo(tmp_path)
    assert (tmp_path / "data" / "particles.mrcs").stat() == images
    assert again.evaluation == result.evaluation
    assert np.load(result.run / "latents.npy").shape == (102, 8)
