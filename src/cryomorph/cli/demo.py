"""`cryomorph demo`."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demonstration writes.")] = Path("demo"),
) -> None:
    """Simulate, train, evaluate, analyse and export adenylate kinase: a few minutes on two cores."""
    from cryomorph.console import ProgressBar, say, show_evaluation
    from cryomorph.demo import demo as run_demo

    result = run_demo(out, progress=ProgressBar())
    show_evaluation(result.evaluation, result.run)
    say(f"open      {result.report}  (in a browser: motion, states, uncertainty, training)")
    say(f"look at   {result.movie}  (102 models: one conformation each, closed to open)")
    say(f"ChimeraX  {result.script}")
    say(f"run       {result.run}")
