"""Data whose motion is known, most of it none, through simulation, training of two halves and their comparison."""

import gemmi
import mrcfile
import numpy as np

from conftest import BEND_RADIUS, bent, helix_model
from cryomorph.config import parse_config
from cryomorph.evaluation import read_truth
from cryomorph.geometry import rmsd
from cryomorph.halves import train_halves
from cryomorph.simulate import SimulationSettings
from cryomorph.structure.model import read_template
from cryomorph.verdict import verdict
from cryomorph.workflows import simulate_images
from small_runs import run_settings

IMAGES = 240


def simulate_helix(folder, radii):
    """Images of a helix bent in each of some ways (None: straight), and the straight one as the template."""
    straight = helix_model({"A": 24})
    straight.write_pdb(str(folder / "straight.pdb"))
    models = gemmi.Structure()
    for number, radius in enumerate(radii, start=1):
        model = (straight if radius is None else bent(straight, radius))[0].clone()
        model.num = number
        models.add_model(model)
    models.setup_entities()
    models.write_pdb(str(folder / "ensemble.pdb"))
    settings = SimulationSettings(
        images_per_conformation=IMAGES // len(radii), box=24, pixel_size=2.5, defocus=(5000, 8000), snr_db=0, seed=1
    )
    simulate_images(folder / "ensemble.pdb", folder, settings, template=folder / "straight.pdb")


def halves(folder, epochs=12):
    changed = {
        "decoder": {"kind": "gnn", "latent_dim": 2, "layers": 3},
        "latents": "variational",
        "training": {"epochs": epochs, "batch_size": 8},
    }
    return train_halves(parse_config(run_settings(folder, **changed), "test"), folder / "run")


def test_noise_shows_neither_motion_nor_molecule(tmp_path):
    simulate_helix(tmp_path, [None])
    with mrcfile.open(tmp_path / "particles.mrcs", "r+") as stack:
        stack.data[:] = np.random.default_rng(0).standard_normal(stack.data.shape)
    found = halves(tmp_path)
    assert not found.motion.resolved
    assert found.motion.at_most < 0.3
    assert verdict(found).startswith("the molecule is not in the images at these poses; no motion beyond noise")


def test_one_conformation_shows_no_motion(tmp_path):
    simulate_helix(tmp_path, [None])
    found = halves(tmp_path)
    assert not found.motion.resolved
    assert found.motion.at_most < 0.3
    assert found.from_template < 0.3
    assert verdict(found).startswith("no motion beyond noise")


def test_a_wrong_template_is_a_shift_of_the_mean_and_no_motion(tmp_path):
    simulate_helix(tmp_path, [BEND_RADIUS])
    truth = read_truth(tmp_path / "truth.npz").coordinates[0]
    found = halves(tmp_path, epochs=30)
    wrong = rmsd(read_template(tmp_path / "template.cif").coordinates, truth)
    assert not found.motion.resolved
    assert found.motion.at_most < 0.3
    assert found.from_template > 0.6 * wrong
    assert found.between_halves < 0.3 * wrong
    assert rmsd(found.means.mean(0), truth) < 0.5 * wrong


def test_two_conformations_are_two_states(tmp_path):
    simulate_helix(tmp_path, [BEND_RADIUS, -BEND_RADIUS])
    apart = rmsd(*read_truth(tmp_path / "truth.npz").coordinates)
    found = halves(tmp_path, epochs=30)
    assert found.motion.resolved
    assert found.states.count == 2
    assert 0.4 * apart < found.states.separation < 1.1 * apart
    assert 0.4 * apart < 2 * found.motion.angstrom < 1.1 * apart
    assert "two states" in verdict(found)
