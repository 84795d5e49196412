import numpy as np
import pytest

from cryomorph.plots import plot_shells


@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
@pytest.mark.parametrize("groups", [1, 3, 40])
def test_shells_of_some_groups_are_drawn(tmp_path, suffix, magic, groups):
    """One group may be without particles, and so without a pixel size."""
    frequency = np.arange(33) / (66 * np.linspace(1, 2, groups))[:, None]
    frequency[1:2] = np.nan
    path = tmp_path / f"shells{suffix}"
    plot_shells(path, frequency, noise=1 + frequency, signal=np.exp(-50 * frequency**2))
    assert path.read_bytes().startswith(magic)


def test_the_axis_is_labelled_with_resolution_in_angstroms(tmp_path, monkeypatch):
    labels = {}

    def keep(axes, ticks, names):
        labels.update(zip(names, ticks, strict=True))

    monkeypatch.setattr("matplotlib.axes.Axes.set_xticks", keep)
    plot_shells(tmp_path / "shells.svg", np.arange(51)[None] / 200, noise=np.ones((1, 51)))
    assert {"20", "10", "5", "4"} <= labels.keys()
    for name, at in labels.items():
        assert float(name) == pytest.approx(1 / at, rel=0.01)
