from dataclasses import replace

import gemmi
import numpy as np
import pytest

from cryomorph.errors import InputError
from cryomorph.structure.model import read_template
from cryomorph.structure.trajectory import read_ensemble
from cryomorph.structure.write import write_models, write_template
from structure_builders import backbone, template_of


@pytest.fixture
def template():
    """Five residues in two chains, one with an insertion code."""
    whole = template_of(backbone(5), ["ALA", "GLY", "MSE", "SER", "TRP"], [True, True, False, True])
    whole = replace(whole, chain=np.array([0, 0, 0, 1, 1]), chain_names=("A", "B"))
    return replace(whole, residue_ids=("-1", "1", "1A", "7", "8"))


@pytest.fixture
def conformations(template):
    return [template.coordinates + 0.1 * k for k in range(3)]


@pytest.mark.parametrize("suffix", ["cif", "pdb"])
def test_traces_come_back(tmp_path, template, conformations, suffix):
    path = tmp_path / f"out.{suffix}"
    write_models(path, template, iter(conformations), 3)
    ensemble = read_ensemble(path)
    np.testing.assert_allclose(ensemble.residue_coordinates, conformations, atol=6e-4)
    for field in ("residue_names", "residue_ids", "chain_names"):
        assert getattr(ensemble.template, field) == getattr(template, field)
    np.testing.assert_array_equal(ensemble.template.chain, template.chain)


@pytest.mark.parametrize("suffix", ["cif", "pdb"])
def test_gemmi_reads_what_was_written(tmp_path, template, conformations, suffix):
    path = tmp_path / f"out.{suffix}"
    write_models(path, template, conformations, 3)
    structure = gemmi.read_structure(str(path))
    assert len(structure) == 3
    residue = structure[2]["A"][2]
    assert (residue.name, str(residue.seqid), residue[0].name, residue[0].element.name) == ("MSE", "1A", "CA", "C")
    np.testing.assert_allclose(residue[0].pos.tolist(), conformations[2][2], atol=6e-4)


def test_nucleotides_are_written_by_c1_prime(tmp_path, conformations):
    dna = template_of({"C1'": backbone(5)["CA"]}, ["DA"] * 5)
    for suffix in ("cif", "pdb"):
        write_models(tmp_path / f"out.{suffix}", dna, conformations, 3)
        assert gemmi.read_structure(str(tmp_path / f"out.{suffix}"))[0]["A"][4][0].name == "C1'"


def test_dcd_goes_with_a_one_model_pdb(tmp_path, template, conformations):
    write_models(tmp_path / "out.dcd", template, conformations, 3)
    write_models(tmp_path / "out.pdb", template, conformations[:1], 1)
    ensemble = read_ensemble(tmp_path / "out.dcd", tmp_path / "out.pdb")
    np.testing.assert_allclose(ensemble.residue_coordinates, conformations, atol=1e-5)


def test_long_chain_names_and_numbers_need_mmcif(tmp_path, template, conformations):
    wide = replace(template, chain_names=("AA", "x'y z"), residue_ids=("1", "2", "3", "10000", "10001"))
    write_models(tmp_path / "out.cif", wide, conformations, 3)
    read = read_template(tmp_path / "out.cif")
    assert (read.chain_names, read.residue_ids) == (wide.chain_names, wide.residue_ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chain_names": ("A", "BB")}, "chain names"),
        ({"residue_ids": ("1", "2", "3", "4", "10000")}, "residue numbers"),
        ({"residue_names": ("ALA", "GLY", "MSE", "SER", "A1ABC")}, "residue names"),
    ],
)
def test_what_pdb_has_no_room_for_is_said(tmp_path, template, conformations, change, message):
    with pytest.raises(InputError, match=message + r".*write \.cif"):
        write_models(tmp_path / "out.pdb", replace(template, **change), conformations, 3)
    with pytest.raises(InputError, match=message):
        write_template(tmp_path / "out.pdb", replace(template, **change))
    with pytest.raises(InputError, match="10000 models"):
        write_models(tmp_path / "out.pdb", template, conformations, 10000)
    with pytest.raises(InputError, match="no room in the PDB format"):
        write_models(tmp_path / "out.pdb", template, [template.coordinates + 9999], 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["cif", "pdb", "dcd"])
@pytest.mark.parametrize("problem", ["few", "many", "shape", "nan"])
def test_wrong_conformations_leave_the_old_file(tmp_path, template, conformations, suffix, problem):
    path = tmp_path / f"out.{suffix}"
    path.write_text("old")
    given = {
        "few": conformations[:2],
        "many": conformations * 2,
        "shape": [*conformations[:2], np.zeros((4, 3))],
        "nan": [*conformations[:2], np.full((5, 3), np.nan)],
    }[problem]
    with pytest.raises(ValueError, match="conformation"):
        write_models(path, template, given, 3)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["out.xyz", "out"])
def test_other_formats_are_refused(tmp_path, template, conformations, name):
    with pytest.raises(InputError, match=r"expected \.cif"):
        write_models(tmp_path / name, template, conformations, 3)
    with pytest.raises(InputError, match=r"expected \.cif"):
        write_template(tmp_path / name, template)


@pytest.mark.parametrize("suffix", ["cif", "pdb"])
def test_atoms_have_the_occupancy_and_b_factor_of_their_residue(tmp_path, template, suffix):
    occupancy, b_factor = np.linspace(0.2, 1.0, len(template)), np.linspace(0, 300, len(template))
    path = tmp_path / f"template.{suffix}"
    write_template(path, template, occupancy, b_factor)
    residues = [residue for chain in gemmi.read_structure(str(path))[0] for residue in chain]
    assert len(residues) == len(template)
    for residue, expected in zip(residues, zip(occupancy, b_factor, strict=True), strict=True):
        for atom in residue:
            assert (atom.occ, atom.b_iso) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("suffix", ["cif", "pdb"])
def test_whole_templates_come_back(tmp_path, template, suffix):
    path = tmp_path / f"template.{suffix}"
    write_template(path, template)
    read = read_template(path)
    for field in ("residue_names", "residue_ids", "chain_names", "atom_names", "elements"):
        assert getattr(read, field) == getattr(template, field)
    np.testing.assert_allclose(read.atom_coordinates, template.atom_coordinates, atol=6e-4)
