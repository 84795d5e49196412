"""Whether images are empty, damaged, or there twice."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryomorph.checks.finding import Evidence, Finding
from cryomorph.checks.sample import spread
from cryomorph.particles.stack import ParticleStack
from cryomorph.progress import Progress

DEAD, DUPLICATES = "dead images", "duplicates"

IMAGES = 2000
"""That are looked at in full; what the file says is looked at of all."""
AT_ONCE = 64
LARGEST = 64 * 2**20
"""Bytes of pixels in memory at once."""
MANY = 0.01
"""Share of images above which being there twice is no accident."""
LIKELY_DEVIATION = 8.0
"""Median absolute deviations of the logarithm of images' spreads beyond which an image is an outlier."""
SHOWN = 5


@dataclass(frozen=True, eq=False)
class Seen:
    """What images look like one by one.

    Attributes
    ----------
    rows : array (n,)
        Of the stack.
    mean, deviation : arrays (n,)
        Of all pixels as stored; NaN where one is not finite.
    digest : array (n,) of bytes
        Of the stored pixels.
    """

    rows: NDArray[np.int64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    digest: NDArray[np.bytes_]

    @property
    def unreadable(self) -> NDArray[np.bool_]:
        """Which of them have a pixel that is not finite."""
        return ~np.isfinite(self.deviation)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Which of them do not vary, by more than rounding."""
        return ~self.unreadable & (self.deviation <= 1e-6 * np.abs(self.mean))

    @property
    def good(self) -> NDArray[np.int64]:
        """Rows of the others."""
        return self.rows[~(self.unreadable | self.constant)]


def look_at(stack: ParticleStack, progress: Progress) -> Seen:
    """Read a bounded sample of the images as they are stored, some at a time."""
    rows = spread(np.arange(len(stack), dtype=np.int64), IMAGES)
    rows = rows[np.lexsort((stack.table.frame[rows], stack.file_index[rows]))]
    parts: dict[str, list[NDArray[np.generic]]] = {"mean": [], "deviation": [], "digest": []}
    box = int(stack.source_box.max())
    at_once = int(np.clip(LARGEST // (4 * box**2), 1, AT_ONCE))
    progress.start("looking at images", len(rows))
    try:
        for group in np.split(rows, np.flatnonzero(np.diff(stack.file_index[rows])) + 1):
            file = stack.files[stack.file_index[group[0]]]
            for start in range(0, len(group), at_once):
                images = file.read(stack.table.frame[group[start : start + at_once]])
                for name, values in _described(images).items():
                    parts[name].append(values)
                progress.advance(len(images))
    finally:
        progress.finish()
    order = np.argsort(rows)
    joined = {name: np.concatenate(values)[order] for name, values in parts.items()}
    return Seen(
        rows[order], joined["mean"].astype(np.float64), joined["deviation"].astype(np.float64),
        joined["digest"].astype(np.bytes_),
    )  # fmt: skip


def _described(images: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
    finite = np.isfinite(images).all(axis=(1, 2))
    with np.errstate(invalid="ignore", over="ignore"):
        mean = np.asarray(images.mean(axis=(1, 2), dtype=np.float64))
        deviation = np.asarray(images.std(axis=(1, 2), dtype=np.float64))
    digest = [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest().encode() for image in images]
    deviation = np.where(finite & np.isfinite(deviation), deviation, np.nan)
    return {"mean": mean, "deviation": deviation, "digest": np.array(digest)}


def dead(stack: ParticleStack, seen: Seen) -> Finding:
    """Return the finding about images that show nothing."""
    evidence: Evidence = {
        "images_looked_at": len(seen.rows),
        "not_finite": int(seen.unreadable.sum()),
        "constant": int(seen.constant.sum()),
    }
    bad = seen.rows[seen.unreadable | seen.constant]
    if len(bad):
        evidence |= {"first_rows_of_the_file": _some(stack, bad)}
        sentence = f"{len(bad)} of {len(seen.rows)} images have pixels that are not finite, or do not vary"
        return Finding(
            DEAD, "wrong", sentence, evidence, "remove these rows from the file, or leave them out by --indices"
        )
    spread_of = np.log(seen.deviation)
    off = np.abs(spread_of - np.median(spread_of))
    typical = max(float(np.median(off)), 0.02)
    outliers = seen.rows[off > LIKELY_DEVIATION * typical]
    evidence |= {"outliers_in_contrast": len(outliers)}
    if len(outliers) > MANY * len(seen.rows):
        evidence |= {"first_rows_of_the_file": _some(stack, outliers)}
        sentence = f"{len(outliers)} of {len(seen.rows)} images vary far less or more than the others"
        return Finding(DEAD, "suspect", sentence, evidence, "look at these images; leave them out by --indices")
    return Finding(DEAD, "good", "no image is empty or has pixels that are not finite", evidence)


def duplicates(stack: ParticleStack, seen: Seen) -> Finding:
    """Return the finding about images that are there more than once: by name in all rows, by pixels in those seen."""
    places = np.stack([stack.file_index, stack.table.frame], axis=1)
    _, first, count = np.unique(places, axis=0, return_index=True, return_counts=True)
    named = len(stack) - len(first)
    living = ~(seen.unreadable | seen.constant)
    distinct = np.unique(
        np.stack([places[seen.rows[living]][:, 0], places[seen.rows[living]][:, 1]], axis=1), axis=0, return_index=True
    )[1]
    digest = seen.digest[living][distinct]
    _, inverse, copies = np.unique(digest, return_inverse=True, return_counts=True)
    copied = seen.rows[living][distinct][copies[inverse] > 1]
    alike = len(digest) - len(copies)
    evidence: Evidence = {
        "rows": len(stack), "rows_naming_an_image_again": named,
        "images_looked_at": len(seen.rows), "images_like_another": alike,
    }  # fmt: skip
    if named == 0 and alike == 0:
        return Finding(DUPLICATES, "good", "no image is there twice", evidence)
    rows = np.concatenate([first[count > 1], copied])
    evidence |= {"first_rows_of_the_file": _some(stack, np.unique(rows))}
    many = named > MANY * len(stack) or alike > 0
    sentence = f"{named} rows name an image that another row names, and {alike} of {len(digest)} images are copies"
    return Finding(
        DUPLICATES, "wrong" if many else "suspect", sentence, evidence,
        "remove duplicates (RELION: Subset selection; cryoSPARC: Remove Duplicates), or leave them out by --indices",
    )  # fmt: skip


def _some(stack: ParticleStack, rows: NDArray[np.int64]) -> str:
    """Name a few rows of the original file, counted from 1."""
    shown = ", ".join(str(stack.source_index[row] + 1) for row in rows[:SHOWN])
    return shown + (" ..." if len(rows) > SHOWN else "")
