"""Selections of particles: by state, by condition, by row; what is written of them, and that it reads back."""

import csv
import shutil

import gemmi
import numpy as np
import pytest

from command_line import refused
from cryomorph.analysis.settings import AnalysisSettings
from cryomorph.analysis.store import save_analysis
from cryomorph.analysis.where import matching
from cryomorph.choosing import particle_columns
from cryomorph.config import parse_config
from cryomorph.errors import InputError
from cryomorph.export import file_columns, write_table
from cryomorph.fitted import FittedRun
from cryomorph.geometry import matrix_to_cryosparc
from cryomorph.opened import open_run
from cryomorph.particles.cryosparc import read_cryosparc
from cryomorph.particles.star import read_star
from cryomorph.results import export_conformations, export_particles, export_table
from cryomorph.workflows import train
from particle_files import records, write_cs
from small_runs import run_settings

PC = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, np.nan])
COLUMNS = {"pc1": PC, "state": np.array([1, 2, 1, 3, 3, 1]), "umap1": np.arange(6.0)}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("pc1 > 0", [3, 4]),
        ("pc1 >= 0 and state == 1", [2]),
        ("pc1 < -1 or state == 2", [0, 1]),
        ("not state == 3", [0, 1, 2, 5]),
        ("not (state == 3 or umap1 < 2)", [2, 5]),
        ("-1.5 < pc1 <= 1", [1, 2, 3]),
        ("0.5 < pc1", [3, 4]),
        ("pc1 != 0", [0, 1, 3, 4, 5]),
        ("umap1 > pc1", [0, 1, 2, 3, 4][:5]),
        ("state == 1 and pc1 > -1e1 or umap1 == +4", [0, 2, 4]),
        ("  pc1 > -(1)", [2, 3, 4]),
    ],
)
def test_conditions_mean_what_they_say(condition, expected):
    expected = [row for row in expected if condition != "umap1 > pc1" or np.arange(6.0)[row] > PC[row]]
    assert np.flatnonzero(matching(condition, COLUMNS)).tolist() == expected


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "pc1",
        "1",
        "1 < 2",
        "pc1 >",
        "pc1 > 1 +",
        "pc1 + 1 > 2",
        "pc1 > 'a'",
        "pc1 in (1, 2)",
        "pc1 is 1",
        "pc1 > 1 & state == 1",
        "__import__('os').system('true')",
        "pc1.sum() > 1",
        "pc1[0] > 1",
        "(lambda: 1)() < pc1",
        "pc1 := 1",
        "pc1 > 1; state == 1",
        "pc1 > 1j",
        "pc1 > None",
        "\x00",
        "(" * 500 + "pc1 > 1" + ")" * 500,
        "not " * 450 + "pc1 > 1 and",
    ],
)
def test_anything_else_is_refused(condition):
    with pytest.raises(InputError, match="--where"):
        matching(condition, COLUMNS)


def test_columns_that_are_not_there_are_named_with_those_that_are():
    with pytest.raises(InputError, match=r"there is no column pc9; there are pc1, state, umap1; more"):
        matching("state == 1 or pc9 > 1", COLUMNS, "; more")


def test_names_in_particle_files_are_letters_digits_and_underscores():
    assert list(file_columns({"z1": PC, "z12": PC, "latent_pc1": PC, "distance_A:1-b": PC, "zeta": PC})) == [
        "latent1",
        "latent12",
        "latent_pc1",
        "distance_A_1_b",
        "zeta",
    ]


def test_tables_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr("cryomorph.export.ROWS_AT_ONCE", 2)
    rows = np.array([4, 0, 1])
    write_table(tmp_path / "t.csv", COLUMNS, rows)
    with (tmp_path / "t.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["state"] for row in found] == ["3", "1", "2"]
    assert [float(row["pc1"]) for row in found] == [2.0, -2.0, -1.0]
    write_table(tmp_path / "t.npz", COLUMNS, rows)
    with np.load(tmp_path / "t.npz") as arrays:
        assert {name: arrays[name].tolist() for name in arrays} == {n: v[rows].tolist() for n, v in COLUMNS.items()}
    with pytest.raises(InputError, match=r"t\.txt: expected a name that ends in \.csv or \.npz"):
        write_table(tmp_path / "t.txt", COLUMNS, rows)


def analysed(run):
    opened = open_run(run)
    save_analysis(opened.analyse(AnalysisSettings(components=2, states=3)), opened.template, run / "analysis")
    return run


@pytest.fixture(scope="module")
def studied(finished, tmp_path_factory):
    """The finished run with three states."""
    run = tmp_path_factory.mktemp("studied") / "run"
    shutil.copytree(finished, run)
    return analysed(run)


@pytest.fixture(scope="module")
def two_groups(simulated, tmp_path_factory):
    """A run on every other of the particles of a star file of RELION with two optics groups and columns of its own."""
    folder = tmp_path_factory.mktemp("two_groups")
    for name in ("particles.mrcs", "template.cif"):
        shutil.copy(simulated / name, folder / name)
    lines = (simulated / "particles.star").read_text().splitlines()
    optics = next(line for line in lines if "opticsGroup1" in line)
    group = [line.split()[0] for line in lines if line.startswith("_rln")].index("_rlnImageName")
    tags = [line.split()[0] for line in lines if line.startswith("_rln")][group:]
    out = []
    for line in lines:
        if line == optics:
            out += [line, line.replace("opticsGroup1", "opticsGroup2").replace("1", "2", 1)]
        elif "@" in line:
            values = line.split()
            values[tags.index("_rlnOpticsGroup")] = "1" if len(out) % 3 else "2"
            out.append("   ".join([*values, "'two words'"]))
        else:
            out.append(line)
            if line.startswith(tags[-1]):
                out.append("_rlnMicrographNote")
    (folder / "particles.star").write_text("\n".join(out) + "\n\ndata_general\n\n_rlnFinalThing 3.140\n")
    np.save(folder / "rows.npy", np.arange(1, 48, 2))
    settings = run_settings(folder, training={"epochs": 1, "batch_size": 12})
    settings["particles"]["indices"] = str(folder / "rows.npy")
    train(parse_config(settings, "test"), folder / "run")
    return folder, analysed(folder / "run")


@pytest.fixture(scope="module")
def from_cryosparc(simulated, tmp_path_factory):
    """A run on a cs file and its passthrough file, which has the particles in another order."""
    folder = tmp_path_factory.mktemp("cs")
    for name in ("particles.mrcs", "template.cif"):
        shutil.copy(simulated / name, folder / name)
    table = read_star(simulated / "particles.star")
    count = len(table)
    uid = np.arange(count, dtype="<u8") + 10**18
    main = {
        "uid": uid,
        "alignments3D/pose": matrix_to_cryosparc(table.rotation).astype("<f4"),
        "alignments3D/shift": (-table.shift / 2.5).astype("<f4"),
        "alignments3D/class_posterior": np.linspace(0, 1, count).astype("<f4"),
    }
    further = {
        "uid": uid,
        "blob/path": np.array([b"particles.mrcs"] * count),
        "blob/idx": np.arange(count, dtype="<u4"),
        "blob/psize_A": np.full(count, 2.5, "<f4"),
        "blob/sign": np.full(count, -1, "<f4"),
        "ctf/exp_group_id": (np.arange(count) % 2).astype("<u4"),
        "ctf/accel_kv": np.full(count, 300, "<f4"),
        "ctf/cs_mm": np.full(count, 2.7, "<f4"),
        "ctf/amp_contrast": np.full(count, 0.07, "<f4"),
        "ctf/df1_A": table.defocus_u.astype("<f4"),
        "ctf/df2_A": table.defocus_v.astype("<f4"),
        "ctf/df_angle_rad": np.zeros(count, "<f4"),
        "location/micrograph_path": np.array([f"m{i}.mrc".encode() for i in range(count)]),
    }
    write_cs(folder / "particles.cs", records(main))
    write_cs(folder / "passthrough.cs", records(further)[::-1].copy())
    settings = run_settings(folder, training={"epochs": 1, "batch_size": 12})
    settings["particles"] = {"path": str(folder / "particles.cs"), "passthrough": str(folder / "passthrough.cs")}
    train(parse_config(settings, "test"), folder / "run")
    return folder, analysed(folder / "run")


def body(path):
    """Lines of particles, and everything else."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return [line for line in lines if "@" in line[0]], [line for line in lines if "@" not in line[0]]


def test_a_selection_of_relions_reads_back_identical_but_for_itself(two_groups, tmp_path):
    folder, run = two_groups
    state = particle_columns(FittedRun(run))["state"]
    count = export_particles(run, tmp_path / "out.star", states=[2], columns=False, original_poses=True)
    assert 0 < count == (state == 2).sum() < 24
    chosen = np.arange(1, 48, 2)[state == 2]
    before, _ = body(folder / "particles.star")
    particles, rest = body(tmp_path / "out.star")
    assert particles == [before[row] for row in chosen]
    words = [" ".join(line) for line in rest]
    assert any(line.startswith("2 opticsGroup2") for line in words)
    assert "_rlnFinalThing 3.140" in words
    original, found = read_star(folder / "particles.star"), read_star(tmp_path / "out.star")
    for name, values in vars(original).items():
        if isinstance(values, np.ndarray):
            np.testing.assert_array_equal(getattr(found, name), values[chosen], err_msg=name)
    assert len(set(found.optics_group)) == 2


def test_a_selection_of_cryosparcs_reads_back_identical_but_for_itself(from_cryosparc, tmp_path):
    folder, run = from_cryosparc
    columns = particle_columns(FittedRun(run))
    middle = float(np.median(columns["pc1"]))
    count = export_particles(run, tmp_path / "out.cs", where=f"pc1 > {middle!r}", columns=False, original_poses=True)
    chosen = np.flatnonzero(columns["pc1"] > middle)
    assert count == len(chosen) == 24
    found = np.load(tmp_path / "out.cs")
    main, further = np.load(folder / "particles.cs"), np.load(folder / "passthrough.cs")[::-1]
    assert set(found.dtype.names) == set(main.dtype.names) | set(further.dtype.names)
    for source in (main, further):
        for name in source.dtype.names:
            assert found.dtype[name] == source.dtype[name]
            np.testing.assert_array_equal(found[name], source[name][chosen])
    original = read_cryosparc(folder / "particles.cs", folder / "passthrough.cs")
    again = read_cryosparc(tmp_path / "out.cs")
    np.testing.assert_array_equal(again.rotation, original.rotation[chosen])


def test_columns_stand_beside_the_particles(two_groups, from_cryosparc, tmp_path):
    _, run = two_groups
    fitted = FittedRun(run)
    columns = particle_columns(fitted)
    export_particles(run, tmp_path / "out.star", indices=np.array([5, 2]))
    block = gemmi.cif.read_file(str(tmp_path / "out.star")).find_block("particles")
    assert list(block.find_loop("_cryomorphState")) == [str(columns["state"][row]) for row in (5, 2)]
    for name, values in (("Latent1", fitted.latents[:, 0]), ("Pc1", columns["pc1"]), ("Junk", columns["junk"])):
        found = [float(value) for value in block.find_loop(f"_cryomorph{name}")]
        np.testing.assert_allclose(found, values[[5, 2]], atol=1e-6)
    _, run = from_cryosparc
    columns = particle_columns(FittedRun(run))
    export_particles(run, tmp_path / "out.cs", indices=np.array([5, 2]))
    found = np.load(tmp_path / "out.cs")
    np.testing.assert_array_equal(found["cryomorph/state"], columns["state"][[5, 2]])
    assert found.dtype["cryomorph/state"].kind == "i"
    np.testing.assert_allclose(found["cryomorph/latent2"], columns["z2"][[5, 2]], rtol=1e-6)


def test_conditions_are_combined_and_order_is_kept(studied, tmp_path):
    columns = particle_columns(FittedRun(studied))
    rows = np.arange(48)[::-1]
    kept = [row for row in rows if columns["state"][row] in (1, 3) and columns["z1"][row] < 0.1][::2]
    assert len(kept) > 2
    count = export_table(studied, tmp_path / "t.npz", indices=rows, states=[1, 3], where="z1 < 0.1", every=2)
    assert count == len(kept)
    with np.load(tmp_path / "t.npz") as table:
        assert table["row"].tolist() == table["source_row"].tolist() == kept
        np.testing.assert_array_equal(table["pc2"], columns["pc2"][kept])


def test_conformations_of_the_same_particles(studied, tmp_path):
    state = particle_columns(FittedRun(studied))["state"]
    count = export_conformations(studied, tmp_path / "c.cif", states=[2], where="state < 3")
    models = gemmi.read_structure(str(tmp_path / "c.cif"))
    assert count == len(models) == (state == 2).sum()
    expected = np.concatenate([x for _, x in FittedRun(studied).decode(np.flatnonzero(state == 2))])
    np.testing.assert_allclose([[a.atom.pos.tolist() for a in m.all()] for m in models], expected, atol=6e-4)


def test_what_cannot_be_selected_is_refused(studied, finished, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for options, message in (
        ({"states": [9]}, r"--state 9: there is no such state; there are, with their particles, 1 \("),
        ({"where": "pc77 > 1"}, r"no column pc77; there are pc1, pc2, .*z1"),
        ({"where": "z1 > 1e9"}, "no particles are selected; --where leave none"),
        ({"where": "pc1 >"}, "cannot read 'pc1 >'"),
    ):
        with pytest.raises(InputError, match=message):
            export_particles(studied, out / "p.star", **options)
        with pytest.raises(InputError, match=message):
            export_table(studied, out / "t.csv", **options)
    with pytest.raises(InputError, match=r"has no states; run cryomorph analyze .*run first"):
        export_particles(finished, out / "p.star", states=[1])
    with pytest.raises(InputError, match=r"no column pc1; there are z1, z2, .*; run cryomorph analyze .* for more"):
        export_table(finished, out / "t.csv", where="pc1 > 1")
    assert not any(out.iterdir())


def test_the_command_selects(cryomorph, studied, tmp_path):
    columns = particle_columns(FittedRun(studied))
    expected = int(np.isin(columns["state"], (1, 2)).sum())
    arguments = ("--state", 1, "--state", 2, "--where", "z1 > -100")
    out = tmp_path / "o.star", tmp_path / "o.cif", tmp_path / "o.csv"
    options = ("--particles", out[0], "--conformations", out[1], "--table", out[2])
    result = cryomorph("export", studied, *options, *arguments)
    assert result.code == 0, result.err
    for kind in ("particles", "conformations", "rows"):
        assert f"{expected} {kind}" in result.out
    assert len(out[2].read_text().splitlines()) == expected + 1
    refused(cryomorph("export", studied, "--table", out[2]), r"o\.csv: exists already")
    refused(cryomorph("export", studied, "--table", tmp_path / "n.csv", "--where", "who > 1"), "no column who")
