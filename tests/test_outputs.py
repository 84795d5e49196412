from dataclasses import dataclass, replace

import gemmi
import numpy as np
import pytest

from cryomorph.analysis.result import Analysis, Components, Landscape, Motion, State
from cryomorph.errors import InputError
from cryomorph.outputs import write_outputs
from cryomorph.structure.allatom import AllAtoms
from cryomorph.structure.model import Template, read_template
from cryomorph.structure.trajectory import read_ensemble


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "analysis"


@dataclass
class Run:
    template: Template


def moved(template, step):
    """Bent a little more with each step."""
    x = template.coordinates.copy()
    x[:, 0] += 0.002 * step * x[:, 2] ** 2
    return x


def analysis_of(template, states=2, steps=5):
    latents = np.zeros(2)
    groups = tuple(State(k + 1, 30 - 20 * k, k, latents, moved(template, k)) for k in range(states))
    path = np.stack([moved(template, k) for k in range(steps)])
    return Analysis(
        columns={"state": np.repeat([1, 2], [30, 10])},
        components=Components(template.coordinates, np.zeros((1, len(template), 3)), np.ones(1), 1.0),
        states=groups,
        motions=(Motion("pc1", np.arange(5.0), np.zeros((steps, 2)), path),),
        landscape=Landscape(("pc1", "pc1"), np.arange(2.0), np.arange(2.0), np.zeros((1, 1))),
        rmsf=np.linspace(0.5, 3, len(template)),
    )


def trace_of(template):
    rows = template.representative_atoms
    return replace(
        template,
        atom_coordinates=template.coordinates,
        atom_names=tuple(template.atom_names[row] for row in rows),
        elements=tuple(template.elements[row] for row in rows),
        atom_residue=np.arange(len(template)),
    )


def test_states_and_motions_are_models_with_all_atoms_and_fluctuations(helix, folder):
    analysis = analysis_of(helix)
    outputs, placed = write_outputs(folder, Run(helix), analysis), AllAtoms(helix)
    for state in analysis.states:
        model = read_template(folder / "states" / f"state_{state.number}.cif")
        np.testing.assert_allclose(model.atom_coordinates, placed(state.coordinates[None])[0], atol=6e-4)
        np.testing.assert_allclose(model.coordinates, state.coordinates, atol=0.35)  # traces give way a little
        assert model.atom_names == helix.atom_names
    for suffix in ("cif", "pdb"):
        found = read_ensemble(folder / "motions" / f"pc1.{suffix}")
        np.testing.assert_allclose(found.atom_coordinates, placed(analysis.motions[0].coordinates), atol=6e-4)
    frames = read_ensemble(folder / "motions" / "pc1.dcd", folder / "motions" / "pc1_topology.cif")
    np.testing.assert_allclose(frames.atom_coordinates, found.atom_coordinates, atol=6e-4)
    flexible = gemmi.read_structure(str(folder / "rmsf.cif"))[0]
    values = [a.atom.b_iso for a in flexible.all() if a.atom.name == "CA"]
    np.testing.assert_allclose(values, analysis.rmsf, atol=6e-3)
    assert set(outputs.files) == {path for path in folder.rglob("*") if path.is_file()}
    assert outputs.sanity.keys() == {"pc1", "states"}
    assert outputs.sanity["pc1"].bond_rms < 0.01


def test_the_script_opens_what_is_there_and_names_it(helix, folder):
    density = folder / "maps" / "state_2" / "map.mrc"
    density.parent.mkdir(parents=True)
    density.write_bytes(b"")
    text = write_outputs(folder, Run(helix), analysis_of(helix)).script.read_text()
    opened = [line.split('"')[1::2] for line in text.splitlines() if line.startswith("open ")]
    assert all((folder / path).is_file() for path, _ in opened)
    names = [name for _, name in opened]
    assert names[:3] == [
        "state 1: 30 particles, 75%",
        "state 2: 10 particles, 25%",
        "map of state 2: 10 particles, 25%",
    ]
    assert 'open "motions/pc1.cif" id 201 name "motion pc1" coordsets true' in text
    assert "range 0,3.00" in text
    assert text.count("coordset slider #201") == 1


def test_a_template_of_representative_atoms_gives_traces(helix, folder):
    outputs = write_outputs(folder, Run(trace_of(helix)), analysis_of(helix))
    assert outputs.sanity == {}
    assert set(read_template(folder / "states" / "state_1.cif").atom_names) == {"CA"}
    assert not (folder / "geometry.json").exists()


def test_an_earlier_analysis_is_replaced_and_other_files_stay(helix, folder):
    write_outputs(folder, Run(helix), analysis_of(helix, states=2))
    (folder / "states" / "notes.txt").write_text("mine")
    write_outputs(folder, Run(helix), analysis_of(helix, states=1), formats=("cif",))
    assert sorted(path.name for path in (folder / "states").iterdir()) == ["notes.txt", "state_1.cif"]
    assert [path.name for path in (folder / "motions").iterdir()] == ["pc1.cif"]


def test_a_molecule_that_the_pdb_format_has_no_room_for_has_the_other_files(helix, folder, caplog):
    long = replace(helix, chain_names=("long",))
    with caplog.at_level("INFO"):
        write_outputs(folder, Run(long), analysis_of(long))
    names = {path.name for path in (folder / "motions").iterdir()}
    assert names == {"pc1.cif", "pc1.dcd", "pc1_topology.cif"}
    assert any("PDB format has no room" in message for message in caplog.messages)


def test_unknown_formats_are_refused_before_anything_is_written(helix, folder):
    with pytest.raises(InputError, match=r"format 'xyz': not known; there are cif, pdb, dcd"):
        write_outputs(folder, Run(helix), analysis_of(helix), formats=("xyz",))
    assert not folder.exists()
