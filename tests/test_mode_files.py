"""Normal modes as files: what is in them, and the command that writes them."""

import inspect
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from command_line import refused
from conftest import helix_model
from cryomorph import mode_files
from cryomorph.errors import InputError
from cryomorph.mode_files import FRAMES, MoleculeModes, molecule_modes, write_mode_files
from cryomorph.structure.domains import Domain, read_domains
from cryomorph.structure.model import read_template
from cryomorph.structure.modes import normal_modes, rigid_motions, template_modes
from cryomorph.structure.nmd import write_nmd
from cryomorph.structure.trajectory import read_ensemble
from small_runs import folder_state
from structure_builders import backbone, template_of

ORACLES = Path(__file__).parent / "oracles"


@pytest.fixture
def dimer_file(tmp_path):
    """Two helices of 20 and 12 residues, chains A and B, 10 Å apart."""
    helix_model({"A": 20, "B": 12}).write_pdb(str(tmp_path / "dimer.pdb"))
    return tmp_path / "dimer.pdb"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def read_nmd(path):
    """Fields of an NMD file by name, and (index, length, vector) of every mode."""
    fields, modes = {}, []
    for line in path.read_text(encoding="utf-8").splitlines():
        name, *values = line.split()
        if name == "mode":
            modes.append((int(values[0]), float(values[1]), np.array(values[2:], dtype=float)))
        else:
            assert name not in fields
            fields[name] = values
    return fields, modes


def rms(displacement):
    """Over residues, of displacements (..., n, 3)."""
    return np.sqrt((displacement**2).sum(-1).mean(-1))


def arrays(path):
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def test_collectivity_is_one_when_all_residues_move_alike_and_one_in_n_when_one_moves(helix):
    n = len(helix)
    alike, alone, half = np.zeros((3, n, 3))
    alike[:] = np.array([0.6, 0.0, 0.8]) / np.sqrt(n)
    alone[5] = [0.0, 1.0, 0.0]
    half[::2] = np.array([0.0, 0.0, 1.0]) / np.sqrt(n / 2)
    whole = (Domain("all", np.arange(n)),)
    modes = MoleculeModes(helix, whole, np.zeros(3, dtype=int), np.ones(3), np.stack([alike, alone, half]))
    np.testing.assert_allclose(modes.collectivity, [1, 1 / n, 0.5], rtol=1e-12)


def test_same_collectivity_as_prody():
    """ProDy 2.6.1: calcCollectivity of the four softest modes of ANM(), cutoff 15, on the same coordinates."""
    table = np.loadtxt(ORACLES / "springcraft_anm_modes.csv", delimiter=",", skiprows=3).reshape(60, 5, 3)
    modes = molecule_modes(template_of({"CA": table[:, 0]}, ["ALA"] * 60), 4)
    np.testing.assert_allclose(modes.collectivity, [0.7033993, 0.70762843, 0.73910794, 0.35073647], atol=1e-7)


def test_modes_of_the_molecule_are_the_softest_without_rigid_motions(dimer):
    modes = molecule_modes(dimer, 90)
    assert [domain.name for domain in modes.domains] == ["molecule"]
    expected = normal_modes(dimer.coordinates, 90)
    np.testing.assert_array_equal(modes.eigenvalue, expected.eigenvalue)
    np.testing.assert_array_equal(modes.vectors, expected.vectors)
    assert modes.eigenvalue[0] > 1e-4
    np.testing.assert_allclose(modes.vectors.reshape(90, -1) @ rigid_motions(dimer.coordinates), 0, atol=1e-11)


def test_modes_of_domains_are_those_of_each_alone_and_zero_outside(dimer):
    domains = read_domains(dimer, "A:1-8+B,A:9-20")
    modes = molecule_modes(dimer, 5, 18.0, domains)
    assert modes.domain.tolist() == [0] * 5 + [1] * 5
    for index, domain in enumerate(domains):
        alone = template_modes(dimer, 5, 18.0, domain.rows)
        mine = modes.domain == index
        np.testing.assert_array_equal(modes.eigenvalue[mine], alone.eigenvalue)
        np.testing.assert_array_equal(modes.vectors[mine][:, domain.rows], alone.vectors)
        outside = np.setdiff1d(np.arange(len(dimer)), domain.rows)
        assert len(outside) in (12, 20)
        assert not modes.vectors[mine][:, outside].any()
        # No rigid motion of the domain is among them, though one against the other domain costs springs.
        rigid = rigid_motions(dimer.coordinates[domain.rows])
        np.testing.assert_allclose(alone.vectors.reshape(5, -1) @ rigid, 0, atol=1e-11)


def test_domains_count_their_own_residues_for_collectivity(dimer):
    alone = molecule_modes(dimer, 3, 15.0, read_domains(dimer)).collectivity[3:]
    weight = (template_modes(dimer, 3, 15.0, np.arange(20, 32)).vectors ** 2).sum(2)
    np.testing.assert_allclose(alone, np.exp(-(weight * np.log(weight)).sum(1)) / 12, rtol=1e-10)


@pytest.mark.parametrize("groups", [None, "A:1-8+B,A:9-20"])
def test_a_morph_goes_evenly_through_the_template_and_ends_at_the_amplitude(dimer, groups):
    modes = molecule_modes(dimer, 4, 15.0, None if groups is None else read_domains(dimer, groups))
    for mode in range(len(modes)):
        rows = modes.domains[modes.domain[mode]].rows
        morph = modes.morph(mode, 2.5, 9)
        assert morph.shape == (9, 32, 3)
        np.testing.assert_array_equal(morph[4], dimer.coordinates)
        moved = morph - dimer.coordinates
        expected = 2.5 * np.abs(np.linspace(-1, 1, 9))
        np.testing.assert_allclose(rms(moved[:, rows]), expected, atol=1e-12)
        np.testing.assert_allclose(moved[0], -moved[-1], atol=1e-12)
        np.testing.assert_array_equal(np.delete(moved, rows, axis=1), 0)
        along = (moved[-1] * modes.vectors[mode]).sum()
        np.testing.assert_allclose(along, 2.5 * np.sqrt(len(rows)), rtol=1e-12)


@pytest.mark.parametrize("morphs", ["cif", "pdb"])
def test_the_folder_holds_one_morph_a_mode_arrays_and_nmd(dimer_file, out, morphs):
    modes = write_mode_files(dimer_file, out, count=3, amplitude=2.0, frames=5, morphs=morphs)
    names = {"modes.npz", "modes.nmd", *(f"mode_0{number}.{morphs}" for number in (1, 2, 3))}
    assert {path.name for path in out.iterdir()} == names
    template = read_template(dimer_file)
    for mode in range(3):
        ensemble = read_ensemble(out / f"mode_0{mode + 1}.{morphs}")
        assert ensemble.template.residue_ids == template.residue_ids
        assert ensemble.template.chain_names == template.chain_names
        read = ensemble.residue_coordinates
        np.testing.assert_allclose(read, modes.morph(mode, 2.0, 5), atol=6e-4)
        np.testing.assert_allclose(read[2], template.coordinates, atol=6e-4)
        np.testing.assert_allclose(rms(read[[0, -1]] - read[2]), 2.0, atol=1e-3)


def test_arrays_need_no_pickling_and_name_domains_and_residues(dimer_file, out):
    modes = write_mode_files(dimer_file, out, count=2, groups="A:1-8+B,A:9-20", cutoff=16.0)
    found = arrays(out / "modes.npz")
    template = read_template(dimer_file)
    np.testing.assert_array_equal(found["vectors"], modes.vectors)
    np.testing.assert_array_equal(found["eigenvalue"], modes.eigenvalue)
    np.testing.assert_array_equal(found["collectivity"], modes.collectivity)
    np.testing.assert_array_equal(found["coordinates"], template.coordinates)
    assert found["domain"].tolist() == ["A:1-8+B", "A:1-8+B", "A:9-20", "A:9-20"]
    assert found["chain"].tolist() == ["A"] * 20 + ["B"] * 12
    assert tuple(found["residue_id"]) == template.residue_ids
    assert tuple(found["residue_name"]) == template.residue_names
    assert found["cutoff"] == 16.0
    inside = found["vectors"].any((0, 2), where=(found["domain"] == "A:9-20")[:, None, None])
    assert np.flatnonzero(inside).tolist() == list(range(8, 20))


def test_nmd_comes_back(dimer_file, out):
    modes = write_mode_files(dimer_file, out, count=4, by_chain=True)
    fields, read = read_nmd(out / "modes.nmd")
    template = read_template(dimer_file)
    assert list(fields) == [
        *("nmwiz_load", "name", "atomnames", "resnames", "chainids", "resids", "bfactors", "coordinates")
    ]
    assert fields["nmwiz_load"] == [str((out / "modes.nmd").resolve())]
    assert fields["name"] == ["dimer"]
    assert fields["atomnames"] == ["CA"] * 32
    assert tuple(fields["resnames"]) == template.residue_names
    assert fields["chainids"] == ["A"] * 20 + ["B"] * 12
    assert fields["resids"] == [*map(str, range(1, 21)), *map(str, range(1, 13))]
    assert len(fields["bfactors"]) == 32
    coordinates = np.array(fields["coordinates"], dtype=float).reshape(-1, 3)
    np.testing.assert_allclose(coordinates, template.coordinates, atol=6e-4)
    assert [index for index, _, _ in read] == list(range(1, 9))
    np.testing.assert_allclose([length for _, length, _ in read], modes.eigenvalue**-0.5, atol=6e-7)
    vectors = np.stack([vector for _, _, vector in read]).reshape(8, 32, 3)
    np.testing.assert_allclose(vectors, modes.vectors, atol=6e-7)


def test_nmd_keeps_to_the_columns_that_nmwiz_writes(tmp_path):
    """Its PDB lines have one character for the chain, four for a residue's number and four for its name."""
    template = template_of({"C1'": backbone(6)["CA"]}, ["DA", "A1BCD", "DG", "DC", "DT", "DT"])
    template = replace(
        template,
        chain=np.array([0, 0, 1, 1, 2, 2]),
        chain_names=("AA", "B", "C"),
        residue_ids=("-1", "52A", "9999", "10003", "-1000", "7"),
    )
    vectors = np.zeros((1, 6, 3))
    vectors[0, 0, 0] = 1
    write_nmd(tmp_path / "m.nmd", template, np.array([4.0]), vectors)
    fields, modes = read_nmd(tmp_path / "m.nmd")
    assert fields["atomnames"] == ["C1'"] * 6
    assert fields["chainids"] == list("AABBCC")
    assert fields["resnames"] == ["DA", "A1BC", "DG", "DC", "DT", "DT"]
    assert fields["resids"] == ["-1", "52", "9999", "3", "1000", "7"]
    assert modes[0][:2] == (1, 0.5)


def test_the_path_in_an_nmd_file_is_one_word_of_tcl(tmp_path, dimer):
    folder = tmp_path / "a b [$c] {d"
    vectors = normal_modes(dimer.coordinates, 1)
    write_nmd(folder / "m.nmd", dimer, vectors.eigenvalue, vectors.vectors)
    line = (folder / "m.nmd").read_text(encoding="utf-8").splitlines()[0]
    assert line == f"nmwiz_load {tmp_path.resolve()}/a\\ b\\ \\[\\$c\\]\\ \\{{d/m.nmd"


def test_chains_are_chosen(dimer_file, out):
    write_mode_files(dimer_file, out, count=2, chains=["B"])
    found = arrays(out / "modes.npz")
    assert found["vectors"].shape == (2, 12, 3)
    assert set(found["chain"]) == {"B"}


def test_an_earlier_result_is_replaced_as_a_whole_when_asked_for_and_other_files_stay(dimer_file, out):
    write_mode_files(dimer_file, out, count=12)
    (out / "notes.txt").write_text("mine")
    (out / "mode_01.cif.bak").write_text("mine")
    before = folder_state(out)
    with pytest.raises(InputError, match=r"mode_01\.cif: exists already; choose another --out, or give --overwrite"):
        write_mode_files(dimer_file, out, count=2, morphs="pdb")
    assert folder_state(out) == before
    write_mode_files(dimer_file, out, count=2, morphs="pdb", overwrite=True)
    kept = {"notes.txt", "mode_01.cif.bak"}
    assert {path.name for path in out.iterdir()} == kept | {"mode_01.pdb", "mode_02.pdb", "modes.npz", "modes.nmd"}
    assert len(arrays(out / "modes.npz")["eigenvalue"]) == 2


def test_the_model_itself_is_never_replaced(dimer_file, out):
    write_mode_files(dimer_file, out, count=2)
    before = folder_state(out)
    with pytest.raises(InputError, match=r"mode_01\.cif: is the model, and would be replaced"):
        write_mode_files(out / "mode_01.cif", out, count=2, overwrite=True)
    assert folder_state(out) == before


class Watcher:
    def __init__(self):
        self.stretches, self.done, self.finished = [], [], 0

    def start(self, description, total, unit="images"):
        self.stretches.append((description, total))
        self.done.append(0)

    def advance(self, amount=1, note=""):
        self.done[-1] += amount

    def finish(self):
        self.finished += 1


def test_progress_is_told(dimer_file, out):
    watcher = Watcher()
    write_mode_files(dimer_file, out, count=3, by_chain=True, progress=watcher)
    assert watcher.stretches == [("normal modes", 2), ("writing morphs", 6)]
    assert (watcher.done, watcher.finished) == ([2, 6], 2)


def test_the_command_says_what_it_found_and_what_to_open(cryomorph, dimer_file, out):
    result = cryomorph("modes", dimer_file, "--out", out, "--count", 3, "--amplitude", 1.5)
    assert result.code == 0, result.err
    modes = molecule_modes(read_template(dimer_file), 3)
    rows = re.findall(r"│ +(\d+) │ +(\S+) │ +(\S+) │", result.out)
    numbers = zip(modes.eigenvalue, modes.collectivity, strict=True)
    assert rows == [(str(mode), f"{e:.4g}", f"{c:.2f}") for mode, (e, c) in enumerate(numbers, start=1)]
    assert f"{out}/mode_01.cif to mode_03.cif  (21 models each, 1.5 Å to either side)" in result.out
    assert f"open {out}/mode_01.cif coordsets true" in result.out
    assert f"vmd -e {out}/modes.nmd" in result.out
    assert f"{out}/modes.npz" in result.out
    ends = read_ensemble(out / "mode_02.cif").residue_coordinates[[0, 10, 20]]
    np.testing.assert_allclose(rms(ends[[0, 2]] - ends[1]), 1.5, atol=1e-3)


def test_the_command_names_domains_and_passes_its_options_on(cryomorph, dimer_file, out):
    groups = "A:1-8+B,A:9-20"
    options = ["--count", 20, "--groups", groups, "--cutoff", 18, "--frames", 3, "--format", "pdb"]
    result = cryomorph("modes", dimer_file, "--out", out, *options)
    assert result.code == 0, result.err
    assert "the softest 10 of 20 of each domain" in result.out
    rows = re.findall(r"│ +(\d+) │ (\S+) +│ +\S+ │ +\S+ │", result.out)
    shown = [*range(1, 11), *range(21, 31)]
    assert rows == [(str(mode), groups.split(",")[mode > 20]) for mode in shown]
    template = read_template(dimer_file)
    expected = molecule_modes(template, 20, 18.0, read_domains(template, groups))
    np.testing.assert_array_equal(arrays(out / "modes.npz")["vectors"], expected.vectors)
    assert len(read_ensemble(out / "mode_40.pdb")) == 3
    again = ["modes", dimer_file, "--out", out, "--count", 2, "--by-chain", "--chains", "A", "--overwrite"]
    assert cryomorph(*again).code == 0
    assert arrays(out / "modes.npz")["domain"].tolist() == ["A", "A"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], r"--count: 0 modes are wanted; \S+dimer\.pdb has 90, of 32 residues"),
        (["--count", "91"], r"--count: 91 modes are wanted; \S+dimer\.pdb has 90, of 32 residues"),
        (["--count", "31", "--by-chain"], r"31 modes are wanted; B of \S+dimer\.pdb has 30, of 12 residues"),
        (["--cutoff", "4"], "springs of up to 4 Å do not hold residue.* firmly to the rest"),
        (["--cutoff", "0"], "--cutoff: 0 Å is no distance"),
        (["--cutoff", "nan"], "--cutoff: nan Å is no distance"),
        (["--frames", "20"], "--frames: 20; expected an odd number from 3"),
        (["--frames", "1"], "--frames: 1; expected an odd number from 3"),
        (["--frames", "-3"], "--frames: -3; expected an odd number from 3"),
        (["--amplitude", "0"], "--amplitude: 0 Å; expected a number above 0"),
        (["--amplitude", "inf"], "--amplitude: inf Å; expected a number above 0"),
        (["--format", "dcd"], "--format: unknown format 'dcd'; there are cif, pdb"),
        (["--by-chain", "--groups", "A,B"], "--by-chain and --groups: choose one"),
        (["--groups", "A"], "none of them has residues 1 to 12 of chain B"),
        (["--groups", ""], "--groups: '': .* has no chain ''"),
        (["--chains", "Z"], "Z"),
        (["--out", "file"], "file: is a file; choose another --out"),
        (["--out", "file/new"], "cannot write there"),
        (["--out", "taken"], r"taken/modes\.nmd: exists already; choose another --out, or give --overwrite"),
    ],
)
def test_what_cannot_be_writes_nothing(cryomorph, dimer_file, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("taken").mkdir()
    Path("taken/modes.nmd").write_text("")
    before = folder_state(tmp_path)
    refused(cryomorph("modes", dimer_file, "--out", "new", *arguments), message)
    assert folder_state(tmp_path) == before
    assert not Path("new").exists()


def test_a_model_that_cannot_be_read_or_written_writes_nothing(cryomorph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long_name = helix_model({"AA": 20})
    long_name.make_mmcif_document().write_file("long.cif")
    refused(cryomorph("modes", "none.pdb", "--out", "new"), r"none\.pdb")
    refused(cryomorph("modes", "long.cif", "--out", "new", "--format", "pdb"), "the PDB format has no room")
    assert not Path("new").exists()
    assert cryomorph("modes", "long.cif", "--out", "new").code == 0


def test_defaults_of_the_command_are_those_of_the_function(monkeypatch, cryomorph, dimer_file, out):
    given = {}

    def watched(model, folder, **options):
        given.update(options)
        return molecule_modes(read_template(model), 2)

    monkeypatch.setattr(mode_files, "write_mode_files", watched)
    assert cryomorph("modes", dimer_file, "--out", out).code == 0
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(write_mode_files).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert given.pop("progress") is not None
    assert defaults.pop("progress") is None
    assert given == defaults
    assert defaults["frames"] == FRAMES


def test_help_of_the_command_names_units(cryomorph):
    text = cryomorph("modes", "--help").out
    assert re.search(r"--cutoff.*Å", text)
    assert re.search(r"--amplitude.*Å", text)
