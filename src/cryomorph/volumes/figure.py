"""A figure of Fourier shell correlations."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomorph.files import atomic_path
from cryomorph.volumes.shells import HALVES, MODEL


def plot_correlations(
    path: Path,
    frequency: NDArray[np.floating],
    curves: Mapping[str, NDArray[np.floating]],
    others: Sequence[NDArray[np.floating]],
    name_of_others: str,
    title: str,
) -> None:
    """Draw correlations against resolution.

    Parameters
    ----------
    path
        Figure to write; its suffix is the format.
    frequency
        Of each shell in 1/Å, shape (shells,).
    curves
        By name, of the same shape.
    others
        Further ones, that are drawn thin with one name in common.
    name_of_others, title
        In the figure.
    """
    # The import takes a while, and no screen is needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for place, values in enumerate(others):
        panel.plot(frequency[1:], values[1:], lw=0.8, color="0.7", label=None if place else name_of_others)
    for name, values in curves.items():
        panel.plot(frequency[1:], values[1:], lw=1.6, label=name)
    for threshold in (HALVES, MODEL):
        panel.axhline(threshold, color="0.8", lw=0.8, ls="--", zorder=0)
    panel.axhline(0, color="0.6", lw=0.8, zorder=0)
    ticks = panel.get_xticks()
    ticks = ticks[(ticks > 0) & (ticks < 1.001 * frequency.max())]
    panel.set_xticks(ticks, [f"{1 / tick:.3g}" for tick in ticks])
    panel.set(xlabel="resolution / Å", ylabel="Fourier shell correlation", ylim=(-0.15, 1.03), title=title)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
