"""Everything that an analysis finds, one after the other."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.analysis.bodies import find_bodies
from cryomorph.analysis.embedding import embed, require_umap
from cryomorph.analysis.ensemble import Ensemble
from cryomorph.analysis.landscape import landscape
from cryomorph.analysis.motions import find_motions
from cryomorph.analysis.pca import latent_places, survey
from cryomorph.analysis.requests import read_requests
from cryomorph.analysis.result import Analysis
from cryomorph.analysis.settings import AnalysisSettings
from cryomorph.analysis.states import find_states
from cryomorph.errors import InputError
from cryomorph.progress import Progress, Silent

logger = logging.getLogger(__name__)

LEAST = 10
"""Particles of which anything can be said."""

Column = NDArray[Any]


def analyse(
    ensemble: Ensemble,
    settings: AnalysisSettings | None = None,
    measures: Mapping[str, Column] | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Find motions, states and flexibility of an ensemble; every conformation is decoded twice at most.

    Parameters
    ----------
    ensemble
        Of m particles.
    settings
        What is asked for; the defaults when None.
    measures
        Further columns (m,), such as those of the posterior.
    progress
        Told of every batch.

    Raises
    ------
    InputError
        If there are fewer than ten particles, latents or conformations that are no numbers, or what is asked for cannot
        be had.
    """
    settings, progress = settings or AnalysisSettings(), progress or Silent()
    if len(ensemble) < LEAST:
        raise InputError(f"{len(ensemble)} particles: an analysis needs at least {LEAST}")
    requests = read_requests(ensemble.template, settings.distances, settings.angles, settings.dihedrals)
    if settings.umap:
        require_umap()
    broken = np.flatnonzero(~np.isfinite(ensemble.latents).all(1))
    if len(broken):
        raise InputError(
            f"latents of {len(broken)} particles are no numbers, the first in row {broken[0]}; train again"
        )
    found = survey(ensemble, settings.components, requests, progress)
    places = found.places
    states, number = find_states(ensemble, places, settings.states, settings.seed)
    motions = find_motions(
        ensemble,
        found.components,
        places,
        traversals=settings.traversals,
        steps=settings.steps,
        percentiles=settings.percentiles,
    )
    columns: dict[str, Column] = {f"pc{rank}": place for rank, place in enumerate(places.T, start=1)}
    columns["state"] = number
    columns |= found.measured
    columns |= dict(measures or {})
    columns |= latent_places(ensemble)
    columns |= embed(ensemble.latents, settings.seed) if settings.umap else {}
    columns |= {f"z{rank}": coordinate for rank, coordinate in enumerate(ensemble.latents.T, start=1)}
    return Analysis(
        columns=columns,
        components=found.components,
        states=states,
        motions=motions,
        landscape=landscape(("pc1", "pc2"), places[:, 0], places[:, 1], settings.bins),
        rmsf=found.rmsf,
        bodies={motion.name: find_bodies(motion.coordinates[0], motion.coordinates[-1]) for motion in motions},
    )
