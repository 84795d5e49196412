import json

import numpy as np
import pytest

from cryomorph.analysis.result import Analysis, BodyMotion, Components, Landscape, Motion, State
from cryomorph.analysis.store import load_analysis, save_analysis
from cryomorph.analysis.summary import residue_ranges
from cryomorph.errors import InputError


@pytest.fixture
def analysis(dimer):
    """Random numbers of the right shapes: 9 particles, 32 residues, two latents."""
    random = np.random.default_rng(0)
    n = len(dimer)

    def body(rows, degrees):
        return BodyMotion(np.array(rows), degrees, 0.5, 2.0, np.array([0.0, 0, 1]), np.array([1.0, 2, 3]))

    return Analysis(
        columns={
            "pc1": random.standard_normal(9).astype(np.float32),
            "umap1": np.full(9, np.nan, np.float32),
            "state": np.array([1, 1, 1, 1, 1, 2, 2, 2, 2]),
        },
        components=Components(
            random.standard_normal((n, 3)), random.standard_normal((2, n, 3)), np.array([4.0, 1.0]), 8.0
        ),
        states=tuple(
            State(number, 6 - number, number, random.standard_normal(2), random.standard_normal((n, 3)))
            for number in (1, 2)
        ),
        motions=(Motion("pc1", np.arange(3.0), random.standard_normal((3, 2)), random.standard_normal((3, n, 3))),),
        landscape=Landscape(("pc1", "pc2"), np.arange(4.0), np.arange(3.0), np.array([[0, 1], [np.nan, 2], [3, 4.0]])),
        rmsf=np.arange(n, dtype=float),
        bodies={"pc1": (body(range(20), 0.0), body([20, 21, 22, 25], 30.0))},
    )


def assert_same(a, b):
    if isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif hasattr(a, "__dataclass_fields__"):
        assert type(a) is type(b)
        assert_same(vars(a), vars(b))
    else:
        assert (type(a), a) == (type(b), b)


def test_what_is_saved_is_what_is_loaded(analysis, dimer, tmp_path):
    save_analysis(analysis, dimer, tmp_path / "analysis")
    assert_same(load_analysis(tmp_path / "analysis"), analysis)
    assert sorted(path.name for path in (tmp_path / "analysis").iterdir()) == ["analysis.npz", "summary.json"]


def test_an_analysis_without_states_motions_and_bodies_is_kept_too(analysis, dimer, tmp_path):
    bare = Analysis(analysis.columns, analysis.components, (), (), analysis.landscape, analysis.rmsf)
    save_analysis(bare, dimer, tmp_path)
    assert_same(load_analysis(tmp_path), bare)


def test_summary_is_strict_json_and_names_residues(analysis, dimer, tmp_path):
    save_analysis(analysis, dimer, tmp_path)

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert summary["particles"] == 9
    assert summary["components"][0] == {"name": "pc1", "angstrom": 2.0, "share": 0.5}
    assert summary["states"][1] == {"state": 2, "population": 4, "share": 0.444444, "particle": 2}
    assert [body["residues"] for body in summary["motions"][0]["bodies"]] == ["A:1-20", "B:1-3,B:6"]
    assert summary["rmsf_angstrom"]["most_flexible"][0] == {"residue": "B:12", "rmsf": 31.0}
    assert summary["columns"]["umap1"] == {"known": 0}


def test_stretches_end_where_a_chain_does(dimer):
    assert residue_ranges(dimer, np.array([18, 19, 20, 22])) == "A:19-20,B:1,B:3"


@pytest.mark.parametrize("size", [0, 10, 1000, -30])
def test_a_cut_archive_is_refused(analysis, dimer, tmp_path, size):
    save_analysis(analysis, dimer, tmp_path)
    archive = tmp_path / "analysis.npz"
    archive.write_bytes(archive.read_bytes()[:size])
    with pytest.raises(InputError, match=r"analysis\.npz: not a readable"):
        load_analysis(tmp_path)


def altered(folder, **changes):
    with np.load(folder / "analysis.npz") as archive:
        arrays = dict(archive)
    arrays |= changes
    np.savez(folder / "analysis.npz", **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"column_pc1": np.zeros(8)}, r"column pc1 has shape \(8,\)"),
        ({"rmsf": np.zeros(31)}, "damaged"),
        ({"column_state": None}, "no array column_state"),
        ({"column_names": np.array(["pc1"])}, "no column state"),
        ({"energy": np.zeros((2, 2))}, "landscape has shape"),
        ({"format": np.array(99)}, "another version"),
        ({"state_latents": np.zeros((1, 2))}, "damaged"),
    ],
)
def test_what_does_not_fit_together_is_refused(analysis, dimer, tmp_path, changes, message):
    save_analysis(analysis, dimer, tmp_path)
    altered(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_analysis(tmp_path)


def test_pickled_objects_are_refused(analysis, dimer, tmp_path):
    save_analysis(analysis, dimer, tmp_path)
    altered(tmp_path, rmsf=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="not a readable"):
        load_analysis(tmp_path)


def test_a_missing_analysis_is_told(tmp_path):
    with pytest.raises(InputError, match="run cryomorph analyze first"):
        load_analysis(tmp_path)
