"""Ensembles of conformations that are given by a formula."""

import numpy as np

from cryomorph.analysis.ensemble import Ensemble
from cryomorph.analysis.requests import read_requests
from cryomorph.progress import Silent


def linear_ensemble(template, latents, directions, blocks=None):
    """Conformations that change linearly: `template + Σ_k z_k directions_k`, directions (d, n, 3) in Å."""
    latents = np.asarray(latents, dtype=np.float32)

    def decode(z):
        return (template.coordinates + np.einsum("bk,kni->bni", z, directions)).astype(np.float32)

    return Ensemble(template, latents, blocks or {"shape": slice(0, latents.shape[1])}, decode)


def flat_ensemble(template, places):
    """Conformations whose components are given places (m, k), but for their mean and the order of the components."""
    random = np.random.default_rng(1)
    n, k = len(template), np.shape(places)[1]
    directions, _ = np.linalg.qr(random.standard_normal((3 * n, k)))
    return linear_ensemble(template, places, directions.T.reshape(k, n, 3) * np.sqrt(n))


def surveyed(ensemble, count=5, **requests):
    from cryomorph.analysis.pca import survey

    return survey(ensemble, count, read_requests(ensemble.template, **requests), Silent())
