"""Windows on disk: made once, used again, made anew when what they depend on has changed."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomorph.errors import InputError
from cryomorph.likelihood import _store
from cryomorph.likelihood.base import ShellCalibration
from cryomorph.likelihood.matched_filter import MatchedFilter, MatchedFilterSettings
from cryomorph.particles.stack import ParticleStack
from cryomorph.progress import Silent
from cryomorph.structure.beads import bead_model
from cryomorph.structure.model import read_template


class Counts(Silent):
    def __init__(self):
        self.images = 0

    def advance(self, amount=1, note=""):
        self.images += amount


@pytest.fixture
def stack(simulated):
    return ParticleStack.open(simulated / "particles.star")


@pytest.fixture
def beads(simulated):
    template = read_template(simulated / "template.cif")
    return bead_model(template, "residue")(torch.from_numpy(template.coordinates).float()[None])


def prepare(stack, beads, folder, calibration=None, **settings):
    """Return the file of windows and how many images were read for it."""
    likelihood, progress = MatchedFilter(MatchedFilterSettings(**settings), 1), Counts()
    likelihood.calibration = calibration
    return likelihood.prepare(stack, beads, folder, progress), progress.images


def test_windows_are_made_once_and_found_again(stack, beads, tmp_path):
    first, made = prepare(stack, beads, tmp_path)
    again, made_again = prepare(stack, beads, tmp_path)
    assert (made, made_again) == (48, 0)
    assert first.path == again.path
    assert [path.name for path in tmp_path.iterdir()] == [first.path.name]
    assert np.load(first.path).dtype == np.float16


def test_a_batch_has_its_own_windows_in_any_order(stack, beads, tmp_path):
    source, _ = prepare(stack, beads, tmp_path, storage="float32")
    rows = np.array([40, 3, 17])
    batch = source.batch(rows)
    assert batch.image is None
    assert torch.equal(batch.index, torch.from_numpy(rows))
    np.testing.assert_array_equal(batch.statistic.numpy(), np.load(source.path)[rows])


CALIBRATION = ShellCalibration(torch.full((1, 12), 2.0), torch.ones(1, 12))


@pytest.mark.parametrize(
    "change",
    [
        {"margin": 5.0},
        {"storage": "float32"},
        {"calibration": CALIBRATION},
        {"calibration": replace(CALIBRATION, signal=CALIBRATION.signal * 2)},
    ],
)
def test_other_settings_make_other_windows_and_remove_the_old(change, stack, beads, tmp_path):
    old, _ = prepare(stack, beads, tmp_path)
    new, made = prepare(stack, beads, tmp_path, **change)
    assert made == 48
    assert [path.name for path in tmp_path.iterdir()] == [new.path.name] != [old.path.name]


@pytest.mark.parametrize(
    "column", ["shift", "defocus_u", "astigmatism_angle", "phase_shift", "b_factor", "sign", "amplitude_contrast"]
)
def test_windows_depend_on_what_is_known_of_the_particles(column, stack, beads, tmp_path):
    old, _ = prepare(stack, beads, tmp_path)
    values = getattr(stack.table, column).copy()
    values[5] = values[5] - 0.5
    changed = replace(stack, table=replace(stack.table, **{column: values}))
    new, made = prepare(changed, beads, tmp_path)
    assert (made, new.path == old.path) == (48, False)


def test_windows_depend_on_the_image_files(stack, beads, tmp_path):
    old, _ = prepare(stack, beads, tmp_path)
    file = stack.files[0].path
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    new, made = prepare(stack, beads, tmp_path)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (made, new.path == old.path) == (48, False)


def test_windows_do_not_depend_on_the_rotations(stack, beads, tmp_path):
    old, _ = prepare(stack, beads, tmp_path)
    turned = replace(stack, table=replace(stack.table, rotation=stack.table.rotation[::-1].copy()))
    new, made = prepare(turned, beads, tmp_path)
    assert (made, new.path) == (0, old.path)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 100])
def test_a_damaged_file_is_made_anew(damage, stack, beads, tmp_path):
    source, _ = prepare(stack, beads, tmp_path)
    whole = source.path.read_bytes()
    source.path.write_bytes(damage(whole))
    again, made = prepare(stack, beads, tmp_path)
    assert made == 48
    assert again.path.read_bytes() == whole


def test_half_written_windows_are_not_taken_for_whole_ones(stack, beads, tmp_path, monkeypatch):
    filtered, calls = _store.filtered_windows, []

    def breaks(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return filtered(*arguments)

    monkeypatch.setattr(_store, "IMAGES_AT_ONCE", 16)
    monkeypatch.setattr(_store, "filtered_windows", breaks)
    with pytest.raises(KeyboardInterrupt):
        prepare(stack, beads, tmp_path)
    assert not list(tmp_path.iterdir())
    _, made = prepare(stack, beads, tmp_path)
    assert made == 48


def test_images_too_bright_for_half_precision_are_refused(stack, beads, tmp_path, monkeypatch):
    filtered = _store.filtered_windows
    monkeypatch.setattr(_store, "filtered_windows", lambda *arguments: 1e7 * filtered(*arguments))
    with pytest.raises(InputError, match=r"too bright for float16: .* set likelihood.storage to float32"):
        prepare(stack, beads, tmp_path)
    assert not list(tmp_path.iterdir())
    prepare(stack, beads, tmp_path, storage="float32")
