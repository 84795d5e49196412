import builtins

import numpy as np
import pytest

from cryomorph.analysis.embedding import embed
from cryomorph.errors import InputError


@pytest.fixture
def groups():
    """Two groups far apart, in random order, and which is which."""
    random = np.random.default_rng(0)
    second = random.uniform(size=120) < 0.5
    return second, (random.standard_normal((120, 4)) + 30 * second[:, None]).astype(np.float32)


def test_without_the_package_one_line_says_how_to_get_it(groups, monkeypatch):
    plain = builtins.__import__

    def without(name, *rest):
        if name == "umap":
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"--umap needs the package umap-learn: pip install 'cryomorph\[umap\]'"):
        embed(groups[1], 0)


def quiet_embed(*arguments, **more):
    pytest.importorskip("umap", reason="umap-learn is not installed")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's own
        return embed(*arguments, **more)


def test_groups_that_are_apart_stay_apart(groups):
    second, latents = groups
    columns = quiet_embed(latents, 0)
    places = np.stack([columns["umap1"], columns["umap2"]], axis=1)
    assert places.dtype == np.float32
    middles = np.array([places[~second].mean(0), places[second].mean(0)])
    nearest = np.linalg.norm(places[:, None] - middles, axis=-1).argmin(1)
    np.testing.assert_array_equal(nearest, second)


def test_particles_beyond_the_most_have_no_place(groups):
    columns = quiet_embed(groups[1], 0, most=60)
    assert np.isfinite(columns["umap1"]).sum() == 60
    np.testing.assert_array_equal(np.isnan(columns["umap1"]), np.isnan(columns["umap2"]))
