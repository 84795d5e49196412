"""How the command line looks: progress bars, messages, tables."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBars
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cryomorph.evaluation import Evaluation
    from cryomorph.mode_files import MoleculeModes

console = Console()
errors = Console(stderr=True)

RMSD = {
    "rmsd_mean": "mean",
    "rmsd_median": "median",
    "rmsd_p95": "95th percentile",
    "rmsd_max": "maximum",
    "rmsd_template": "baseline: the template for all",
    "rmsd_constant": "baseline: the best single conformation",
}
POSES = {
    "rotation_error_median_deg": ("rotation, median", "{:.2f}°"),
    "rotation_error_p95_deg": ("rotation, 95th percentile", "{:.2f}°"),
    "rotation_error_over_20deg": ("rotation more than 20° off", "{:.1%}"),
    "shift_error_median_angstrom": ("shift, median", "{:.3f} Å"),
}
"""Fields of an evaluation that are shown, and how."""
WORDS = ("component", "motion", "residues that move as a body")
"""Columns that are no numbers."""
SHARE_SHOWN = 0.001
"""Of the variance that a component has, to be shown."""
MODES_SHOWN = 20
"""Rows of a table; of several domains, as many of each as go into it, but three at least."""


class _Rate(TextColumn):
    """Units a second, e.g. `812 images/s`."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        """Return the speed of a task, empty until it is known."""
        return Text(f"{task.speed:,.0f} {task.fields['unit']}/s" if task.speed else "", style="cyan")


class ProgressBar:
    """A `Progress` drawn as one bar with speed and time left; stretches follow one another below it."""

    def __init__(self) -> None:
        self._bars = RichBars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="green"),
            console=errors,
        )
        self._task: TaskID | None = None

    def start(self, description: str, total: int, unit: str = "images") -> None:
        """Begin a new stretch."""
        self._bars.start()
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(description, total=total, unit=unit, note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.update(self._task, advance=amount)
            if note:
                self._bars.update(self._task, note=note)

    def finish(self) -> None:
        """Leave the bar as it is and stop drawing."""
        self._bars.stop()


def show_messages(*, quiet: bool = False) -> None:
    """Print what the library logs, one line a message; nothing but errors in a process that is to be quiet."""
    handler = RichHandler(console=errors, show_time=False, show_path=False, show_level=False, highlighter=None)
    root = logging.getLogger("cryomorph")
    root.handlers = [handler]
    root.setLevel(logging.ERROR if quiet else logging.INFO)
    root.propagate = False
    console.quiet = quiet


def say(text: str) -> None:
    """Print a line as it is: brackets are no markup, and it is not broken where it is long."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def show_table(title: str, rows: Mapping[str, str]) -> None:
    """Print names and values."""
    say(title)
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def show_evaluation(evaluation: "Evaluation", run: Path) -> None:
    """Print how far a run is from the truth; of its poses, what is known."""
    values = evaluation.as_dict()
    rmsd = {label: f"{values[name]:.3f} Å" for name, label in RMSD.items()}
    show_table(f"Cα RMSD of {run}", {"images": f"{evaluation.images:,}"} | rmsd)
    poses = {label: form.format(values[name]) for name, (label, form) in POSES.items() if values[name] is not None}
    if poses:
        show_table(f"Error of the poses of {run}", poses)


def show_analysis(summary: Mapping[str, Any], run: Path) -> None:
    """Print the components, states and moving bodies of an analysis, as its `summary.json` has them."""
    spread = summary["rmsd_from_mean_angstrom"]
    say(f"Motion in {run}: {summary['particles']:,} particles, {spread:.2f} Å from their mean")
    parts = [
        (part["name"], f"{part['angstrom']:.2f} Å", f"{part['share']:.1%}")
        for part in summary["components"]
        if part["share"] >= SHARE_SHOWN
    ]
    _show_columns(("component", "rms over residues", "of the variance"), parts)
    states = [
        (str(state["state"]), f"{state['population']:,}", f"{state['share']:.1%}", str(state["particle"]))
        for state in summary["states"]
    ]
    _show_columns(("state", "particles", "of all", "its middle is particle"), states)
    bodies = [
        (motion["name"], body["residues"], f"{body['rotation_degrees']:.1f}°", f"{body['shift_angstrom']:.1f} Å")
        for motion in summary["motions"]
        for body in motion["bodies"][1:]
    ]
    if bodies:
        _show_columns(("motion", "residues that move as a body", "turn by", "shift by"), bodies)


def _show_columns(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with a heading."""
    table = Table()
    for name in names:
        table.add_column(name, justify="left" if name in WORDS else "right")
    for row in rows:
        table.add_row(*(Text(value) for value in row))
    console.print(table)


def show_modes(modes: "MoleculeModes", model: Path) -> None:
    """Print how stiff and how collective the softest modes are."""
    several = len(modes.domains) > 1
    each = len(modes) // len(modes.domains)
    shown = min(each, max(3, MODES_SHOWN // len(modes.domains)))
    of_each = " of each domain" if several else ""
    say(f"Normal modes of {model}" + (f", the softest {shown} of {each}{of_each}" if shown < each else ""))
    table = Table()
    for name in ("mode", *(["domain"] if several else []), "eigenvalue", "collectivity"):
        table.add_column(name, justify="left" if name == "domain" else "right")
    collectivity = modes.collectivity
    for mode, domain in enumerate(modes.domain):
        if mode % each < shown:
            names = [Text(modes.domains[domain].name)] if several else []
            numbers = f"{modes.eigenvalue[mode]:.4g}", f"{collectivity[mode]:.2f}"
            table.add_row(str(mode + 1), *names, *numbers)
    console.print(table)
