"""The joint search: libraries from what was learned, what is replaced, and runs without any pose."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import roma
import torch

from conftest import helix_model
from cryomorph.components import Settings
from cryomorph.config import (
    build_latents,
    build_reconstruction,
    open_models,
    open_particles,
    parse_config,
    read_config,
)
from cryomorph.conformations.base import ConformationModel
from cryomorph.errors import InputError
from cryomorph.geometry import project, superpose_core
from cryomorph.latents.table import TableLatents, TableLatentsSettings
from cryomorph.latents.variational import VariationalLatents, VariationalLatentsSettings
from cryomorph.poses.search import SearchedPoses, SearchedPosesSettings
from cryomorph.results import FittedRun, evaluate
from cryomorph.run import RunFolder
from cryomorph.search.approach import ApproachSettings
from cryomorph.search.everywhere import Everywhere, squared_distance
from cryomorph.search.joint import APPROACH_GRID, JointSearch, SearchSettings, _order
from cryomorph.search.library import Library, along_main_motion
from cryomorph.simulate import SimulationSettings
from cryomorph.structure.model import read_template
from cryomorph.uncertainty import Uncertainty
from cryomorph.workflows import simulate_images, train
from dense_likelihood import coarse_batch
from small_runs import assert_same_run, run_settings

SEARCH = {
    "directions": 80,
    "in_plane": 24,
    "library": 3,
    "epochs": [1, 2],
    "candidates": 8,
    "approach": {"rounds": 1, "modes": 2, "images": 32},
}


def without_poses(folder: Path, out: Path) -> Path:
    """Write the particles of a folder without the columns that say how they lie; the folder of the copy."""
    out.mkdir()
    shutil.copy(folder / "particles.mrcs", out)
    shutil.copy(folder / "template.cif", out)
    lines = (folder / "particles.star").read_text().splitlines()
    names = [line.split()[0] for line in lines if line.startswith("_rln")]
    dropped = [name for name in names if name.startswith(("_rlnAngle", "_rlnOrigin"))]
    assert len(dropped) == 5
    (out / "particles.star").write_text("\n".join(_dropped(lines, set(dropped))) + "\n")
    return out


def _dropped(lines, dropped):
    """Yield the lines of a star file without some columns of its last table."""
    columns: list[str] = []
    for line in lines:
        if line.startswith(("data_", "loop_")):
            columns = []
        if line.startswith("_rln"):
            columns.append(line.split()[0])
            if columns[-1] in dropped:
                continue
            yield line.split()[0]
        elif columns and line.strip() and dropped & set(columns):
            yield " ".join(value for name, value in zip(columns, line.split(), strict=True) if name not in dropped)
        else:
            yield line


PLACES = {"A": (0, 0, 0), "B": (0, 0, 9), "C": (-3, 11, -8)}
"""Å by which helices are moved: the molecule looks like itself in one orientation only."""


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory):
    """Folder with 32 clear images of one lopsided molecule."""
    folder = tmp_path_factory.mktemp("lopsided")
    structure = helix_model({"A": 22, "B": 11, "C": 7})
    for chain in structure[0]:
        for residue in chain:
            for atom in residue:
                atom.pos += gemmi.Position(*PLACES[chain.name])
    structure.write_pdb(str(folder / "model.pdb"))
    settings = SimulationSettings(
        images_per_conformation=32, box=32, pixel_size=2.5, defocus=(5000, 8000), snr_db=6, seed=5
    )
    simulate_images(folder / "model.pdb", folder, settings, template=folder / "model.pdb")
    return folder


@pytest.fixture(scope="module")
def unposed(lopsided, tmp_path_factory):
    return without_poses(lopsided, tmp_path_factory.mktemp("unposed") / "particles")


def search_settings(folder, **changes):
    training = {"epochs": 3, "batch_size": 8, "checkpoint_minutes": 1e-9}
    settings = run_settings(folder, training=training, poses="search", search=SEARCH, latents="variational")
    return settings | changes


@pytest.fixture(scope="module")
def searched(unposed, tmp_path_factory):
    out = tmp_path_factory.mktemp("searched") / "run"
    train(parse_config(search_settings(unposed), "test"), out)
    return out


def test_a_run_finds_poses_that_the_file_does_not_have(lopsided, searched):
    found = FittedRun(searched).found_poses
    assert found is not None
    assert np.isfinite(found.entropy).all()
    assert (found.entropy >= 0).all()
    np.testing.assert_allclose(np.linalg.det(found.rotation), 1, atol=1e-5)
    result = evaluate(searched, lopsided / "truth.npz")
    assert result.rotation_error_median_deg < 15  # random rotations are 125 degrees off
    new = [json.loads(line).get("new_poses") for line in (searched / "metrics.jsonl").read_text().splitlines()]
    assert new[2] is None
    assert all(0 <= share <= 1 for share in new[:2])


def test_a_run_killed_after_a_search_ends_as_if_never_stopped(searched, tmp_path):
    driver = Path(__file__).parent / "killed_run.py"
    command = [sys.executable, driver, searched / "config.yaml", tmp_path, "batch:8", "epoch:3"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    for point in ("batch:8", "epoch:3"):
        train(read_config(searched / "config.yaml"), tmp_path / point, resume=True)
        assert_same_run(searched, tmp_path / point)


def test_shifts_are_searched_where_the_file_has_none(unposed, tmp_path):
    search = SEARCH | {"shift_range": 3.0, "shift_step": 2.0, "epochs": [1]}
    train(parse_config(search_settings(unposed, search=search), "test"), tmp_path / "run")
    found = RunFolder(tmp_path / "run").load_poses()
    assert found is not None
    assert np.abs(found.shift).max() > 0.5
    assert np.linalg.norm(found.shift, axis=1).max() < 12


def test_a_search_needs_windows(unposed, tmp_path):
    with pytest.raises(InputError, match="needs likelihood: matched_filter"):
        train(parse_config(search_settings(unposed, likelihood="direct"), "test"), tmp_path / "run")


def test_models_of_the_library_must_have_the_same_residues(lopsided, dimer, tmp_path):
    placed = open_models([lopsided / "model.pdb"], read_template(lopsided / "template.cif"))
    assert placed.shape == (1, 40, 3)
    with pytest.raises(InputError, match="40 residues, the template 32"):
        open_models([lopsided / "model.pdb"], dimer)
    other = tmp_path / "mutant.pdb"
    other.write_text((lopsided / "model.pdb").read_text().replace("ARG A   2", "LYS A   2"))
    with pytest.raises(InputError, match=r"residue .*2 is LYS, the template's .*2 is ARG"):
        open_models([other], read_template(lopsided / "template.cif"))


def test_a_model_of_the_user_is_compared_as_well(unposed, lopsided, tmp_path):
    search = SEARCH | {"models": [str(lopsided / "model.pdb")], "approach": {"rounds": 0}, "epochs": [1]}
    train(parse_config(search_settings(unposed, search=search), "test"), tmp_path / "run")
    assert RunFolder(tmp_path / "run").load_poses() is not None


@pytest.mark.parametrize(
    "decoder",
    [{"kind": "chains", "modes": 3}, {"kind": "chains", "modes": 3, "adapt": False}],
    ids=["adapt", "published"],
)
def test_a_decoder_of_a_given_form_knows_the_library(unposed, lopsided, tmp_path, caplog, decoder):
    """It is not taught, which would leave it motions of the path alone: its chains move there by themselves."""
    turned = gemmi.read_structure(str(lopsided / "model.pdb"))
    for residue in turned[0]["B"]:
        for atom in residue:
            atom.pos = gemmi.Position(atom.pos.x + 3, atom.pos.z - 9, 9 - atom.pos.y)
    turned.write_pdb(str(tmp_path / "turned.pdb"))
    search = SEARCH | {"models": [str(tmp_path / "turned.pdb")], "approach": {"rounds": 0}, "epochs": [1]}
    training = {"epochs": 2, "batch_size": 8}
    settings = search_settings(unposed, search=search, training=training, decoder=decoder)
    with caplog.at_level("INFO"):
        train(parse_config(settings, "test"), tmp_path / "run")
    assert "the decoder learned 2 conformations to 0.00 Å" in caplog.text
    assert evaluate(tmp_path / "run", lopsided / "truth.npz").rotation_error_median_deg < 15


class Bending(ConformationModel):
    """Moves one residue of four along x by the first latent coordinate."""

    Settings = Settings

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.latent_dim = 3
        self.register_buffer("template", torch.arange(12.0).view(4, 3))

    def displacement(self, z):
        moved = torch.zeros(len(z), 4, 3)
        moved[:, 0, 0] = z[:, 0]
        moved[:, 1, 1] = 0.1 * z[:, 1]
        return moved


def test_a_library_follows_the_main_motion_and_goes_beyond_it():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 3, generator=generator)
    z[:, 0] = torch.rand(4000, generator=generator) * 4 - 2
    others = torch.zeros(2, 4, 3)
    library = along_main_motion(Bending(), z, 7, 0.5, others)
    assert library.latents.shape == (7, 3)
    assert library.conformations.shape == (9, 4, 3)
    torch.testing.assert_close(library.conformations[7:], others)
    first = library.latents[:, 0] * torch.sign(library.latents[-1, 0])
    # The middle 96 % of -2 to 2, and half of that beyond either end.
    expected = torch.linspace(-3.84, 3.84, 7)
    torch.testing.assert_close(first, expected, atol=0.15, rtol=0)
    assert library.latents[:, 1:].abs().max() < 0.3


def test_particles_that_are_all_alike_have_one_conformation():
    library = along_main_motion(Bending(), torch.ones(50, 3), 7, 0.5, torch.zeros(1, 4, 3))
    torch.testing.assert_close(library.latents, torch.ones(1, 3))


def test_conformations_are_put_in_order_of_their_main_difference():
    at = torch.tensor([0.3, -1.0, 0.9, 0.0])
    x = at[:, None, None] * torch.ones(4, 5, 3)
    order = _order(x).tolist()
    assert order in ([1, 3, 0, 2], [2, 0, 3, 1])


TWO = {"shape": slice(0, 2)}


@pytest.mark.parametrize(
    "latents",
    [TableLatents(TableLatentsSettings(), TWO, 6), VariationalLatents(VariationalLatentsSettings(), TWO, 6)],
    ids=["table", "variational"],
)
def test_placed_particles_start_afresh_where_they_were_put(latents):
    optimizer = latents.optimizer(0.1, 0.01)
    batch = coarse_batch(8, images=6)
    latents.cost(batch).sum().backward()
    optimizer.step()
    before = latents.table.weight.detach().clone()
    rows = torch.tensor([1, 4])
    latents.place(optimizer, rows, torch.full((2, 2), 3.0))
    latents.eval()
    z = latents(batch)
    torch.testing.assert_close(z[rows], torch.full((2, 2), 3.0))
    others = [0, 2, 3, 5]
    torch.testing.assert_close(latents.table.weight[others], before[others])
    (state,) = optimizer.state.values()
    assert (state["steps"][rows] == 0).all()
    assert (state["steps"][others] == 1).all()
    torch.testing.assert_close(latents.table.weight[rows, 2:], before[rows, 2:])


def test_replaced_poses_lose_their_corrections_and_no_others():
    poses = SearchedPoses(SearchedPosesSettings(), 6)
    optimizer = poses.optimizer()
    batch = coarse_batch(8, images=6)
    rotation, shift = poses.best(batch)
    (rotation[:, 0, 1].sum() + shift.sum()).backward()
    optimizer.step()
    moved = poses.corrections.table.weight.detach().clone()
    assert (moved.abs().sum(1) > 0).all()
    turned = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    poses.replace(torch.tensor([2]), turned[None], torch.tensor([[1.0, 2.0]]), optimizer)
    rotation, shift = poses.best(batch)
    torch.testing.assert_close(rotation[2], turned)
    torch.testing.assert_close(shift[2], torch.tensor([1.0, 2.0]))
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(poses.corrections.table.weight[others], moved[others])
    assert poses.cost(batch)[2] == 0


def test_noise_moves_nothing(unposed, tmp_path):
    """Images without signal leave the template where it is, and leave particles at the middle of latent space."""
    noise = tmp_path / "noise"
    noise.mkdir()
    for name in ("particles.star", "template.cif"):
        shutil.copy(unposed / name, noise)
    with mrcfile.open(unposed / "particles.mrcs") as stack:
        shape = stack.data.shape
    with mrcfile.new(noise / "particles.mrcs") as stack:
        stack.set_data(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
        stack.voxel_size = 2.5
    train(parse_config(search_settings(noise), "test"), tmp_path / "run")
    fitted = FittedRun(tmp_path / "run")
    x = np.concatenate([x for _, x in fitted.decode(np.arange(len(fitted.source_index)))])
    assert np.sqrt(np.square(x - x.mean(0)).sum(-1).mean()) < 0.5
    assert np.sqrt(np.square(x.mean(0) - fitted.template.coordinates).sum(-1).mean()) < 0.5
    assert RunFolder(tmp_path / "run").load_posterior().elsewhere.mean() > 0.1  # no pose is better than all others


def test_clear_images_leave_no_doubt_where_a_lopsided_molecule_lies(searched):
    posterior = RunFolder(searched).load_posterior()
    assert np.median(posterior.elsewhere) < 1e-3
    assert (posterior.elsewhere >= 0).all()


def test_what_another_pose_would_mean_is_added_to_the_uncertainty():
    model, square = np.zeros((3, 1)), np.array([0.0, 9.0, 0.25], np.float32)
    flat = {
        "latents": model,
        "directions": model,
        "covariance": model,
        "rest": model,
        "information": model,
        "relevance": model,
    }
    sure = Uncertainty(
        **flat,
        deviation=np.array([1.0, 4.0, 0.0], np.float32),
        residues=np.array([3.0, 0.0], np.float32),
        explained=model,
        junk=model,
        elsewhere=np.zeros(3, np.float32),
        choices=np.ones(3, np.float32),
    )
    probability = np.array([0.0, 0.9, 0.1], np.float32)
    kept = np.array([1.0, 1.0, 0.0], np.float32)
    shown = Everywhere(probability, 0 * kept, 1 + kept, kept, square, np.array([16.0, 1.0], np.float32))
    wider = sure.with_other_poses(shown)
    np.testing.assert_allclose(wider.deviation, [1, 5, 0.5])
    np.testing.assert_allclose(wider.residues, [5, 1])
    np.testing.assert_allclose(wider.elsewhere, [0, 0.9, 0.1])
    np.testing.assert_allclose(wider.choices, [2, 2, 1])
    halved = sure.with_other_poses(replace(shown, kept=np.array([0.0, 0.5, 0.0], np.float32), square=0 * square))
    np.testing.assert_allclose(halved.deviation, [0, 8**0.5, 0])
    np.testing.assert_allclose(halved.residues, [(16 + 9 * 8 / 17) ** 0.5, 1], rtol=1e-6)


def test_conformations_are_compared_after_superposition():
    generator = torch.Generator().manual_seed(0)
    x, turn = torch.randn(4, 30, 3, generator=generator), roma.random_rotmat(4)
    moved = torch.einsum("bij,bnj->bni", turn, x) + torch.tensor([3.0, -2.0, 9.0])
    assert squared_distance(moved, x).max() < 1e-6
    stretched = x * 1.1
    expected = (0.1 * (x - x.mean(1, keepdim=True))).square().sum(2)
    torch.testing.assert_close(squared_distance(stretched, x), expected, rtol=1e-3, atol=1e-5)


def test_conformations_and_poses_are_brought_to_one_frame(searched):
    """What is seen in the images does not change; the core of each conformation lies on the template's."""
    fitted = FittedRun(searched)
    poses = fitted.found_poses
    assert poses is not None
    rows = np.arange(len(fitted.source_index))
    ((_, decoded),) = fitted.decode(rows)
    seen = decoded @ np.swapaxes(poses.rotation[:, :2], 1, 2) + poses.shift[:, None]
    state = RunFolder(searched).load_checkpoint()["reconstruction"]
    source = SearchedPoses(SearchedPosesSettings(), len(rows))
    source.load_state_dict({name[6:]: value for name, value in state.items() if name.startswith("poses.")})
    rotation, shift = source.best(coarse_batch(8, images=len(rows)))
    with torch.inference_mode():
        raw = fitted.model(torch.from_numpy(fitted.latents))
        expected = project(raw, rotation, shift).numpy()
    np.testing.assert_allclose(seen, expected, atol=2e-4)
    turn, move = superpose_core(decoded, fitted.template.coordinates)
    np.testing.assert_allclose(turn, np.broadcast_to(np.eye(3), turn.shape), atol=1e-3)
    np.testing.assert_allclose(move, 0, atol=1e-2)


@pytest.fixture(scope="module")
def search_in_noise(unposed, tmp_path_factory):
    """A search in 200 images of noise, and where its batches come from."""
    folder = tmp_path_factory.mktemp("noise")
    shutil.copy(unposed / "template.cif", folder)
    with mrcfile.new(folder / "particles.mrcs") as stack:
        stack.set_data(np.random.default_rng(0).standard_normal((200, 32, 32)).astype(np.float32))
        stack.voxel_size = 2.5
    lines = (unposed / "particles.star").read_text().splitlines()
    images = [line for line in lines if "@" in line]
    head = lines[: lines.index(images[0])]
    rows = [images[i % len(images)].replace(f"{i % len(images) + 1:06d}@", f"{i + 1:06d}@") for i in range(200)]
    (folder / "particles.star").write_text("\n".join(head + rows) + "\n")
    config = parse_config(search_settings(folder), "test")
    stack, template = open_particles(config.particles), read_template(folder / "template.cif")
    reconstruction = build_reconstruction(config, template, 1, 200).requires_grad_(False)
    latents = build_latents(config, reconstruction.conformations.latent_blocks(), 200)
    with torch.no_grad():
        beads = reconstruction.beads(reconstruction.conformations.template[None])
        source = reconstruction.likelihood.prepare(stack, beads, folder, room=10.0)
    nothing = np.empty((0, len(template), 3))
    settings = SearchSettings(directions=80, in_plane=24, approach=ApproachSettings(images=200))
    parts = (settings, reconstruction, latents, stack, template, nothing)
    return JointSearch(*parts, seed=0), source


def test_no_conformation_fits_noise_better_than_another(search_in_noise):
    """A shrunken molecule looks alike from all sides: the best of its poses fits noise less well, which counts not."""
    search, source = search_in_noise
    template = search.reconstruction.conformations.template
    x = torch.stack([template, 0.4 * template])
    scored = search._score(source)(x)
    difference = scored[0] - scored[1]
    error = difference.std() / len(difference) ** 0.5
    assert abs(difference.mean()) < 3 * error
    images = search._scan(APPROACH_GRID)
    seen = images.see(source.batch(np.arange(200)))
    raw = [images.lowest_normalised(seen, search.reconstruction.beads(one[None]), 1).misfit[:, 0] for one in x]
    assert (raw[0] - raw[1]).mean() < -5 * (raw[0] - raw[1]).std() / 200**0.5


def test_a_library_costs_its_latents_and_what_it_fits_by_chance(search_in_noise):
    search, source = search_in_noise
    template = search.reconstruction.conformations.template
    library = Library.free(torch.tensor([[2.0, 1.0]]), torch.stack([template, 0.4 * template, template]))
    scan = search._scan(APPROACH_GRID)
    price = search._priced(library, scan, source, scan.lowest_normalised).price
    torch.testing.assert_close(price[0] - price[2], torch.tensor(2.5), atol=1e-4, rtol=0)
    assert price[2] > price[1] + 0.5


def test_conformations_larger_than_the_windows_are_left_out_or_told(search_in_noise):
    search, _ = search_in_noise
    template = search.reconstruction.conformations.template
    scan = search._scan(APPROACH_GRID)
    none = torch.zeros(0, 2)
    kept = search._that_fit(scan, Library.free(none, torch.stack([5 * template, template])))
    torch.testing.assert_close(kept.conformations, template[None])
    with pytest.raises(InputError, match=r"reaches beyond the \d+ Å .* raise search.growth \(it is \d+ Å\)"):
        search._that_fit(scan, Library.free(none, 5 * template[None]))
