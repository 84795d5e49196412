"""How much the contrast of images differs: found from simulated sums, and nothing found where there is nothing."""

import numpy as np
import pytest
import torch

from cryomorph.calibration import ImageSums
from cryomorph.config import parse_config
from cryomorph.contrast import moments, spread
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.run import RunFolder
from cryomorph.simulate import Nuisances, SimulationSettings
from cryomorph.workflows import simulate_images, train
from small_runs import run_settings

GAIN = torch.tensor([1.5, 0.4], dtype=torch.float64)


def sums_of(images, deviation, seed=0, shells=12):
    """Sums of images whose scales have a deviation, with the noise that a calibration states."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    group = torch.arange(images) % 2
    noise = torch.linspace(0.5, 2.0, shells, dtype=torch.float64).expand(2, -1)
    signal = torch.linspace(1.4, 0.6, shells, dtype=torch.float64).expand(2, -1)
    model = 40 * (1 + 0.3 * normal(images, 1).clamp(-2, 2)) * torch.linspace(1, 0.1, shells)
    scale = GAIN[group, None] * (1 + deviation * normal(images, 1))
    cross = scale * signal[group] * model + (noise[group] * model).sqrt() * normal(images, shells)
    return ImageSums(group, cross, model), ShellCalibration(noise=noise, signal=signal)


@pytest.mark.parametrize("deviation", [0.15, 0.4])
def test_the_deviation_of_scales_is_found(deviation):
    found = spread(moments(*sums_of(4000, deviation), GAIN))
    assert found.deviation == pytest.approx(deviation, rel=0.07)
    assert abs(found.variance - deviation**2) < 4 * found.error


def test_the_error_is_the_scatter_of_the_estimate():
    found = [spread(moments(*sums_of(500, 0.2, seed), GAIN)) for seed in range(40)]
    scatter = np.std([one.variance for one in found])
    assert scatter == pytest.approx(np.mean([one.error for one in found]), rel=0.35)


def test_without_evidence_there_is_none():
    found = [spread(moments(*sums_of(500, 0.0, seed), GAIN)).deviation for seed in range(40)]
    assert sum(value > 0 for value in found) <= 4
    empty, calibration = sums_of(0, 0.0)
    assert spread(moments(empty, calibration, GAIN)).deviation == 0.0


def test_sums_of_processes_add_up():
    images, calibration = sums_of(10, 0.3)
    parts = [ImageSums(*(value[rows] for value in vars(images).values())) for rows in (slice(0, 4), slice(4, 10))]
    together = sum(moments(part, calibration, GAIN) for part in parts)
    torch.testing.assert_close(together, moments(images, calibration, GAIN))


def test_training_finds_the_contrast_and_keeps_it_in_the_checkpoint(simulated, tmp_path):
    """Two hundred clear images of two conformations, whose contrast differs by a third, and by nothing."""
    found = {}
    for contrast in (0.0, 0.33):
        folder = tmp_path / str(contrast)
        settings = SimulationSettings(
            images_per_conformation=100, box=32, pixel_size=3.0, dose=400, nuisances=Nuisances(contrast=contrast)
        )
        simulate_images(simulated / "ensemble.pdb", folder, settings, template=simulated / "straight.pdb")
        training = {"epochs": 3, "batch_size": 8}
        run = train(
            parse_config(
                run_settings(
                    folder, training=training, likelihood={"scale_spread": "auto"}, calibration={"epochs": [0, 2]}
                ),
                "test",
            ),
            tmp_path / f"run-{contrast}",
        )
        found[contrast] = float(RunFolder(run.path).load_checkpoint()["reconstruction"]["likelihood.spread"])
    assert found[0.0] < 0.15
    assert 0.2 < found[0.33] < 0.5


def test_groups_of_different_contrast_have_gains_in_their_ratio(simulated, tmp_path):
    settings = SimulationSettings(
        images_per_conformation=60, box=32, pixel_size=3.0, dose=400, nuisances=Nuisances(group_contrast=(1.0, 0.5))
    )
    simulate_images(simulated / "ensemble.pdb", tmp_path, settings, template=simulated / "straight.pdb")
    training = {"epochs": 1, "batch_size": 8}
    run = train(parse_config(run_settings(tmp_path, training=training), "test"), tmp_path / "run")
    gain = RunFolder(run.path).load_checkpoint()["reconstruction"]["likelihood.gain"]
    assert float(gain[1] / gain[0]) == pytest.approx(0.5, abs=0.05)
