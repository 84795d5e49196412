"""Figures of a run."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MOST_GROUPS = 10
"""Optics groups that a legend names."""
MOST_BINS = 60
"""Of a histogram of particles."""


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


def plot_halves(
    path: Path,
    *,
    motion: NDArray[np.floating],
    error: NDArray[np.floating],
    between_models: NDArray[np.floating],
    chain: NDArray[np.integer],
    places: NDArray[np.floating],
) -> None:
    """Draw the resolved motion of each residue, and where particles are along the motion that two halves share.

    Parameters
    ----------
    path
        Figure to write; its suffix is the format.
    motion
        Root mean square displacement of each residue over particles, shape (n,), Å.
    error
        Standard error of its square, shape (n,), Å².
    between_models
        Root mean square distance of each residue in what two models make of the same images, shape (n,), Å.
    chain
        Number of each residue's chain, shape (n,).
    places
        Of particles along the shared direction by two estimates, shape (m, 2), Å.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    residues, particles = figure.subplots(2, 1)
    number = np.arange(1, len(motion) + 1)
    low, high = (np.sqrt(np.maximum(motion**2 + sign * 2 * error, 0)) for sign in (-1, 1))
    residues.fill_between(number, low, high, color="tab:blue", alpha=0.25, lw=0, label="± 2 standard errors")
    residues.plot(number, motion, color="tab:blue", lw=1.2, label="motion that both halves resolve")
    residues.plot(number, between_models, color="0.55", lw=0.8, label="between the two models, same images")
    for start in np.flatnonzero(np.diff(chain)) + 1:
        residues.axvline(start + 0.5, color="0.8", lw=0.8, zorder=0)
    residues.set(
        xlabel="residue, in the order of the template", ylabel="rms displacement / Å", xlim=(0.5, len(motion) + 0.5)
    )
    residues.set_ylim(bottom=0)
    residues.legend(fontsize="small", frameon=False)
    bins = np.histogram_bin_edges(places, min(MOST_BINS, max(10, len(places) // 15)))
    particles.hist(places.mean(1), bins, color="tab:blue", alpha=0.5, label="mean of both estimates")
    for estimate, style in zip(places.T, ("-", "--"), strict=True):
        particles.hist(estimate, bins, histtype="step", color="0.4", lw=0.8, ls=style)
    particles.set(xlabel="place along what both estimates share / Å rms", ylabel="particles")
    particles.legend(fontsize="small", frameon=False)
    figure.savefig(path)
