"""The image encoder of CryoChains: its size, its sums written out, what it sees, and runs with it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch

from cryomorph.config import component, parse_config, read_config
from cryomorph.errors import InputError
from cryomorph.latents._encoding import EncoderSettings, ImageEncoder, encoder_input
from cryomorph.particles.preprocess import fourier_crop
from cryomorph.run import RunFolder
from cryomorph.workflows import train
from dense_likelihood import coarse_batch
from small_runs import assert_same_run, latents_of, metrics_without_times, run_settings

FILTERS = (32, 128, 256, 512)
SMALL = {"kind": "encoder", "filters": (4, 8), "hidden": 8, "box": 16}


def weights(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_network_has_the_paper_s_size():
    """3 × 3 kernels and a bias for each filter; 512 features, 256 hidden units, and a chain's modes, axes and shift."""
    network = ImageEncoder(EncoderSettings(), [50, 6, 3])
    counts = []
    for before, filters in zip((1, *FILTERS), FILTERS, strict=False):
        counts += [(9 * before + 1) * filters, (9 * filters + 1) * filters]
    assert counts == [320, 9_248, 36_992, 147_584, 295_168, 590_080, 1_180_160, 2_359_808]
    assert [weights(block) for block in network.blocks] == [sum(counts[i : i + 2]) for i in range(0, 8, 2)]
    assert weights(network.blocks) == 4_619_360
    heads = [(512 + 1) * 256 + (256 + 1) * size for size in (50, 6, 3)]
    assert [weights(head) for head in network.heads] == heads == [144_178, 132_870, 132_099]


@pytest.mark.parametrize("box", [8, 64, 100, 129, 256, 300])
def test_four_blocks_halve_any_box_eight_times(box):
    network = ImageEncoder(EncoderSettings(filters=(2, 2, 2, 2)), [3])
    left = box
    for _ in range(8):
        left = -(-left // 2)
    assert network.blocks(torch.randn(1, 1, box, box)).shape == (1, 2, left, left)


def convolved(x, weight, bias):
    """3 × 3 correlation of (c, H, W) with zeros around, written out."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    result = np.empty((len(weight), *x.shape[1:]))
    for filter_, row, column in np.ndindex(result.shape):
        result[filter_, row, column] = bias[filter_] + np.sum(
            weight[filter_] * padded[:, row : row + 3, column : column + 3]
        )
    return result


def pooled(x):
    result = np.empty((len(x), -(-x.shape[1] // 2), -(-x.shape[2] // 2)))
    for channel, row, column in np.ndindex(result.shape):
        result[channel, row, column] = x[channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].max()
    return result


@pytest.mark.parametrize("box", [9, 20])
def test_the_network_is_its_sums_written_out(box):
    torch.manual_seed(0)
    network = ImageEncoder(EncoderSettings(filters=(3, 5), hidden=7), [2, 1]).double()
    for parameter in network.parameters():  # biases too
        torch.nn.init.normal_(parameter)
    images = torch.randn(2, box, box, dtype=torch.float64)
    found = torch.cat(network(images, torch.ones(2, dtype=torch.float64)), dim=1)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    for image, z in zip(images.numpy(), found.detach().numpy(), strict=True):
        x = ((image - image.mean()) / image.std())[None]
        for layer in ("0.first", "0.second", "1.first", "1.second"):
            x = pooled(convolved(x, state[f"blocks.{layer}.weight"], state[f"blocks.{layer}.bias"])).clip(0)
        features, expected = x.mean((1, 2)), []
        for head in ("0", "1"):
            hidden = state[f"heads.{head}.0.weight"] @ features + state[f"heads.{head}.0.bias"]
            expected.append(state[f"heads.{head}.2.weight"] @ hidden.clip(0) + state[f"heads.{head}.2.bias"])
        np.testing.assert_allclose(z, np.concatenate(expected), rtol=2e-6)


def standardised(images):
    return (images - images.mean((1, 2), keepdims=True)) / images.std((1, 2), keepdims=True)


@pytest.mark.parametrize(("size", "box"), [(32, 16), (32, 15), (31, 16), (31, 15), (32, 32)])
def test_images_are_cropped_as_when_they_are_read(size, box):
    images = np.random.default_rng(0).normal(size=(3, size, size)).astype(np.float32)
    found = encoder_input(torch.from_numpy(images), torch.ones(3), box).numpy()
    np.testing.assert_allclose(found, standardised(fourier_crop(images, box)), atol=1e-5)


def test_images_smaller_than_the_box_stay():
    images = 5 + 3 * torch.randn(2, 17, 17)
    np.testing.assert_allclose(
        encoder_input(images, torch.ones(2), 64).numpy(), standardised(images.numpy()), atol=1e-5
    )


@pytest.mark.parametrize(("size", "box"), [(32, 32), (32, 15), (31, 16)])
def test_the_low_pass_is_a_gaussian_that_halves_the_amplitude(size, box):
    """Against SciPy; a Gaussian filter of σ pixels multiplies by `exp(-½ (2π σ f)²)`, ½ at `f = pixel / low_pass`."""
    images = np.random.default_rng(0).normal(size=(2, size, size))
    pixel_size = np.array([1.5, 2.0])
    found = encoder_input(torch.from_numpy(images), torch.from_numpy(pixel_size), box, low_pass=9.0).numpy()
    expected = []
    for image, pixel in zip(images, pixel_size, strict=True):
        sigma = 9.0 / pixel * np.sqrt(2 * np.log(2)) / (2 * np.pi)
        smooth = scipy.fft.ifft2(scipy.ndimage.fourier_gaussian(scipy.fft.fft2(image), sigma)).real
        expected.append(fourier_crop(smooth[None], box)[0])
    np.testing.assert_allclose(found, standardised(np.array(expected)), atol=2e-5)


def test_images_that_are_the_same_everywhere_are_not_a_reason_to_stop():
    assert not encoder_input(torch.ones(1, 16, 16), torch.ones(1), 8).isnan().any()


def made(kind="encoder", blocks=None, **settings):
    torch.manual_seed(0)
    cls = component("latents", kind)
    return cls(cls.Settings(**settings), {"shape": slice(0, 2)} if blocks is None else blocks, 10)


@pytest.mark.parametrize("kind", ["encoder", "variational_encoder"])
def test_images_do_not_influence_each_other(kind):
    latents = made(kind, filters=(4, 8), box=16).eval()
    batch = coarse_batch(24, images=5)
    together = latents(batch)
    one_by_one = torch.cat([latents(batch[torch.tensor([row])]) for row in range(5)])
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-7)
    assert (together[1:] - together[:-1]).abs().amax(1).min() > 1e-4


def test_brightness_and_contrast_of_an_image_change_nothing():
    latents = made(filters=(4, 8)).eval()
    batch = coarse_batch(24)
    before = latents(batch)
    batch.image = 7 * batch.image - 3
    torch.testing.assert_close(latents(batch), before, rtol=1e-4, atol=1e-6)


def test_training_starts_in_the_middle_of_latent_space():
    """The paper's network on images of noise: latents are small, but images differ."""
    z = made().eval()(coarse_batch(64, images=16))
    assert z.abs().max() < 0.5
    assert z.std(0).min() > 1e-4


def test_each_block_has_a_head_of_its_own():
    blocks = {"modes A": slice(0, 3), "rotation A": slice(3, 9), "translation A": slice(9, 12)}
    latents = made(blocks=blocks, filters=(4,), hidden=5)
    batch = coarse_batch(16)
    before = latents(batch)
    with torch.no_grad():
        latents.network.heads[1][2].bias += 1
    moved = (latents(batch) - before).abs().amin(0)
    torch.testing.assert_close(moved, torch.tensor([0.0] * 3 + [1.0] * 6 + [0.0] * 3))


@pytest.mark.parametrize("kind", ["encoder", "variational_encoder"])
def test_the_network_learns_where_a_blob_is(kind):
    """To a fifth of what one would be off without looking, on images that it has not seen."""
    generator = torch.Generator().manual_seed(0)
    place = 4 * torch.rand(600, 2, generator=generator) - 2
    along = torch.arange(16) - 8.0
    blob = (
        torch.exp(-(along - place[:, :1]).square() / 4)[:, None]
        * torch.exp(-(along - place[:, 1:]).square() / 4)[:, :, None]
    )
    batch = coarse_batch(16, images=600)
    batch.image = blob + 0.05 * torch.randn(600, 16, 16, generator=generator)
    latents = made(kind, filters=(8, 16), hidden=32)
    optimizer = latents.optimizer(0.0, 3e-3)
    for step in range(250):
        rows = torch.arange(500)[step % 10 :: 10]
        optimizer.zero_grad()
        (latents(batch[rows]) - place[rows]).square().mean().backward()
        optimizer.step()
    error = (latents.eval()(batch)[500:] - place[500:]).square().mean().sqrt()
    assert error < 0.2 * place.std()


def test_widths_start_where_they_are_asked_to():
    latents = made("variational_encoder", start_width=0.2, filters=(4, 8))
    batch = coarse_batch(16, images=4)
    mean = latents.eval()(batch)
    drawn = latents.train()(batch[torch.arange(4).repeat(500)]).view(500, 4, 2)
    np.testing.assert_allclose(drawn.std(0).detach().numpy(), 0.2, rtol=0.35)  # the network has its say as well
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.05, rtol=0)
    width = torch.tensor(0.2)
    expected = (mean.square() + width.square() - 1 - 2 * width.log()).sum(1) / 2
    np.testing.assert_allclose(latents.cost(batch).detach(), expected.detach(), rtol=0.35)


def encoder_settings(folder, **changes):
    return run_settings(folder, latents=SMALL, **changes)


def test_a_search_needs_latents_of_its_own_for_each_particle(simulated):
    with pytest.raises(InputError) as caught:
        parse_config(encoder_settings(simulated, poses="search"), "run.yaml")
    assert str(caught.value) == (
        "run.yaml: settings: poses: search places the latents of each particle, and latents: encoder are shared by "
        "all; choose latents: table or variational"
    )


@pytest.fixture(scope="module")
def never_stopped(simulated, tmp_path_factory):
    """A run that calibrates, corrects poses and draws random numbers, with a checkpoint after each batch."""
    out = tmp_path_factory.mktemp("never_stopped") / "run"
    training = {"epochs": 2, "batch_size": 12, "checkpoint_minutes": 1e-9}
    settings = encoder_settings(simulated, training=training, poses="refine", calibration={"epochs": [0, 1]})
    settings["latents"] = SMALL | {"kind": "variational_encoder"}
    train(parse_config(settings, "test"), out)
    return out


def test_a_killed_run_with_an_encoder_ends_as_if_never_stopped(never_stopped, tmp_path):
    driver, config = Path(__file__).parent / "killed_run.py", never_stopped / "config.yaml"
    command = [sys.executable, driver, config, tmp_path, "batch:3", "epoch:2"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for point in ("batch:3", "epoch:2"):
        out = shutil.copytree(tmp_path / point, tmp_path / f"{point} continued")
        train(read_config(config), out, resume=True)
        assert_same_run(never_stopped, out)


@pytest.mark.parametrize("likelihood", ["direct", "matched_filter"])
def test_runs_with_an_encoder_learn(simulated, tmp_path, likelihood):
    training = {"epochs": 4, "batch_size": 8}
    train(parse_config(encoder_settings(simulated, training=training, likelihood=likelihood), "test"), tmp_path)
    rows = metrics_without_times(tmp_path)
    assert rows[-1]["misfit"] < rows[0]["misfit"] < 0
    assert latents_of(tmp_path).std(0).min() > 1e-3


def test_two_processes_have_one_encoder(simulated, tmp_path):
    """Averaged gradients: two processes with batches of 6 make the steps of one with batches of 12."""
    settings = encoder_settings(simulated, training={"epochs": 2, "batch_size": 6})
    parse_config(settings, "test").write(tmp_path / "run.yaml")
    command = [sys.executable, "-m", "cryomorph", "train", "--config", tmp_path / "run.yaml", "--out", tmp_path / "two"]
    command += ["--devices", "2", "--accelerator", "cpu"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)
    if "connect" in done.stderr.lower():
        pytest.skip("no connection to localhost here")
    assert done.returncode == 0, done.stderr
    train(parse_config(settings | {"training": {"epochs": 2, "batch_size": 12}}, "test"), tmp_path / "one")
    for a, b in zip(*(metrics_without_times(tmp_path / name) for name in ("two", "one")), strict=True):
        assert a["misfit"] == pytest.approx(b["misfit"], rel=0.02)
    # What the first process wrote is what its checkpoint says, for its own particles and for the other's.
    state = RunFolder(tmp_path / "two").load_checkpoint()
    assert set(state["latent_optimizer"]["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert (state["latent_optimizer"]["state"][0]["step"], state["processes"]) == (8, 2)
    assert np.isfinite(latents_of(tmp_path / "two")).all()
