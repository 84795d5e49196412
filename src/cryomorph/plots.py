"""Figures of a run."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MOST_GROUPS = 10
"""Optics groups that a legend names."""


def plot_shells(path: Path, frequency: NDArray[np.floating], **curves: NDArray[np.floating]) -> None:
    """Draw quantities of Fourier shells against resolution, one panel each, one line for each optics group.

    Parameters
    ----------
    path
        Figure to write; its suffix is the format.
    frequency
        Of each shell in 1/Å, shape (groups, shells); NaN in groups that are left out.
    curves
        By name, of the same shape.
    """
    # The import takes a while, and no screen is needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6 * len(curves)), layout="constrained")
    FigureCanvasAgg(figure)
    shown = np.flatnonzero(np.isfinite(frequency).all(axis=1))
    panels = figure.subplots(len(curves), sharex=True, squeeze=False)[:, 0]
    for panel, (name, values) in zip(panels, curves.items(), strict=True):
        for group in shown:
            panel.plot(frequency[group, 1:], values[group, 1:], lw=1.2, label=f"optics group {group + 1}")
        panel.set_ylabel(name)
        panel.set_ylim(bottom=0)
        panel.axhline(1, color="0.8", lw=0.8, zorder=0)
    if 1 < len(shown) <= MOST_GROUPS:
        panels[0].legend(fontsize="small")
    ticks = panels[-1].get_xticks()
    ticks = ticks[(ticks > 0) & (ticks < 1.001 * np.nanmax(frequency))]
    panels[-1].set_xticks(ticks, [f"{1 / tick:.3g}" for tick in ticks])
    panels[-1].set_xlabel("resolution / Å")
    figure.savefig(path)
