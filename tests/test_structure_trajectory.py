import logging
from pathlib import Path

import numpy as np
import pytest
from biotraj import DCDTrajectoryFile, XTCTrajectoryFile

from cryomorph.errors import InputError
from cryomorph.geometry import rmsd
from cryomorph.structure.psf import read_psf
from cryomorph.structure.trajectory import read_ensemble
from structure_builders import atom_line, backbone, write

RESIDUES = 4
MASSES = {"N": 14.007, "C": 12.011, "O": 15.999}


def model_text(shift=0.0, water=True):
    atoms = backbone(RESIDUES)
    lines = [
        atom_line(name, "ALA", i + 1, atoms[name][i] + [0, 0, shift], element=name[0])
        for i in range(RESIDUES)
        for name in atoms
    ]
    # A water before the protein: a trajectory's rows are not the template's.
    return (atom_line("OW", "SOL", 90, (30, 30, 30), element="O") if water else "") + "".join(lines)


def psf_text():
    lines = ["PSF CMAP", "", "       1 !NTITLE", " made for a test", "", f"{1 + 4 * RESIDUES:8d} !NATOM"]
    atoms = [("WAT", 1, "TIP3", "OH2"), *(("PROA", i + 1, "ALA", n) for i in range(RESIDUES) for n in backbone(1))]
    for serial, (segment, number, residue, name) in enumerate(atoms, start=1):
        lines.append(f"{serial:8d} {segment:4} {number:<4d} {residue:4} {name:4} 22 0.1 {MASSES[name[0]]:.4f} 0")
    return "\n".join(lines) + "\n"


@pytest.fixture
def frames():
    """Five frames (5, 17, 3) in Å of the water and the protein, moving as a whole."""
    atoms = backbone(RESIDUES)
    protein = np.stack(list(atoms.values()), axis=1).reshape(-1, 3)
    whole = np.concatenate([[[30.0, 30.0, 30.0]], protein])
    return (whole[None] + np.arange(5.0)[:, None, None]).astype(np.float32)


def write_dcd(path, frames):
    with DCDTrajectoryFile(str(path), "w") as file:
        file.write(frames)
    return path


@pytest.mark.parametrize("topology", ["model.pdb", "model.psf"])
@pytest.mark.parametrize("suffix", ["dcd", "xtc"])
def test_trajectories_are_in_angstrom(tmp_path, frames, suffix, topology):
    write(tmp_path, model_text())
    write(tmp_path, psf_text(), "model.psf")
    path = tmp_path / f"run.{suffix}"
    if suffix == "dcd":
        write_dcd(path, frames)
    else:
        with XTCTrajectoryFile(str(path), "w") as file:
            file.write(frames / 10)  # GROMACS: nanometres
    ensemble = read_ensemble(path, tmp_path / topology)
    assert len(ensemble) == 5
    # XTC keeps a thousandth of a nanometre.
    np.testing.assert_allclose(ensemble.atom_coordinates, frames[:, 1:], atol=1e-5 if suffix == "dcd" else 6e-3)
    np.testing.assert_allclose(ensemble.residue_coordinates, frames[:, 2::4], atol=6e-3)
    np.testing.assert_array_equal(ensemble.template.coordinates, ensemble.residue_coordinates[0])
    assert ensemble.template.elements == ("N", "C", "C", "O") * RESIDUES
    assert ensemble.template.bonded.all()


def test_models_of_a_file(tmp_path):
    text = "".join(f"MODEL {k}\n{model_text(shift=k)}ENDMDL\n" for k in range(3))
    ensemble = read_ensemble(write(tmp_path, text))
    np.testing.assert_allclose(ensemble.residue_coordinates[:, 0, 2], backbone(1)["CA"][0, 2] + np.arange(3), atol=1e-3)


def test_files_of_a_folder_in_natural_order(tmp_path, caplog):
    for number in (10, 9, 1):
        write(tmp_path, model_text(shift=number), f"model{number}.pdb")
    write(tmp_path, "", "notes.txt")
    with caplog.at_level(logging.INFO):
        ensemble = read_ensemble(tmp_path)
    np.testing.assert_allclose(np.diff(ensemble.residue_coordinates[:, 0, 2]), [8, 1], atol=2e-3)
    assert "1 files" in caplog.text


def test_the_odd_file_is_named(tmp_path):
    write(tmp_path, model_text(), "a.pdb")
    write(tmp_path, model_text().replace("ALA A   3", "GLY A   3"), "b.pdb")
    with pytest.raises(InputError, match=r"b\.pdb.*N of GLY 3 in chain A in place of N of ALA 3"):
        read_ensemble(tmp_path)
    write(tmp_path, "".join(model_text().splitlines(keepends=True)[:-1]), "b.pdb")
    with pytest.raises(InputError, match=r"b\.pdb: its 15 atoms are not those of"):
        read_ensemble(tmp_path)


def test_number_of_atoms_must_match(tmp_path, frames):
    topology = write(tmp_path, model_text(water=False))
    with pytest.raises(InputError, match=r"run\.dcd: its frames have 17 atoms, but .*model\.pdb has 16"):
        read_ensemble(write_dcd(tmp_path / "run.dcd", frames), topology)


def test_a_molecule_torn_by_the_periodic_box_is_refused(tmp_path, frames):
    frames[3, 9:] += 40
    with pytest.raises(InputError, match="conformation 4 is torn after residue 2"):
        read_ensemble(write_dcd(tmp_path / "run.dcd", frames), write(tmp_path, model_text()))


def test_frames_must_be_finite(tmp_path, frames):
    frames[2, 5] = np.nan
    with pytest.raises(InputError, match=r"run\.dcd, frame 3"):
        read_ensemble(write_dcd(tmp_path / "run.dcd", frames), write(tmp_path, model_text()))


def test_a_cut_dcd_is_read_as_far_as_it_goes_and_said(tmp_path, frames, caplog):
    path = write_dcd(tmp_path / "run.dcd", frames)
    path.write_bytes(path.read_bytes()[:-50])
    with caplog.at_level(logging.INFO):
        assert len(read_ensemble(path, write(tmp_path, model_text()))) == 4
    assert "promises 5 frames, but it has 4" in caplog.text


@pytest.mark.parametrize("content", [b"", b"nonsense" * 20])
@pytest.mark.parametrize("name", ["run.dcd", "run.xtc"])
def test_what_is_no_trajectory_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_ensemble(tmp_path / name, write(tmp_path, model_text()))


def test_a_cut_xtc_is_refused(tmp_path, frames):
    path = tmp_path / "run.xtc"
    with XTCTrajectoryFile(str(path), "w") as file:
        file.write(frames)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"run\.xtc: cannot be read"):
        read_ensemble(path, write(tmp_path, model_text()))


def test_topology_where_it_is_needed_and_only_there(tmp_path, frames):
    path = write_dcd(tmp_path / "run.dcd", frames)
    with pytest.raises(InputError, match="give its topology"):
        read_ensemble(path)
    model = write(tmp_path, model_text())
    with pytest.raises(InputError, match="leave"):
        read_ensemble(model, model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no structure files"):
        read_ensemble(tmp_path / "empty")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("PSF", "XYZ"), "no PSF file"),
        (lambda text: text.replace("      17 !NATOM", "      x !NATOM"), "expected the number of atoms"),
        (lambda text: text.replace("14.0070", "heavy"), "line 8: expected number, segment"),
        (lambda text: "\n".join(text.split("\n")[:12]), "of its 17 atoms"),
    ],
)
def test_damaged_psf(tmp_path, damage, message):
    with pytest.raises(InputError, match=message):
        read_psf(write(tmp_path, damage(psf_text()), "model.psf"))


def test_adenylate_kinase_opens(tmp_path):
    datafiles = pytest.importorskip("MDAnalysisTests.datafiles")
    ensemble = read_ensemble(Path(datafiles.DCD2), Path(datafiles.PSF))
    assert ensemble.atom_coordinates.shape == (102, 3341, 3)
    assert len(ensemble.template) == 214
    ends = ensemble.residue_coordinates[[0, -1]]
    assert rmsd(ends[0], ends[1]) == pytest.approx(6.82, abs=0.01)
    by_pdb = read_ensemble(Path(datafiles.DCD2), Path(datafiles.PDB_small))
    assert by_pdb.template.elements == ensemble.template.elements
    np.testing.assert_array_equal(by_pdb.atom_coordinates, ensemble.atom_coordinates)
