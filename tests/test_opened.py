import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryomorph
from cryomorph.analysis.settings import AnalysisSettings
from cryomorph.analysis.store import save_analysis
from cryomorph.analyzing import analyze
from cryomorph.errors import InputError
from cryomorph.fitted import FittedRun
from cryomorph.opened import OpenedRun


@pytest.fixture(scope="module")
def run(finished):
    return cryomorph.open_run(finished)


def every_conformation(folder):
    fitted = FittedRun(folder)
    return np.concatenate([x for _, x in fitted.decode(np.arange(len(fitted.latents)))])


def test_importing_the_package_imports_nothing_large():
    """Neither torch nor anything of the package is there before it is asked for."""
    code = (
        "import sys, cryomorph; print(sorted(m for m in sys.modules if m.split('.')[0] in ('cryomorph', 'torch',"
        " 'numpy')), cryomorph.__version__)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == f"['cryomorph'] {cryomorph.__version__}"


def test_the_package_says_what_it_has():
    assert set(cryomorph.__all__) == {"OpenedRun", "__version__", "open_run"}
    assert cryomorph.OpenedRun is OpenedRun
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cryomorph.nonsense  # noqa: B018


def test_a_run_tells_what_it_is(run, finished):
    assert len(run) == 48
    assert repr(run) == f"<run {finished}: 48 particles, 24 residues, 2 latents>"
    np.testing.assert_array_equal(run.latents, np.load(finished / "latents.npy"))
    np.testing.assert_array_equal(run.source_index, np.arange(48))
    assert len(run.template) == 24


@pytest.mark.parametrize(
    "indices", [[3, 1, 40], np.array([5]), slice(2, 30, 7), np.arange(48) % 5 == 0, -1, 7], ids=str
)
def test_conformations_are_those_of_the_run(run, finished, indices):
    expected = every_conformation(finished)[np.atleast_1d(np.arange(48)[indices])]
    found = run.conformations(indices)
    assert found.shape == (len(expected), 24, 3)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_all_conformations_by_default_and_of_any_latents(run, finished):
    np.testing.assert_allclose(run.conformations(), every_conformation(finished), atol=1e-5)
    np.testing.assert_allclose(run.decode(run.latents[:2].tolist()), run.conformations([0, 1]), atol=1e-5)


def test_rows_and_latents_that_are_not_there_are_refused(run):
    with pytest.raises(InputError, match="rows are numbered from 0 to 47"):
        run.conformations([48])
    with pytest.raises(InputError, match=r"latents of shape \(3,\): expected \(b, 2\)"):
        run.decode(np.zeros(3))


def test_poses_are_those_of_the_particle_file(run, simulated):
    with np.load(simulated / "truth.npz") as truth:
        np.testing.assert_allclose(run.poses.rotation, truth["rotation"], atol=1e-5)


def test_uncertainty_and_measures(run):
    assert run.uncertainty is not None
    assert list(run.measures) == ["deviation", "information", "explained", "junk", "elsewhere", "choices"]
    np.testing.assert_array_equal(run.measures["junk"], run.uncertainty.junk)


def test_an_analysis_is_computed_where_none_is_written(run, finished):
    analysis = run.analysis
    assert analysis is run.analysis
    assert not (finished / "analysis").exists()
    assert len(analysis) == 48
    assert run.states == analysis.states
    assert run.particles["state"].shape == (48,)
    np.testing.assert_array_equal(run.particles["junk"], run.uncertainty.junk)
    np.testing.assert_array_equal(run.particles["z2"], run.latents[:, 1])


def test_an_analysis_that_is_written_is_read(copied):
    analyze(copied, AnalysisSettings(states=3), report=False)
    opened = cryomorph.open_run(str(copied))
    assert len(opened.states) == 3
    np.testing.assert_array_equal(np.bincount(opened.particles["state"])[1:], [s.population for s in opened.states])


def test_an_analysis_of_another_run_is_refused(copied, run):
    from dataclasses import replace

    analysis = run.analysis
    fewer = replace(analysis, columns={name: column[:40] for name, column in analysis.columns.items()})
    save_analysis(fewer, run.template, copied / "analysis")
    with pytest.raises(InputError, match="of 40 particles and 24 residues, the run has 48 and 24"):
        cryomorph.open_run(copied).analysis  # noqa: B018


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run there"):
        cryomorph.open_run(tmp_path)


def test_examples_of_the_documentation_run(finished, capsys):
    text = (Path(__file__).parent.parent / "docs" / "analysis.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)).replace("runs/first", str(finished))
    names: dict[str, Any] = {}
    exec(compile(code, "docs/analysis.md", "exec"), names)
    assert names["path"].shape == (16, 24, 3)
    assert len(names["analysis"].states) == 3
    assert len(capsys.readouterr().out.splitlines()) == len(names["run"].states)
