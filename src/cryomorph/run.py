"""The folder of a run: its layout, checkpoints, provenance."""

import hashlib
import json
import platform
import sys
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryomorph.errors import InputError
from cryomorph.files import atomic_path, read_arrays, write_text
from cryomorph.particles.found import FoundPoses
from cryomorph.uncertainty import Uncertainty

RECORDED = ("cryomorph", "torch", "numpy", "numba", "lightning-fabric", "gemmi", "mrcfile")


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it writes.

    ======================  =================================================================
    `config.yaml`           the resolved configuration
    `provenance.json`       versions, seed, command line, time; one entry for each start
    `particles.npz`         row of each particle in the original file, and the files' digests
    `template.cif`          the template, all atoms, in the map frame
    `metrics.jsonl`         one line an epoch
    `checkpoint.pt`         everything needed to go on
    `latents.npy`           latent coordinates (particles, d), when training is complete
    `poses.npz`             pose of each particle, when training is complete, unless poses were known
    `posterior.npz`         how sure each conformation is, and junk, when training is complete
    `scattering.cif`        occupancies and B-factors of residues, when training is complete and they were looked for
    `calibration.npz`       noise and signal of each Fourier shell, when they are calibrated
    `calibration.svg`       the same, to look at
    `analysis`              folder of what `cryomorph analyze` finds
    `cache`                 folder of files that are made again when they are missing
    ======================  =================================================================
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def particles(self) -> Path:
        """Which particles the rows of the latents belong to."""
        return self.path / "particles.npz"

    @property
    def template(self) -> Path:
        """The template in the map frame."""
        return self.path / "template.cif"

    @property
    def metrics(self) -> Path:
        """One JSON object a line and epoch."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoint.pt"

    @property
    def latents(self) -> Path:
        """Latent coordinates of the finished run."""
        return self.path / "latents.npy"

    @property
    def poses(self) -> Path:
        """Poses that the finished run found."""
        return self.path / "poses.npz"

    @property
    def posterior(self) -> Path:
        """How sure the conformations of the finished run are."""
        return self.path / "posterior.npz"

    @property
    def scattering(self) -> Path:
        """The template with the occupancies and B-factors that the finished run found of its residues."""
        return self.path / "scattering.cif"

    @property
    def evaluation(self) -> Path:
        """Result of the comparison with a known truth."""
        return self.path / "evaluation.json"

    @property
    def calibration(self) -> Path:
        """The newest calibration of Fourier shells."""
        return self.path / "calibration.npz"

    @property
    def calibration_plot(self) -> Path:
        """The newest calibration, to look at."""
        return self.path / "calibration.svg"

    @property
    def analysis(self) -> Path:
        """Folder of what `cryomorph analyze` finds; all of it can be made again."""
        return self.path / "analysis"

    @property
    def cache(self) -> Path:
        """Folder of what was computed of the images once; everything in it can be made again."""
        return self.path / "cache"

    def exists(self) -> bool:
        """Tell whether a run was started here: by the file that nothing else would write."""
        return self.particles.is_file()

    def require(self) -> None:
        """Raise InputError if no run was started here."""
        if not self.exists():
            raise InputError(f"{self.path}: no run there (no particles.npz); give the folder that train wrote")

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint atomically."""
        with atomic_path(self.checkpoint) as temporary, temporary.open("wb") as file:
            torch.save(state, file)

    def load_checkpoint(self) -> dict[str, Any]:
        """Return the newest checkpoint.

        Raises
        ------
        InputError
            If there is none, or it is damaged.
        """
        if not self.checkpoint.is_file():
            raise InputError(f"{self.checkpoint}: no checkpoint yet; run train first")
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            if not {"epoch", "reconstruction", "latents", "optimizer"} <= state.keys():
                raise ValueError("made by something else")
        except Exception as error:  # torch raises many kinds
            raise InputError(
                f"{self.checkpoint}: damaged or not a checkpoint; remove the run folder to start over"
            ) from error
        if "beads" not in state or not {"rest", "likelihood.kept"} <= state["reconstruction"].keys():
            raise InputError(f"{self.checkpoint}: written by an earlier version; train again, with another --out")
        return state

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add the metrics of an epoch."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def truncate_metrics(self, epochs: int) -> None:
        """Keep the metrics of the first epochs only: those after the checkpoint will be computed again."""
        kept = [row for row in self.read_metrics() if row["epoch"] <= epochs]
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the metrics of each epoch; a last line cut off by a kill is left out."""
        if not self.metrics.is_file():
            return []
        rows = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def add_provenance(self, seed: int, resumed_at_epoch: int, earlier: Path | None = None) -> None:
        """Record versions, seed, command line and time of a start, and the run from which it takes something over."""
        path = self.path / "provenance.json"
        entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        entries.append(
            {
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": sys.argv,
                "seed": seed,
                "resumed_at_epoch": resumed_at_epoch,
                "earlier_run": None if earlier is None else str(earlier),
                "python": platform.python_version(),
                "platform": platform.platform(),
                "threads": torch.get_num_threads(),
                "versions": {name: version(name) for name in RECORDED},
            }
        )
        write_text(path, json.dumps(entries, indent=1) + "\n")

    def record_particles(
        self,
        sources: list[Path],
        source_index: NDArray[np.int64],
        source_count: int,
        box: int,
        pixel_size: NDArray[np.floating],
    ) -> None:
        """Remember which particles the rows of the latents belong to, and what their images are like.

        Parameters
        ----------
        sources
            The files that describe them.
        source_index
            Row of each in the (first) file, shape (m,).
        source_count
            How many that file has in all.
        box
            Pixels along an edge of the images, as they are compared.
        pixel_size
            The same in Å a pixel for each optics group, NaN where there is none, shape (groups,).
        """
        with atomic_path(self.particles) as temporary:
            digests = np.array([_digest(source) for source in sources])
            np.savez(
                temporary,
                source_index=source_index,
                source_count=np.array(source_count),
                digests=digests,
                box=np.array(box),
                pixel_size=pixel_size,
            )

    def check_particles(self, sources: list[Path], source_index: NDArray[np.int64]) -> None:
        """Raise InputError unless these are the particles that the run was started with."""
        if not self.has_particles(sources, source_index):
            raise InputError(f"{sources[0]}: changed since the run in {self.path} was started; use another --out")

    def has_particles(self, sources: list[Path], source_index: NDArray[np.int64]) -> bool:
        """Tell whether these are the particles that the run was started with, in the same order."""
        record = read_arrays(self.particles, "digests", "source_index")
        same = record["digests"].tolist() == [_digest(source) for source in sources]
        return same and np.array_equal(record["source_index"], source_index)

    def images(self) -> tuple[int, NDArray[np.float64]]:
        """Return the edge of the images in pixels, and the size of a pixel in Å of each optics group.

        Raises
        ------
        InputError
            If the run was started by a version that did not remember it.
        """
        record = read_arrays(self.particles, "box", "pixel_size")
        return int(record["box"]), record["pixel_size"].astype(np.float64)

    def sweep(self) -> None:
        """Remove what a killed process left half-written; before a run is recorded, that is only the record."""
        written = [self.config, self.template, self.metrics, self.checkpoint, self.latents, self.poses]
        written += [self.posterior, self.calibration, self.calibration_plot]
        for path in (self.particles, *(written if self.exists() else ())):
            for leftover in self.path.glob(f".{path.stem}.*{path.suffix}"):
                leftover.unlink()
        for leftover in self.cache.glob(".*") if self.exists() else ():
            leftover.unlink()

    def save_calibration(
        self, *, noise: NDArray[np.floating], signal: NDArray[np.floating], frequency: NDArray[np.floating]
    ) -> None:
        """Write noise and signal of Fourier shells, and where the shells are (1/Å); each of shape (groups, shells)."""
        with atomic_path(self.calibration) as temporary:
            np.savez(temporary, noise=noise, signal=signal, frequency=frequency)

    def source_index(self) -> NDArray[np.int64]:
        """Return the row of each particle in the original file."""
        return read_arrays(self.particles, "source_index")["source_index"].astype(np.int64)

    def source_count(self) -> int:
        """Return how many particles the original file has."""
        return int(read_arrays(self.particles, "source_count")["source_count"])

    def load_latents(self) -> NDArray[np.float32]:
        """Return the latent coordinates (particles, d).

        Raises
        ------
        InputError
            If the file is damaged.
        """
        try:
            latents = np.load(self.latents, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{self.latents}: damaged; run the same train command again to write it anew") from error
        return np.asarray(latents, dtype=np.float32)

    def save_latents(self, latents: NDArray[np.float32]) -> None:
        """Write the latent coordinates (particles, d)."""
        with atomic_path(self.latents) as temporary, temporary.open("wb") as file:
            np.save(file, latents)

    def load_posterior(self) -> Uncertainty:
        """Return how sure the conformations are.

        Raises
        ------
        InputError
            If the file is missing or damaged.
        """
        if not self.posterior.is_file():
            raise InputError(f"{self.posterior}: not there; run the same train command again to write it")
        names = [field.name for field in fields(Uncertainty)]
        again = f"{self.posterior}: damaged or of an earlier version; run the same train command again to write it anew"
        try:
            arrays = read_arrays(self.posterior, *names)
        except InputError as error:
            raise InputError(again) from error
        return Uncertainty(**{name: arrays[name].astype(np.float32) for name in names})

    def save_posterior(self, uncertainty: Uncertainty) -> None:
        """Write how sure the conformations are."""
        with atomic_path(self.posterior) as temporary:
            np.savez(temporary, **vars(uncertainty))

    def load_poses(self) -> FoundPoses | None:
        """Return the poses that the run found; None if it took those of its particle file as they are.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        if not self.poses.exists():
            return None
        arrays = read_arrays(self.poses, "rotation", "shift", "entropy")
        found = FoundPoses(**{name: array.astype(np.float64) for name, array in arrays.items()})
        count = found.entropy.size
        shapes = (found.rotation.shape, found.shift.shape, found.entropy.shape)
        if shapes != ((count, 3, 3), (count, 2), (count,)):
            raise InputError(f"{self.poses}: damaged; run the same train command again to write it anew")
        return found

    def save_poses(self, poses: FoundPoses) -> None:
        """Write the poses that the run found."""
        with atomic_path(self.poses) as temporary:
            np.savez(temporary, rotation=poses.rotation, shift=poses.shift, entropy=poses.entropy)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
