import importlib.util

import gemmi
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryomorph.demo import MODEL, demo_data
from cryomorph.structure.allatom import AllAtoms
from cryomorph.structure.covalent import Covalent
from cryomorph.structure.model import read_template
from cryomorph.structure.write import write_atoms, write_models
from structure_builders import backbone, template_of


@pytest.fixture(scope="module")
def kinase():
    """Adenylate kinase with hydrogens: 214 residues, 3341 atoms."""
    if importlib.util.find_spec("MDAnalysisTests") is None:
        pytest.skip("MDAnalysisTests is not installed: pip install 'cryomorph[demo]'")
    return read_template(demo_data(MODEL))


@pytest.fixture(scope="module")
def atoms(kinase):
    return AllAtoms(kinase)


def hinged(template, degrees):
    """All behind residue 30 turned about an axis through it, away from what comes before."""
    x = template.coordinates.copy()
    turn = Rotation.from_rotvec(np.deg2rad(-degrees) * np.array([1.0, 0.0, 0.0])).as_matrix()
    x[30:] = (x[30:] - x[30]) @ turn.T + x[30]
    return x


def bent(template, radius=120.0):
    """The whole molecule wrapped about an axis: every local frame turns a little against the next."""
    x = template.coordinates - template.coordinates.mean(0)
    angle = x[:, 2] / radius
    reach = radius + x[:, 0]
    return np.stack([reach * np.cos(angle) - radius, x[:, 1], reach * np.sin(angle)], axis=1)


def test_the_template_itself_comes_back(kinase, atoms):
    np.testing.assert_allclose(atoms(kinase.coordinates[None])[0], kinase.atom_coordinates, atol=1e-9)


def test_a_rigid_motion_carries_all_atoms(kinase, atoms):
    turn, move = Rotation.from_rotvec([0.4, -1.1, 2.0]).as_matrix(), np.array([12.0, -7.0, 3.0])
    placed = atoms((kinase.coordinates @ turn.T + move)[None])[0]
    np.testing.assert_allclose(placed, kinase.atom_coordinates @ turn.T + move, atol=1e-9)


def test_a_moved_conformation_moves_with_its_frame(kinase, atoms):
    turn = Rotation.from_rotvec([0.4, -1.1, 2.0]).as_matrix()
    x = hinged(kinase, 25)
    np.testing.assert_allclose(atoms((x @ turn.T)[None])[0], atoms(x[None])[0] @ turn.T, atol=1e-6)


@pytest.mark.parametrize("move", [lambda t: hinged(t, 20), bent])
def test_bonds_and_angles_stay_sane_where_representative_atoms_move(kinase, atoms, move):
    x = move(kinase)
    placed = atoms(x[None])
    off = np.linalg.norm(placed[0][kinase.representative_atoms] - x, axis=1)
    assert off.max() < 0.4
    assert np.sqrt(np.square(off).mean()) < 0.2
    mended, carried = atoms.sanity(placed), atoms.sanity(atoms.carried(x)[None])
    assert mended.bond_rms < 0.002 < 0.0025 < carried.bond_rms
    assert mended.bond_worst < 0.05 < 0.1 < carried.bond_worst
    assert mended.angle_rms < 1
    assert mended.angle_worst < 15
    assert mended.clashes < 2


def test_a_body_that_moves_keeps_its_shape(kinase, atoms):
    """Atoms far from the hinge are where the rotation takes them."""
    placed = atoms(hinged(kinase, 25)[None])[0]
    turn = Rotation.from_rotvec(np.deg2rad(-25) * np.array([1.0, 0.0, 0.0])).as_matrix()
    start = kinase.coordinates[30]
    inner = np.isin(kinase.atom_residue, np.arange(40, 200)) & np.isin(kinase.atom_names, ["N", "CA", "C", "O", "CB"])
    expected = (kinase.atom_coordinates - start) @ turn.T + start
    # But for side chains that the molecule ran into.
    assert np.quantile(np.abs(placed - expected)[inner], 0.95) < 0.04


def test_bonds_are_those_of_the_chemistry(kinase):
    """As many bonds as atoms less one, and one for each ring; gemmi's table of residues knows the rings."""
    covalent = Covalent.of(kinase)
    rings = {"PRO": 1, "PHE": 1, "TYR": 1, "TRP": 2, "HIS": 1, "HSD": 1, "HSE": 1, "HSP": 1}
    expected = len(kinase.atom_names) - 1 + sum(rings.get(name, 0) for name in kinase.residue_names)
    assert len(covalent.bonds) == expected
    middle = np.array(kinase.elements)[covalent.angles[:, 1]]
    assert not (middle == "H").any()


def test_sanity_measures_what_was_done_to_a_chain():
    """One bond stretched by 0.3 Å, one angle opened; an atom put beside another one."""
    template = template_of(backbone(6), ["ALA"] * 6)
    atoms = AllAtoms(template)
    x = template.atom_coordinates.copy()
    oxygen, carbon = 3 + 4 * 5, 2 + 4 * 5  # of the last residue, where nothing follows
    along = x[oxygen] - x[carbon]
    x[oxygen] += 0.3 * along / np.linalg.norm(along)
    found = atoms.sanity(x[None])
    assert found.bond_worst == pytest.approx(0.3)
    assert found.bond_rms == pytest.approx(0.3 / np.sqrt(len(atoms.covalent.bonds)))
    assert found.angle_worst == pytest.approx(0, abs=1e-6)
    assert found.clashes == 0
    x = template.atom_coordinates.copy()
    x[oxygen] = x[3] + [1.0, 0.0, 0.0]
    assert atoms.sanity(np.stack([x, template.atom_coordinates])).clashes >= 0.5


def test_residues_alone_move_without_turning():
    template = template_of(backbone(4), ["ALA"] * 4, [True, False, True])
    atoms = AllAtoms(template)
    x = template.coordinates + np.array([[5, 0, 0], [5, 0, 0], [-5, 0, 0], [-5, 0, 0]])
    placed = atoms(x[None])[0]
    np.testing.assert_allclose(placed - template.atom_coordinates, np.repeat([[5, 0, 0], [-5, 0, 0]], 8, axis=0))


@pytest.mark.parametrize("suffix", [".cif", ".pdb"])
def test_all_atoms_are_written_with_numbers_of_residues(kinase, atoms, tmp_path, suffix):
    conformations = atoms(np.stack([kinase.coordinates, hinged(kinase, 10)]))
    values = np.linspace(0, 5, len(kinase))
    path = tmp_path / f"models{suffix}"
    write_atoms(path, kinase, conformations, 2, values)
    structure = gemmi.read_structure(str(path))
    assert len(structure) == 2
    found = list(structure[1].all())
    np.testing.assert_allclose([a.atom.pos.tolist() for a in found], conformations[1], atol=6e-4)
    assert [a.atom.name for a in found] == list(kinase.atom_names)
    np.testing.assert_allclose([a.atom.b_iso for a in found], values[kinase.atom_residue], atol=6e-3)
    again = read_template(path)
    assert (again.elements, again.residue_ids) == (kinase.elements, kinase.residue_ids)


def test_traces_are_written_with_numbers_of_residues(kinase, tmp_path):
    values = np.linspace(0, 5, len(kinase))
    write_models(tmp_path / "trace.cif", kinase, [kinase.coordinates], 1, values)
    found = [a.atom.b_iso for a in gemmi.read_structure(str(tmp_path / "trace.cif"))[0].all()]
    np.testing.assert_allclose(found, values, atol=6e-3)
