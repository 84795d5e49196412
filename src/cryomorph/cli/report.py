"""`cryomorph report`."""

from cryomorph.cli.options import Run


def report(run: Run) -> None:
    """Write report.html into an analysed run: one file with everything to look at, for any browser."""
    from cryomorph.console import ProgressBar, say
    from cryomorph.reporting import write_report

    path = write_report(run, progress=ProgressBar())
    say(f"{path}: open it in a browser ({path.stat().st_size / 1e6:.1f} MB, needs nothing else)")
