import csv
import json
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomorph.analysis.result import Analysis, Components, Landscape, State
from cryomorph.analysis.store import save_analysis
from cryomorph.errors import InputError
from cryomorph.fitted import FittedRun
from cryomorph.geometry import superpose_core
from cryomorph.mapping import make_maps
from cryomorph.particles.found import FoundPoses
from cryomorph.structure.model import read_template
from cryomorph.volumes.comparison import StateMaps


def analysis_of(fitted, simulated, labels):
    """States 1 and 2 are the two conformations that were simulated."""
    with np.load(simulated / "truth.npz") as truth:
        conformations = truth["coordinates"]
    rows = [int(np.flatnonzero(labels == number)[0]) for number in (1, 2)]
    states = tuple(
        State(number, int((labels == number).sum()), row, fitted.latents[row], conformations[number - 1])
        for number, row in zip((1, 2), rows, strict=True)
    )
    n = len(fitted.template)
    return Analysis(
        columns={"state": labels},
        components=Components(fitted.template.coordinates, np.zeros((1, n, 3)), np.ones(1), 1.0),
        states=states,
        motions=(),
        landscape=Landscape(("pc1", "pc1"), np.arange(2.0), np.arange(2.0), np.zeros((1, 1))),
        rmsf=np.ones(n),
    )


@pytest.fixture
def analysed(copied, simulated):
    """A run whose analysis has the two simulated conformations as states, with the images that show them."""
    fitted = FittedRun(copied)
    save_analysis(analysis_of(fitted, simulated, np.repeat([1, 2], 24)), fitted.template, copied / "analysis")
    return copied


def test_maps_of_states_agree_with_their_own_models(analysed):
    made = make_maps(analysed)
    assert [maps.name for maps in made] == ["state_1", "state_2"]
    for maps in made:
        assert sum(maps.images) == 24
        assert min(maps.images) > 5
        assert maps.agrees
        assert maps.verdict.startswith("agrees best with its own model")
        assert maps.agreement[maps.name][0] > 0.8
        assert maps.resolution_model < 12
        assert not maps.independent  # the images are too small for coefficients that were kept out
        assert not maps.confirmed


def test_models_that_were_mixed_up_are_not_confirmed(copied, simulated):
    fitted = FittedRun(copied)
    save_analysis(analysis_of(fitted, simulated, np.repeat([2, 1], 24)), fitted.template, copied / "analysis")
    for maps in make_maps(copied):
        assert not maps.agrees
        assert maps.verdict.startswith("not confirmed: the map agrees better with the model of state_")


def test_a_map_lies_on_the_model_that_is_written_beside_it(analysed):
    """The centre of mass of the map's density within the mask is that of the model, by the header alone."""
    (maps,) = make_maps(analysed, states=[2])
    with mrcfile.open(maps.folder / "map.mrc") as file, mrcfile.open(maps.folder / "mask.mrc") as mask:
        density = np.clip(file.data, 0.3 * file.data.max(), None) - 0.3 * file.data.max()
        density = density * mask.data
        voxel, start = float(file.voxel_size.x), float(file.header.origin.x)
        assert voxel == pytest.approx(2.5)
    places = start + voxel * np.stack(np.meshgrid(*[np.arange(len(density))] * 3, indexing="ij")[::-1], axis=-1)
    centre = (density[..., None] * places).sum((0, 1, 2)) / density.sum()
    model = read_template(maps.folder / "model.cif")
    assert np.linalg.norm(centre - model.atom_coordinates.mean(0)) < 2.0


def test_curves_are_written_as_numbers_and_as_a_figure(analysed, tmp_path):
    (maps,) = make_maps(analysed, states=[1], out=tmp_path / "maps")
    assert maps.folder == tmp_path / "maps" / "state_1"
    written = {path.name for path in maps.folder.iterdir()}
    maps_written = {f"{name}.mrc" for name in ("map", "half1", "half2", "model", "mask")}
    assert written == {*maps_written, "model.cif", "fsc.csv", "fsc.json", "fsc.svg"}
    found = json.loads((maps.folder / "fsc.json").read_text())
    assert found["resolution_angstrom"]["halves_masked"] == maps.resolution_masked
    with (maps.folder / "fsc.csv").open() as file:
        header, *rows = csv.reader(file)
    assert len(rows) == len(maps.frequency) == 12
    column = header.index("halves, masked")
    np.testing.assert_allclose([float(row[column]) for row in rows], maps.halves_masked, atol=1e-6)
    assert not (analysed / "analysis" / "maps").exists()


def test_scripts_open_the_maps(analysed):
    make_maps(analysed, states=[1])
    text = (analysed / "analysis" / "maps" / "open_maps.cxc").read_text()
    opened = [line.split('"')[1] for line in text.splitlines() if line.startswith("open ")]
    assert opened == ["state_1/model.cif", "state_1/map.mrc"]
    assert 'open "maps/state_1/map.mrc"' in (analysed / "analysis" / "open_in_chimerax.cxc").read_text()


def test_a_selection_of_particles_needs_no_analysis(copied, tmp_path):
    (maps,) = make_maps(copied, indices=np.arange(0, 48, 2), out=tmp_path / "maps")
    assert (maps.name, sum(maps.images)) == ("selection", 24)
    assert set(maps.agreement) == {"selection", "template"}
    assert "no other state" in maps.verdict


def test_maps_end_at_the_frequency_asked_for(analysed, tmp_path):
    (maps,) = make_maps(analysed, states=[1], out=tmp_path / "maps", finest=10.0)
    assert (maps.halves[7:] == 0).all()  # 60 Å: shell 6 is 10 Å
    assert maps.halves[5] > 0.5
    assert maps.resolution_masked >= 60 / 7


def test_what_cannot_be_is_said(analysed, cryomorph):
    for arguments, message in [
        (("--state", 3), "--state 3: there is no such state; the analysis has 1 to 2"),
        ((), "give one of --state N, --all-states and --indices FILE"),
        (("--state", 1, "--all-states"), "give one of"),
    ]:
        result = cryomorph("maps", analysed, *arguments)
        assert result.code == 2
        assert message in result.err
    with pytest.raises(InputError, match="row 48 does not exist"):
        make_maps(analysed, indices=np.array([0, 48]))
    with pytest.raises(InputError, match="selection: has 1 particles; half maps need at least two"):
        make_maps(analysed, indices=np.array([0]))
    (analysed / "analysis" / "analysis.npz").unlink()
    result = cryomorph("maps", analysed, "--state", 1)
    assert result.code == 2
    assert "run cryomorph analyze first" in result.err


def test_the_command_says_resolution_and_verdict(analysed, cryomorph):
    result = cryomorph("maps", analysed, "--state", 1)
    assert result.code == 0, result.err
    assert "half maps in the mask, correlation 0.143" in result.out
    assert "state_1: agrees best with its own model" in result.out


def test_verdicts_follow_from_the_numbers(tmp_path):
    curve = np.linspace(1, 0, 12)
    agreement = {"state_1": (0.5, 0.4, 0.4), "state_2": (0.4, 0.3, 0.3), "template": (0.9, 0.9, 0.9)}
    maps = StateMaps(
        *("state_1", tmp_path, (5, 5), curve, curve, curve, curve, 20.0, 10.0, 12.0), agreement, independent=True
    )
    assert maps.confirmed
    assert maps.verdict == (
        "confirmed: data that the fit never saw agree best with the state's own model"
        " (0.500 with its own model, 0.400 with that of state_2)"
    )
    seen = replace(maps, independent=False)
    assert seen.agrees
    assert not seen.confirmed
    assert seen.verdict.endswith("no proof, since the fit saw these data")
    unsure = replace(maps, agreement=agreement | {"state_2": (0.4, 0.45, 0.3)})
    assert not unsure.confirmed
    assert unsure.verdict.startswith("not sure")
    wrong = replace(maps, agreement=agreement | {"state_2": (0.6, 0.5, 0.5)})
    assert wrong.nearest == "state_2"
    assert wrong.verdict.startswith("not confirmed: the map agrees better with the model of state_2")
    nothing = replace(maps, resolution_masked=np.inf)
    assert not nothing.confirmed
    assert nothing.verdict.startswith("not resolved")
    assert nothing.as_dict()["resolution_angstrom"]["halves_masked"] is None


class Turned(FittedRun):
    """A run that found poses: its decoder gave every particle's conformation another orientation and place."""

    def __init__(self, folder):
        super().__init__(folder)
        simulated = self.config.particles.path.parent
        with np.load(simulated / "truth.npz") as truth:
            shown = truth["coordinates"][truth["conformation"]]
            rotation, shift = truth["rotation"], truth["shift"]
        generator = np.random.default_rng(4)
        turn = Rotation.from_rotvec(generator.normal(0, 0.3, (len(shown), 3))).as_matrix()
        move = generator.normal(0, 4, (len(shown), 3))
        decoded = shown @ np.swapaxes(turn, 1, 2) + move[:, None]
        # The images are the same: R x + t = (R Qᵀ) (Q x + c) + t - R Qᵀ c.
        rotation = rotation @ np.swapaxes(turn, 1, 2)
        shift = shift - np.einsum("mij,mj->mi", rotation[:, :2], move)
        # As a run keeps them: for conformations whose core lies on the template's.
        core, place = superpose_core(decoded, self.template.coordinates)
        rotation = rotation @ np.swapaxes(core, 1, 2)
        shift = shift - np.einsum("mij,mj->mi", rotation[:, :2], place)
        self.found_poses = FoundPoses(rotation, shift, np.zeros(len(shown)))
        self.latents = np.arange(len(shown), dtype=np.float32)[:, None]
        self.model = lambda latents: torch.from_numpy(decoded[latents[:, 0].long().numpy()])


def test_maps_and_models_share_a_frame_where_poses_were_found(copied, tmp_path, monkeypatch):
    """Nothing but the template ties the decoder's frame to that of the poses; both are taken there."""
    monkeypatch.setattr("cryomorph.mapping.FittedRun", Turned)
    (maps,) = make_maps(copied, indices=np.arange(24), out=tmp_path / "found")
    assert maps.agreement["selection"][0] > 0.8
    assert maps.agreement["selection"][0] > maps.agreement["template"][0] + 0.05
    assert maps.resolution_model < 12
