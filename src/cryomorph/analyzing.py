"""From a finished run to what a biologist looks at: the command `analyze` as a function."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.analysis.result import Analysis
from cryomorph.analysis.settings import AnalysisSettings
from cryomorph.analysis.store import save_analysis
from cryomorph.files import atomic_path
from cryomorph.opened import OpenedRun, open_run
from cryomorph.outputs import write_outputs
from cryomorph.progress import Progress
from cryomorph.reporting import write_report

logger = logging.getLogger(__name__)

TABLE = "particles.csv"


def analyze(
    folder: Path,
    settings: AnalysisSettings | None = None,
    progress: Progress | None = None,
    *,
    table: bool = False,
    report: bool = True,
) -> Analysis:
    """Analyse a run, and write what was found into its folder `analysis`.

    ==================  ===================================================================
    `analysis.npz`      everything; `cryomorph.analysis.store.load_analysis` reads it
    `summary.json`      the numbers that are worth reading
    `particles.csv`     the columns of every particle, if asked for
    `states`, `motions` atomic models, and scripts that open them in ChimeraX
    ==================  ===================================================================

    Parameters
    ----------
    folder
        The run.
    settings
        What is asked for; the defaults when None.
    progress
        Told of every batch.
    table
        Also write `particles.csv`.
    report
        Also write `report.html` into the run folder.

    Raises
    ------
    InputError
        If there is no finished run, it is too small, or what is asked for cannot be had.
    """
    opened = open_run(folder)
    analysis = opened.analyse(settings, progress)
    junk = int((opened.measures.get("junk", np.zeros(0)) > 0.5).sum())
    if junk:
        logger.info(
            "%d of %d particles are probably junk (column junk); they are analysed like the others", junk, len(opened)
        )
    target = opened.run.analysis
    save_analysis(analysis, opened.template, target)
    if table:
        write_table(opened, analysis, target / TABLE)
    else:
        (target / TABLE).unlink(missing_ok=True)
    write_outputs(target, opened.fitted, analysis, progress=progress)
    if report:
        write_report(folder, progress=progress)
    return analysis


def write_table(opened: OpenedRun, analysis: Analysis, path: Path, at_once: int = 10_000) -> None:
    """Write a line for each particle: its row in the run and in the original file, and every column."""
    rows = np.arange(len(analysis))
    columns: dict[str, NDArray[Any]] = {"row": rows, "source_row": opened.source_index} | dict(analysis.columns)
    forms = ["%.7g" if column.dtype.kind == "f" else "%d" for column in columns.values()]
    line = ",".join(forms) + "\n"
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(",".join(columns) + "\n")
        for start in range(0, len(rows), at_once):
            parts = [column[start : start + at_once].tolist() for column in columns.values()]
            file.writelines(line % row for row in zip(*parts, strict=True))
