"""Poses that are off are found again, together with the conformations."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryomorph.config import parse_config
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.stack import ParticleStack
from cryomorph.results import evaluate
from cryomorph.simulate import SimulationSettings
from cryomorph.workflows import simulate_images, train
from small_runs import run_settings

EPOCHS = {"epochs": 40, "batch_size": 8, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def perturbed(simulated, tmp_path_factory):
    """Clear images of the two conformations of `simulated`, with poses that are off by 4° and 1 Å along each axis."""
    folder = tmp_path_factory.mktemp("perturbed")
    settings = SimulationSettings(
        images_per_conformation=24, box=32, pixel_size=2.0, defocus=(5000, 8000), snr_db=12, align=True, seed=5
    )
    star = simulate_images(simulated / "ensemble.pdb", folder, settings, template=simulated / "straight.pdb")
    stack = ParticleStack.open(star)
    generator = np.random.default_rng(3)
    turn = Rotation.from_rotvec(np.deg2rad(4) * generator.normal(size=(len(stack), 3)))
    rotation = stack.table.rotation @ turn.as_matrix()
    shift = stack.table.shift + generator.normal(size=(len(stack), 2))
    stack.write(folder / "perturbed.star", poses=FoundPoses(rotation, shift, np.zeros(len(stack))))
    return folder


def result(folder, out, kind):
    settings = run_settings(folder, training=EPOCHS, poses=kind)
    settings["particles"]["path"] = str(folder / "perturbed.star")
    return evaluate(train(parse_config(settings, "test"), out / kind).path, folder / "truth.npz")


def test_poses_and_conformations_are_nearer_the_truth_than_with_the_poses_given(perturbed, tmp_path):
    known, refined = (result(perturbed, tmp_path, kind) for kind in ("known", "refine"))
    assert refined.rmsd_mean < 0.75 * known.rmsd_mean
    assert refined.rotation_error_median_deg < 0.8 * known.rotation_error_median_deg
    assert refined.shift_error_median_angstrom < 0.7 * known.shift_error_median_angstrom
