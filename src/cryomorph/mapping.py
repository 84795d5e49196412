"""`cryomorph maps`: maps of states from the particles themselves, to hold the models against.

A decoder can invent a motion; the images that it puts into a state cannot. Their back-projection uses nothing of the
model but which particles belong together, and their poses where the run found them.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomorph.analysis.result import Analysis
from cryomorph.analysis.store import load_analysis
from cryomorph.chimerax import Opened, script
from cryomorph.config import open_particles
from cryomorph.errors import InputError
from cryomorph.export import select_rows
from cryomorph.files import write_text
from cryomorph.fitted import FittedRun
from cryomorph.outputs import MAPS, ModelWriter, state_colour, write_script
from cryomorph.particles.loader import prefetch
from cryomorph.particles.stack import ParticleStack
from cryomorph.progress import Progress, Silent
from cryomorph.selection import WHOLE, Selection
from cryomorph.volumes.backprojection import BackProjection, Optics
from cryomorph.volumes.comparison import TEMPLATE, StateMaps
from cryomorph.volumes.figure import plot_correlations
from cryomorph.volumes.model_map import model_map, model_mask, scattering
from cryomorph.volumes.mrc import write_map
from cryomorph.volumes.shells import (
    HALVES,
    MODEL,
    correlation,
    masked_correlation,
    mean_correlation,
    resolution,
    shell_correlation,
    transform,
)
from cryomorph.workflows import background_radius

Array = NDArray[np.floating]
Rows = NDArray[np.int64]

IMAGES_AT_ONCE = 128
SELECTION = "selection"
SHARPNESS = 3.0
"""Pixels of the resolution that models are simulated at for comparison."""
LEAST_SHELLS = 2
SCRIPT = "open_maps.cxc"


@dataclass(frozen=True, eq=False)
class Model:
    """A conformation that maps are compared with: its name, and all that is written of it (points, 3) in Å."""

    name: str
    positions: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Part:
    """Particles that a map is made of: the model that stands for them by its name, and their rows (k,)."""

    number: int
    name: str
    title: str
    rows: Rows


def make_maps(
    folder: Path,
    *,
    states: Sequence[int] | None = None,
    indices: Rows | None = None,
    out: Path | None = None,
    finest: float | None = None,
    sharpness: float | None = None,
    progress: Progress | None = None,
) -> tuple[StateMaps, ...]:
    """Make maps of states from their particles, and compare them with the models of all states.

    Parameters
    ----------
    folder
        Of a finished run.
    states
        Numbers of states of its analysis; all of them if neither they nor `indices` are given.
    indices
        Rows of particles, from 0, to make one map of instead.
    out
        Folder to write to; ``analysis/maps`` in the run folder if not given. Maps of the same states are replaced.
    finest
        Å up to which maps are made, for large boxes: memory falls with its third power. The pixels' limit if not given.
    sharpness
        Resolution in Å of the maps that are simulated from models; three pixels if not given.
    progress
        Told of every image.

    Returns
    -------
    tuple of StateMaps
        In the order asked for.

    Raises
    ------
    InputError
        If the run was not analysed, a state does not exist, a choice has fewer than two particles, or images or poses
        are not there any more.
    """
    if states is not None and indices is not None:
        raise InputError("--state and --indices: choose one")
    fitted = FittedRun(folder)
    analysis = load_analysis(fitted.run.analysis) if indices is None or _analysed(fitted) else None
    parts = _parts(fitted, analysis, states, indices)
    stack = _open_stack(fitted)
    where = out or fitted.run.analysis / MAPS
    maker = _Maker(fitted, stack, _models(fitted, analysis, parts, indices), finest, sharpness)
    progress = progress or Silent()
    made = [maker.make(part, where / part.name, progress) for part in parts]
    _write_maps_script(where, made, parts)
    if out is None and analysis is not None:
        write_script(fitted.run.analysis, analysis)
    return tuple(made)


def _analysed(fitted: FittedRun) -> bool:
    return (fitted.run.analysis / "analysis.npz").is_file()


def _parts(
    fitted: FittedRun, analysis: Analysis | None, states: Sequence[int] | None, indices: Rows | None
) -> list[Part]:
    if indices is not None:
        rows = np.unique(select_rows(len(fitted.source_index), indices))
        return [_checked(Part(1, SELECTION, f"{len(rows):,} particles", rows))]
    assert analysis is not None
    known = {state.number: state for state in analysis.states}
    wanted = list(known) if states is None else list(dict.fromkeys(states))
    missing = [number for number in wanted if number not in known]
    if missing:
        raise InputError(f"--state {missing[0]}: there is no such state; the analysis has 1 to {max(known, default=0)}")
    label = analysis.columns["state"]
    found = ((number, np.flatnonzero(label == number)) for number in wanted)
    return [_checked(Part(n, f"state_{n}", f"state {n}: {len(rows):,} particles", rows)) for n, rows in found]


def _checked(part: Part) -> Part:
    if len(part.rows) < 2:
        raise InputError(f"{part.name}: has {len(part.rows)} particles; half maps need at least two")
    return part


def _models(fitted: FittedRun, analysis: Analysis | None, parts: list[Part], indices: Rows | None) -> list[Model]:
    """Return the models to compare with: those of all states, of the selection if there is one, and the template."""
    named = [] if analysis is None else [(f"state_{s.number}", s.coordinates) for s in analysis.states]
    if indices is not None:
        rows = parts[0].rows
        centre = fitted.latents[rows].mean(0)
        middle = rows[np.square(fitted.latents[rows] - centre).sum(1).argmin()]
        named.insert(0, (SELECTION, next(iter(fitted.decode(np.array([middle]))))[1][0]))
    named.append((TEMPLATE, fitted.template.coordinates))
    placed = ModelWriter(fitted.template, np.zeros(len(fitted.template))).models(np.stack([x for _, x in named]))
    return [Model(name, x) for (name, _), x in zip(named, placed, strict=True)]


def _open_stack(fitted: FittedRun) -> ParticleStack:
    """Open the particles of the run, normalised as they were in training."""
    stack = open_particles(fitted.config.particles)
    fitted.run.check_particles(fitted.config.particles.files(), stack.source_index)
    return stack.with_background_radius(background_radius(fitted.template, stack))


def _optics(fitted: FittedRun) -> Optics:
    """Return gain and noise of each optics group as the run knows them."""
    likelihood = fitted.reconstruction.likelihood
    gain = likelihood.gain.numpy().copy()
    gain[~(gain > 0)] = gain[gain > 0].mean() if (gain > 0).any() else 1.0  # a group that nothing is known of
    if likelihood.calibration is None:
        return Optics(gain, np.ones((len(gain), 1)))
    return Optics(gain, likelihood.calibration.noise.numpy())


class _Maker:
    """Makes the maps of one part of the particles after another."""

    def __init__(
        self,
        fitted: FittedRun,
        stack: ParticleStack,
        models: list[Model],
        finest: float | None,
        sharpness: float | None,
    ) -> None:
        self.fitted, self.stack, self.models = fitted, stack, models
        self.poses = fitted.poses()
        config = fitted.config
        kept_out = config.free.share > 0 and config.infer_from is None
        self.seen = Selection.work(stack.box, config.free, config.seed) if kept_out else None
        self.first_free = WHOLE * config.free.block
        self.optics = _optics(fitted)
        self.pixel_size = float(stack.pixel_size.min())
        self.extent = self.pixel_size * stack.box
        self.highest = None if finest is None else max(LEAST_SHELLS, round(self.extent / finest))
        box, pixel_size = stack.box, self.pixel_size
        amplitude, width = scattering(fitted.template, len(models[0].positions))
        wanted = SHARPNESS * self.pixel_size if sharpness is None else sharpness
        self.simulated = {
            m.name: model_map(m.positions, amplitude, width, box=box, pixel_size=pixel_size, resolution=wanted)
            for m in models
        }
        self.mask = model_mask(np.concatenate([model.positions for model in models]), box, pixel_size)

    def make(self, part: Part, folder: Path, progress: Progress) -> StateMaps:
        """Make, compare and write the maps of some particles."""
        projection = self._project(part, progress)
        halves = [projection.half_map(half) for half in (0, 1)]
        plain, inside = shell_correlation(*halves), masked_correlation(halves[0], halves[1], self.mask)
        for curve in (plain, inside):
            curve[projection.highest + 1 :] = 0  # what the interpolation's correction leaves there
        whole = projection.full_map(inside)
        limit = resolution(inside, HALVES, self.extent)
        last = max(2, int(self.extent / limit)) if np.isfinite(limit) else 2
        own = shell_correlation(self.mask * whole, self.mask * self.simulated[part.name])
        # Where the fit saw everything, or nothing that it did not see is resolved, there is but what it saw.
        independent = projection.has_free and last > 2 * self.first_free
        if independent:
            compared, first = [projection.free_map(half) for half in (None, 0, 1)], self.first_free
        else:
            compared, first = [whole, *halves], 1
        agreement, curves = self._compare(compared, first, last)
        maps = StateMaps(
            name=part.name,
            folder=folder,
            images=(int(projection.count[0]), int(projection.count[1])),
            frequency=np.arange(len(plain)) / self.extent,
            halves=plain,
            halves_masked=inside,
            model=own,
            resolution=resolution(plain, HALVES, self.extent),
            resolution_masked=limit,
            resolution_model=resolution(own, MODEL, self.extent),
            agreement=agreement,
            independent=independent,
        )
        self._write(maps, part.title, whole, halves, curves)
        return maps

    def _compare(
        self, densities: list[NDArray[np.float32]], first: int, last: int
    ) -> tuple[dict[str, tuple[float, float, float]], dict[str, Array]]:
        """Correlate three maps with each model: the mean over shells, and the curve of the first map."""
        agreement: dict[str, tuple[float, float, float]] = {}
        curves: dict[str, Array] = {}
        masked = [transform(self.mask * density) for density in densities]
        for name, simulated in self.simulated.items():
            model = transform(self.mask * simulated)
            of_each = [correlation(density, model) for density in masked]
            curves[name] = of_each[0]
            whole, one, two = (mean_correlation(curve, last, first) for curve in of_each)
            agreement[name] = (whole, one, two)
        return agreement, curves

    def _project(self, part: Part, progress: Progress) -> BackProjection:
        half = self._halves(part.rows)
        projection = BackProjection(
            self.stack.box, self.pixel_size, self.optics, highest=self.highest, fitted=self.seen
        )
        places = np.array_split(np.arange(len(part.rows)), -(-len(part.rows) // IMAGES_AT_ONCE))
        progress.start(f"back-projecting {part.name}", len(part.rows))
        try:
            batches = prefetch(self.stack, [part.rows[place] for place in places])
            for place, batch in zip(places, batches, strict=True):
                rows = part.rows[place]
                projection.add(batch, self.poses.rotation[rows], self.poses.shift[rows], half[place])
                progress.advance(len(batch))
        finally:
            progress.finish()
        return projection

    def _halves(self, rows: Rows) -> Rows:
        """Return the half, 0 or 1, of each particle: that of the particle file if it has both, else in turn."""
        sets = self.stack.table.half_set
        if sets is not None and len(np.unique(sets[rows])) == 2:
            return np.asarray(sets[rows] - 1, dtype=np.int64)
        return np.arange(len(rows), dtype=np.int64) % 2

    def _write(
        self, maps: StateMaps, title: str, whole: Array, halves: Sequence[Array], curves: dict[str, Array]
    ) -> None:
        densities = {"map": whole, "half1": halves[0], "half2": halves[1], "model": self.simulated[maps.name]}
        for name, density in {**densities, "mask": self.mask}.items():
            write_map(maps.folder / f"{name}.mrc", density, self.pixel_size)
        model = next(model for model in self.models if model.name == maps.name)
        writer = ModelWriter(self.fitted.template, np.zeros(len(self.fitted.template)))
        writer.write(maps.folder / "model.cif", model.positions[None])
        write_text(maps.folder / "fsc.json", json.dumps(maps.as_dict(), indent=1) + "\n")
        what = "unseen data" if maps.independent else "map"
        of_models = {f"{what} and {name}": curve for name, curve in curves.items()}
        write_text(maps.folder / "fsc.csv", _table(maps.frequency, maps.curves | of_models))
        drawn = maps.curves | ({f"{what} and model": curves[maps.name]} if maps.independent else {})
        others = [curve for name, curve in curves.items() if name not in (maps.name, TEMPLATE)]
        plot_correlations(
            maps.folder / "fsc.svg", maps.frequency, drawn, others, f"{what} and models of other states", title
        )


def _table(frequency: Array, curves: dict[str, Array]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["frequency / (1/Å)", *curves])
    for row in zip(frequency, *curves.values(), strict=True):
        writer.writerow([f"{value:.6f}" for value in row])
    return text.getvalue()


def _write_maps_script(where: Path, made: Sequence[StateMaps], parts: Sequence[Part]) -> None:
    opened = []
    for maps, part in zip(made, parts, strict=True):
        colour = state_colour(part.number)
        opened.append(Opened(f"{maps.name}/model.cif", part.title, "states", colour=colour))
        opened.append(Opened(f"{maps.name}/map.mrc", f"map of {part.title}", "maps", colour=colour))
    write_text(where / SCRIPT, script(opened, 1.0))
