import logging

import gemmi
import numpy as np
import pytest

from cryomorph.errors import InputError
from cryomorph.structure.model import read_template
from structure_builders import atom_line, backbone, trace_lines, write


def helix_text(names, chain="A", first=1, shift=0.0):
    atoms = backbone(len(names))
    return "".join(
        atom_line(name, residue, first + i, atoms[name][i] + [shift, 0, 0], chain, element=name[0])
        for i, residue in enumerate(names)
        for name in atoms
    )


def nucleotide_text(names, chain="R"):
    """Atoms of nucleotides with P and O3' 1.6 Å apart between neighbours."""
    lines = []
    for i, name in enumerate(names):
        for j, atom in enumerate(("P", "C4'", "C1'", "N1", "C3'", "O3'")):
            lines.append(atom_line(atom, name, i + 1, (6.5 * i + 0.98 * j, 1.2 * (j % 2), 0), chain, element=atom[0]))
    return "".join(lines)


def test_protein_has_calpha_bonds_and_all_atoms(tmp_path):
    template = read_template(write(tmp_path, helix_text(["ALA", "GLY", "SER", "LEU"])))
    np.testing.assert_allclose(template.coordinates, backbone(4)["CA"], atol=5e-4)
    assert template.residue_names == ("ALA", "GLY", "SER", "LEU")
    assert template.bonded.all()
    assert template.atom_names == ("N", "CA", "C", "O") * 4
    assert template.elements == ("N", "C", "C", "O") * 4
    np.testing.assert_array_equal(template.representative_atoms, [1, 5, 9, 13])


def test_break_by_distance_and_gap_in_numbers_that_is_bonded(tmp_path):
    text = helix_text(["ALA"] * 3) + helix_text(["ALA"] * 3, first=4, shift=30.0)
    assert read_template(write(tmp_path, text)).bonded.tolist() == [True, True, False, True, True]
    lines = helix_text(["ALA"] * 4).replace("ALA A   3", "ALA A  13").replace("ALA A   4", "ALA A  14")
    template = read_template(write(tmp_path, lines))
    assert template.bonded.all()
    assert template.residue_ids == ("1", "2", "13", "14")


def test_calpha_only_model_of_two_chains(tmp_path):
    text = trace_lines(["ALA"] * 3) + trace_lines(["GLY"] * 3, "B", start=20.0) + trace_lines(["GLY"], "B", 9, 40.0)
    template = read_template(write(tmp_path, text))
    assert template.chain_names == ("A", "B")
    assert template.bonded.tolist() == [True, True, False, True, True, False]
    assert read_template(tmp_path / "model.pdb", ["B"]).chain.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["A", "DA", "ADE", "DA5", "5MC"])
def test_nucleic_acids_have_c1_prime_and_bonds(tmp_path, name):
    template = read_template(write(tmp_path, nucleotide_text([name] * 4)))
    assert template.residue_names == (name,) * 4
    assert [template.atom_names[row] for row in template.representative_atoms] == ["C1'"] * 4
    assert template.bonded.all()
    assert template.is_nucleotide.all()


def test_old_names_of_sugar_atoms(tmp_path):
    template = read_template(write(tmp_path, nucleotide_text(["A"] * 3).replace("'", "*")))
    assert "C1'" in template.atom_names


def test_alternate_locations_by_occupancy_then_order(tmp_path):
    lines = trace_lines(["ALA"] * 4).splitlines(keepends=True)
    lines[1] = "".join(
        atom_line("CA", "ALA", 2, (3.3, y, 0), alternate=label, occupancy=occupancy)
        for label, y, occupancy in (("A", 1.8, 0.3), ("B", 2.0, 0.7))
    )
    lines[2] = "".join(
        atom_line("CA", "ALA", 3, (6.6, y, 0), alternate=label, occupancy=0.5) for label, y in (("A", 0.1), ("B", 0.4))
    )
    lines[3] = "".join(
        atom_line("CA", name, 4, (9.9, y, 0), alternate=label, occupancy=occupancy)
        for label, name, y, occupancy in (("A", "SER", 1.8, 0.4), ("B", "THR", 2.0, 0.6))
    )
    template = read_template(write(tmp_path, "".join(lines)))
    assert template.coordinates[1:, 1].tolist() == [2.0, 0.1, 2.0]
    assert template.residue_names == ("ALA", "ALA", "ALA", "THR")
    assert len(template.atom_names) == 4


def test_insertion_codes_keep_residues_apart(tmp_path):
    lines = trace_lines(["ALA"] * 4).splitlines(keepends=True)
    lines[2] = atom_line("CA", "TRP", 2, (6.6, 0, 0), insertion="A")
    lines[3] = atom_line("CA", "TRP", 3, (9.9, 1.9, 0))
    assert read_template(write(tmp_path, "".join(lines))).residue_ids == ("1", "2", "2A", "3")


def test_ligands_waters_caps_and_calcium_are_left_out_and_said(tmp_path, caplog):
    extra = [
        atom_line("CA", "CA", 201, (5, 5, 5), element="CA", hetero=True),
        atom_line("O", "HOH", 301, (9, 9, 9), element="O", hetero=True),
        atom_line("O", "HOH", 302, (9, 9, 12), element="O", hetero=True),
        # A free glutamate, an amino acid by its atoms but a ligand by the file's word.
        *(atom_line(n, "GLU", 401, (40 + i, 0, 0), hetero=True) for i, n in enumerate(("N", "CA", "C"))),
    ]
    cap = atom_line("CH3", "ACE", 0, (-1, -1, -1)) + atom_line("C", "ACE", 0, (-1.2, 0, 0))
    with caplog.at_level(logging.INFO):
        template = read_template(write(tmp_path, cap + helix_text(["ALA"] * 3) + "TER\n" + "".join(extra)))
    assert template.residue_names == ("ALA",) * 3
    assert "2 HOH" in caplog.text
    for name in ("1 CA", "1 GLU", "1 ACE"):
        assert name in caplog.text


def test_modified_residue_in_the_chain_is_kept(tmp_path):
    text = "".join(
        line.replace("ATOM  ", "HETATM") if "MSE" in line else line
        for line in helix_text(["ALA", "MSE", "ALA"]).splitlines(keepends=True)
    )
    text += atom_line("SE", "MSE", 2, (3, 3, 3), element="SE", hetero=True)
    template = read_template(write(tmp_path, text))
    assert template.residue_names == ("ALA", "MSE", "ALA")
    assert template.elements[template.atom_names.index("SE")] == "Se"


def test_simulation_file_without_chains_elements_or_known_names(tmp_path):
    atoms = backbone(6)
    lines = []
    for i in range(6):
        segment = "PROA" if i < 3 else "PROB"
        for name in ("N", "HN", "CA", "HG1", "C", "O"):
            position = atoms[name][i] if name in atoms else atoms["CA"][i] + [0.0, 1.0, 0.0]
            # Names at the start of their columns, as CHARMM writes them: CA and HG1 look like metals.
            line = atom_line(name, "HSD", i % 3 + 1, position, "", segment=segment)
            lines.append(line[:12] + f"{name:<4}" + line[16:])
    template = read_template(write(tmp_path, "".join(lines)))
    assert template.chain_names == ("PROA", "PROB")
    assert template.elements == ("N", "H", "C", "H", "C", "O") * 6
    assert template.bonded.tolist() == [True, True, False, True, True]


def test_unnamed_chains_start_at_ter_or_where_numbers_begin_again(tmp_path):
    first, second = trace_lines(["ALA"] * 3, ""), trace_lines(["GLY"] * 3, "", start=30.0)
    for text in (first + second, first + "TER\n" + trace_lines(["GLY"] * 3, "", first=4, start=30.0)):
        template = read_template(write(tmp_path, text))
        assert template.chain_names == ("A", "B")
        assert template.chain.tolist() == [0, 0, 0, 1, 1, 1]


def test_same_chain_name_after_ter_is_made_unique(tmp_path):
    text = trace_lines(["ALA"] * 3) + "TER\n" + trace_lines(["GLY"] * 3, start=30.0)
    assert read_template(write(tmp_path, text)).chain_names == ("A", "A2")


def test_atoms_of_a_residue_need_not_follow_each_other(tmp_path):
    lines = helix_text(["ALA"] * 3).splitlines(keepends=True)
    oxygens = [line for line in lines if line[13] == "O"]
    template = read_template(write(tmp_path, "".join([line for line in lines if line[13] != "O"] + oxygens)))
    assert template.atom_names == ("N", "CA", "C", "O") * 3


def test_first_model_only(tmp_path, caplog):
    text = "".join(f"MODEL {k}\n{trace_lines(['ALA'] * 3, start=k)}ENDMDL\n" for k in (1, 2))
    with caplog.at_level(logging.INFO):
        template = read_template(write(tmp_path, text))
    assert template.coordinates[0, 0] == 1.0
    assert "2 models" in caplog.text


def test_mmcif_written_by_gemmi_equals_the_pdb(tmp_path):
    text = (
        helix_text(["ALA", "MSE", "GLY"]) + helix_text(["SER"] * 3, "B", shift=40) + nucleotide_text(["DA", "DC", "DG"])
    )
    path = write(tmp_path, text + atom_line("O", "HOH", 301, (9, 9, 9), hetero=True, element="O"))
    structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(tmp_path / "model.cif"))
    a, b = read_template(path), read_template(tmp_path / "model.cif")
    for field in ("residue_names", "residue_ids", "chain_names", "atom_names", "elements"):
        assert getattr(a, field) == getattr(b, field)
    for field in ("coordinates", "chain", "bonded", "atom_coordinates", "atom_residue"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (trace_lines(["ALA"] * 2), "only 2 residues"),
        (atom_line("O", "HOH", 1, (0, 0, 0)) * 1, "no Cα or C1'"),
        (trace_lines(["ALA"] * 3) + trace_lines(["ALA"] * 3), "residue 1 of chain 'A' is there twice"),
        (trace_lines(["ALA"] * 3) + trace_lines(["ALA"], first=3), "atom CA is there twice"),
        (helix_text(["ALA"] * 3) + atom_line("MW", "ALA", 3, (0, 0, 0)), "element of atom MW"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_template(write(tmp_path, text))
    assert "model.pdb" in str(caught.value)


def test_unknown_chain_lists_those_present(tmp_path):
    text = trace_lines(["ALA"] * 3) + trace_lines(["ALA"] * 3, "B", start=30.0)
    with pytest.raises(InputError, match="no chain 'C'; the chains are A, B"):
        read_template(write(tmp_path, text), ["A", "C"])


def test_rigid_motion_moves_everything(tmp_path):
    template = read_template(write(tmp_path, helix_text(["ALA"] * 3)))
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    moved = template.transformed(turn, np.array([1.0, 2.0, 3.0]))
    x, y, z = template.atom_coordinates.T
    np.testing.assert_allclose(moved.atom_coordinates, np.stack([1 - y, 2 + x, 3 + z], axis=1))
    np.testing.assert_allclose(moved.coordinates, moved.atom_coordinates[moved.representative_atoms])
    np.testing.assert_allclose(template.moved(np.ones(3)).coordinates, template.coordinates + 1)
