import csv
import json
import re

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from command_line import refused
from cryomorph.analysis.analyse import analyse
from cryomorph.analysis.settings import AnalysisSettings
from cryomorph.analysis.store import load_analysis
from cryomorph.analyzing import analyze
from cryomorph.errors import InputError
from cryomorph.fitted import FittedRun
from cryomorph.opened import open_run
from cryomorph.particles.found import FoundPoses
from cryomorph.run import RunFolder
from ensembles import flat_ensemble, linear_ensemble
from small_runs import folder_state


def test_the_whole_way_from_a_run_to_files(cryomorph, copied):
    before = folder_state(copied)
    result = cryomorph(
        *("analyze", copied, "--states", 2, "--components", 4, "--steps", 5, "--table", "--no-report"),
        *("--distance", "A:1,A:24", "--angle", "A:1,A:12,A:24", "--dihedral", "A:1,A:2,A:3,A:4"),
    )
    assert result.code == 0, result.err
    analysis = load_analysis(copied / "analysis")
    after = folder_state(copied)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("analysis/") for name in after.keys() - before.keys())

    columns = list(analysis.columns)
    assert columns == [
        *(f"pc{number}" for number in (1, 2, 3, 4)),
        *("state", "distance_A1_A24", "angle_A1_A12_A24", "dihedral_A1_A2_A3_A4"),
        *("deviation", "information", "explained", "junk", "elsewhere", "choices"),
        *("latent_pc1", "latent_pc2", "z1", "z2"),
    ]
    fitted = FittedRun(copied)
    x = fitted.decode_latents(fitted.latents)
    np.testing.assert_allclose(
        analysis.columns["distance_A1_A24"], np.linalg.norm(x[:, 0] - x[:, 23], axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(analysis.rmsf, np.sqrt(x.astype(np.float64).var(0).sum(-1)), rtol=1e-3)
    assert [len(motion.place) for motion in analysis.motions] == [5] * len(analysis.motions)
    assert analysis.motions[-1].name == "path"

    summary = json.loads((copied / "analysis" / "summary.json").read_text())
    assert [state["population"] for state in summary["states"]] == [state.population for state in analysis.states]
    assert sum(state.population for state in analysis.states) == 48
    assert re.search(r"pc1 +│ +\d\.\d\d Å │ +\d+\.\d%", result.out)
    for state in analysis.states:
        assert re.search(rf"{state.number} │ +{state.population} │", result.out)
    for name in ("summary.json", "particles.csv", "open_in_chimerax.cxc"):
        assert str(copied / "analysis" / name) in result.out
        assert (copied / "analysis" / name).is_file()
    assert "report" not in result.out

    with (copied / "analysis" / "particles.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["row", "source_row", *columns]
    table = np.array(rows, dtype=float)
    np.testing.assert_allclose(table[:, 0], np.arange(48))
    for number, name in enumerate(columns, start=2):
        np.testing.assert_allclose(table[:, number], analysis.columns[name], rtol=1e-5, atol=1e-30)


def test_a_second_analysis_takes_the_place_of_the_first(copied):
    analyze(copied, AnalysisSettings(states=4), table=True, report=False)
    first = folder_state(copied)
    analyze(copied, AnalysisSettings(states=2), report=False)
    second = folder_state(copied)
    assert "analysis/states/state_4.cif" in first.keys() - second.keys()
    assert "analysis/particles.csv" not in second
    assert len(load_analysis(copied / "analysis").states) == 2
    analyze(copied, AnalysisSettings(states=4), table=True, report=False)
    assert folder_state(copied)["analysis/particles.csv"] == first["analysis/particles.csv"]


def test_the_report_comes_last(copied, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "cryomorph.analyzing.write_report", lambda folder, **rest: seen.append(load_analysis(folder / "analysis"))
    )
    analyze(copied)
    assert len(seen[0]) == 48
    analyze(copied, report=False)
    assert len(seen) == 1


def test_a_run_without_posterior_has_no_such_columns(copied):
    RunFolder(copied).posterior.unlink()
    columns = analyze(copied, report=False).columns
    assert "junk" not in columns
    assert {"pc1", "state", "z1"} <= columns.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--states", "many"], "--states 'many': expected a number, or auto"),
        (["--states", "0"], "states"),
        (["--distance", "A:1"], "--distance 'A:1': expected 2 residues"),
        (["--distance", "A:1,C:4"], "no chain 'C'; there are A"),
        (["--angle", "A:1,A:2,A:77"], "no residue A:77"),
        (["--percentiles", "95,5"], "LOW the smaller"),
        (["--percentiles", "a"], "expected LOW,HIGH"),
        (["--components", "999"], "components"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_written(cryomorph, copied, arguments, message):
    refused(cryomorph("analyze", copied, *arguments), message)
    assert not (copied / "analysis").exists()


def test_what_is_no_run_is_refused(cryomorph, tmp_path):
    refused(cryomorph("analyze", tmp_path), "no run there")


def test_a_run_that_is_not_finished_is_refused(cryomorph, copied):
    RunFolder(copied).latents.unlink()
    refused(cryomorph("analyze", copied), "training is not complete")


def test_too_few_particles_are_refused(helix):
    with pytest.raises(InputError, match="9 particles: an analysis needs at least 10"):
        analyse(linear_ensemble(helix, np.zeros((9, 1)), np.ones((1, 24, 3))))


def test_latents_that_are_no_numbers_are_refused(helix):
    latents = np.random.default_rng(0).standard_normal((20, 2))
    latents[7, 1] = np.nan
    with pytest.raises(InputError, match="latents of 1 particles are no numbers, the first in row 7"):
        analyse(linear_ensemble(helix, latents, np.ones((2, 24, 3))))


def test_particles_that_are_all_alike_have_an_analysis(helix):
    analysis = analyse(linear_ensemble(helix, np.zeros((20, 1)), np.ones((1, 24, 3))))
    assert [state.population for state in analysis.states] == [20]
    assert analysis.components.total == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(analysis.rmsf, 0, atol=1e-3)


def test_the_same_analysis_twice(helix):
    ensemble = flat_ensemble(helix, np.random.default_rng(1).standard_normal((300, 3)) * [4, 2, 1])
    first, second = analyse(ensemble), analyse(ensemble)
    for name, column in first.columns.items():
        np.testing.assert_array_equal(column, second.columns[name])
    np.testing.assert_array_equal(first.motions[-1].coordinates, second.motions[-1].coordinates)


def test_order_of_particles_does_not_matter(helix):
    random = np.random.default_rng(2)
    places = random.standard_normal((300, 3)) * [4, 2, 1]
    order = random.permutation(300)
    first, second = analyse(flat_ensemble(helix, places)), analyse(flat_ensemble(helix, places[order]))
    np.testing.assert_allclose(second.columns["pc1"], first.columns["pc1"][order], atol=1e-3)
    np.testing.assert_allclose(second.rmsf, first.rmsf, rtol=1e-4)


def test_settings_are_checked():
    with pytest.raises(ValidationError, match="LOW the smaller"):
        AnalysisSettings(percentiles=(50, 50))
    with pytest.raises(ValidationError, match="Extra inputs"):
        AnalysisSettings(clusters=3)


def test_where_poses_were_found_conformations_are_compared_superposed(copied):
    """Otherwise a rotation that poses make up for would count as a motion."""
    opened = open_run(copied)
    ensemble = opened.ensemble
    model = opened.fitted.model
    plain = model.displacement

    def turned(z):
        axis = torch.tensor([0.0, 0, 0.2])
        turns = torch.from_numpy(Rotation.from_rotvec((z[:, :1] * axis).numpy()).as_matrix()).float()
        return (model.template + plain(z)) @ turns.transpose(1, 2) - model.template

    before = analyse(ensemble)
    model.displacement = turned
    assert analyse(ensemble).components.total > 1.5 * before.components.total
    count = len(opened)
    opened.fitted.found_poses = FoundPoses(np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 2)), np.zeros(count))
    assert analyse(ensemble).components.total < 1.1 * before.components.total
