"""Which particles of a run are meant, and what is known of each: selections by state, by condition and by row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.analysis.store import ARCHIVE, load_analysis
from cryomorph.analysis.where import matching
from cryomorph.errors import InputError
from cryomorph.export import select_rows
from cryomorph.fitted import FittedRun

MEASURES = ("deviation", "information", "explained", "junk", "elsewhere", "choices")
"""Of `cryomorph.uncertainty.Uncertainty`, written beside exported particles."""

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Choice:
    """Particles that meet all of some conditions; by default all of a run.

    Attributes
    ----------
    indices
        Rows of the run, from 0, in the order they are wanted.
    states
        Numbers of states, of which a particle must be in one.
    where
        Condition on the columns, see `cryomorph.analysis.where.matching`.
    max_junk
        Leaves out particles whose probability of being nothing but noise is larger.
    every
        Takes every so-many-th of what is left.
    """

    indices: NDArray[np.int64] | None = None
    states: Sequence[int] = ()
    where: str | None = None
    max_junk: float | None = None
    every: int = 1

    def rows(self, fitted: FittedRun, columns: Columns) -> NDArray[np.int64]:
        """Return the rows of the run (k,), k > 0.

        Parameters
        ----------
        fitted
            The run.
        columns
            What `particle_columns` returned.

        Raises
        ------
        InputError
            If a row, state or column does not exist, or nothing is left.
        """
        rows = select_rows(len(fitted.source_index), self.indices)
        if self.states:
            rows = rows[np.isin(_states(fitted, columns, self.states)[rows], self.states)]
        if self.where is not None:
            rows = rows[matching(self.where, columns, _more(fitted))[rows]]
        if self.max_junk is not None:
            if "junk" not in columns:
                fitted.run.load_posterior()  # which says what is missing
            rows = rows[columns["junk"][rows] <= self.max_junk]
        if len(rows) == 0:
            raise InputError(f"{fitted.run.path}: no particles are selected; {self._conditions()} leave none")
        return rows[:: self.every]

    def _conditions(self) -> str:
        given: dict[str, Any] = {"--indices": self.indices, "--state": self.states or None, "--where": self.where}
        given["--max-junk"] = self.max_junk
        return " and ".join(name for name, value in given.items() if value is not None)


def particle_columns(fitted: FittedRun) -> dict[str, NDArray[Any]]:
    """Return what there is of each particle, by name, each of shape (m,).

    Latent coordinates `z1` …, what the run says of its certainty, and the columns of its analysis if there is one.

    Raises
    ------
    InputError
        If the analysis is damaged, or of other particles.
    """
    columns: dict[str, NDArray[Any]] = {f"z{i + 1}": column for i, column in enumerate(fitted.latents.T)}
    if fitted.run.posterior.is_file():
        posterior = fitted.run.load_posterior()
        columns |= {name: getattr(posterior, name).astype(np.float64) for name in MEASURES}
    if not _is_analysed(fitted):
        return columns
    analysis = load_analysis(fitted.run.analysis)
    if len(analysis) != len(fitted.source_index):
        raise InputError(
            f"{fitted.run.analysis}: of {len(analysis)} particles, the run has {len(fitted.source_index)}; run "
            "cryomorph analyze again"
        )
    return {**analysis.columns, **columns}


def _is_analysed(fitted: FittedRun) -> bool:
    return (fitted.run.analysis / ARCHIVE).is_file()


def _more(fitted: FittedRun) -> str:
    return "" if _is_analysed(fitted) else f"; run cryomorph analyze {fitted.run.path} for more"


def _states(fitted: FittedRun, columns: Columns, wanted: Sequence[int]) -> NDArray[Any]:
    if "state" not in columns:
        raise InputError(f"--state: {fitted.run.path} has no states; run cryomorph analyze {fitted.run.path} first")
    there, population = np.unique(columns["state"], return_counts=True)
    for state in wanted:
        if state not in there:
            known = ", ".join(f"{number} ({count:,})" for number, count in zip(there, population, strict=True))
            raise InputError(f"--state {state}: there is no such state; there are, with their particles, {known}")
    return columns["state"]
