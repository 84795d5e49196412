"""The report of a run as one file: what `cryomorph report` does."""

from pathlib import Path

from cryomorph.files import write_text
from cryomorph.progress import Progress, Silent
from cryomorph.report.page import page, sections
from cryomorph.report.source import read_source

NAME = "report.html"


def write_report(folder: Path, *, progress: Progress | None = None) -> Path:
    """Write `report.html` into a finished and analysed run; returns its path.

    The file needs nothing else: no network, no other file. Its size and the time it takes hardly grow with the
    particles, of which it has distributions and a sample.

    Parameters
    ----------
    folder
        The run.
    progress
        Told of each stage.

    Raises
    ------
    InputError
        If there is no finished run, or `cryomorph analyze` was not run on it.
    """
    progress = progress or Silent()
    progress.start("report", 3, "stages")
    try:
        source = read_source(folder)
        progress.advance()
        data = sections(source)
        progress.advance()
        path = folder / NAME
        write_text(path, page(data))
        progress.advance()
    finally:
        progress.finish()
    return path
