"""What `cryomorph check` does: whether template, images, poses and CTF agree, before anything is trained."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryomorph.checks import (
    contrast,
    convention,
    coverage,
    docking,
    hand,
    images,
    optics,
    order,
    scale,
    shifts,
    transfer,
)
from cryomorph.checks.competition import Resort, compete
from cryomorph.checks.finding import Finding, Verdict
from cryomorph.checks.hypothesis import Hypothesis, Scorer
from cryomorph.checks.sample import images_for, read_sample, resolution_for, spread
from cryomorph.checks.turning import turned
from cryomorph.config import ParticlesConfig, TemplateConfig, open_particles
from cryomorph.errors import InputError
from cryomorph.particles.stack import ParticleStack
from cryomorph.progress import Progress, Silent
from cryomorph.structure.beads import Beads, bead_model
from cryomorph.structure.frame import place_template
from cryomorph.structure.model import Template, read_template

LEAST_IMAGES = 8
"""Below which images are not compared with the template."""

WITHOUT_POSES = (contrast, transfer)
WITH_POSES = (contrast, transfer, hand, convention, order, shifts, scale, docking)
COMPARED = frozenset(module.NAME for module in WITH_POSES)
"""Names of the tests that compare images with the template."""
REFINED = {scale.NAME: scale.sharpened, docking.NAME: docking.climbed}


@dataclass(frozen=True)
class Report:
    """What was read, and what each test says of it.

    Attributes
    ----------
    read : mapping
        Facts about the particles and the template, by name, as text.
    findings : tuple of Finding
    """

    read: dict[str, str]
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of all findings; "not tested" if no image was compared with the template."""
        order: tuple[Verdict, ...] = ("wrong", "suspect")
        compared = any(finding.verdict != "not tested" for finding in self.findings if finding.name in COMPARED)
        otherwise: Verdict = "good" if compared else "not tested"
        return next((verdict for verdict in order if any(f.verdict == verdict for f in self.findings)), otherwise)

    def __getitem__(self, name: str) -> Finding:
        """Return the finding of a test."""
        return next(finding for finding in self.findings if finding.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        findings = [finding.as_dict() for finding in self.findings]
        return {"verdict": self.verdict, "read": self.read, "findings": findings}


def check(particles: ParticlesConfig, template: TemplateConfig, *, progress: Progress | None = None) -> Report:
    """Read particles and template, and test whether they agree.

    Images are looked at in a bounded sample, so that the time does not grow with the number of particles.

    Parameters
    ----------
    particles, template
        As a run would have them.
    progress
        Told of every image and hypothesis.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    progress = progress or Silent()
    stack = open_particles(particles)
    model = read_template(template.path, template.chains)
    seen = images.look_at(stack, progress)
    of_file = (images.dead(stack, seen), images.duplicates(stack, seen), optics.finding(stack), coverage.finding(stack))
    placed, misplaced = _place(model, stack, template)
    if placed is None:
        of_images = (
            Finding(
                docking.NAME, "wrong", misplaced, {}, "dock the template, or see --pixel-size and --template-frame"
            ),
        )
        return Report(
            _read(stack, model),
            (*of_file, *of_images, *_untested("the template has no place in the map", docking.NAME)),
        )
    if len(seen.good) < LEAST_IMAGES:
        return Report(_read(stack, model), (*of_file, *_untested(f"fewer than {LEAST_IMAGES} images can be read")))
    posed = stack.has_poses and of_file[-1].verdict != "wrong"
    found = _compare(stack, placed, seen.good, particles, progress, posed=posed)
    return Report(_read(stack, model), (*of_file, *found))


def _place(model: Template, stack: ParticleStack, settings: TemplateConfig) -> tuple[Template | None, str]:
    """Put the template into the frame of the map; None, and why, if it has no place there."""
    source_box = stack.source_box[stack.table.optics_group]
    smallest = int(np.argmin(source_box * stack.table.pixel_size))
    try:
        return place_template(model, int(source_box[smallest]), float(stack.table.pixel_size[smallest]), settings.frame)
    except InputError as error:
        return None, str(error)


def _compare(
    stack: ParticleStack,
    template: Template,
    rows: NDArray[np.int64],
    settings: ParticlesConfig,
    progress: Progress,
    *,
    posed: bool,
) -> tuple[Finding, ...]:
    """Return the findings of all tests that compare images with the template."""
    sample = read_sample(stack, spread(rows, images_for(len(template))), resolution_for(len(template)), progress)
    scorer = Scorer(sample, _beads(template))
    if not posed:
        outcome = compete(scorer, Hypothesis(round=True), WITHOUT_POSES, progress)
        known = (contrast.finding(outcome, inverted=settings.invert), transfer.finding(outcome))
        return (*known, *_untested("the particles have no poses to compare with", *(finding.name for finding in known)))
    outcome = compete(scorer, Hypothesis(), WITH_POSES, progress, REFINED, _turning(progress))
    overall = outcome if outcome.oriented else compete(scorer, Hypothesis(round=True), WITHOUT_POSES, progress)
    return (
        contrast.finding(overall, inverted=settings.invert),
        transfer.finding(overall),
        docking.finding(outcome),
        hand.finding(outcome),
        convention.finding(outcome),
        order.finding(outcome),
        shifts.finding(outcome),
        scale.finding(outcome, progress),
    )


def _turning(progress: Progress) -> Resort:
    """Return the search for another orientation of the template."""
    reasons = (docking.NAME, hand.NAME, convention.NAME, order.NAME, scale.NAME)
    return Resort(docking.NAME, docking.TURNED, reasons, partial(turned, progress=progress))


def _beads(template: Template) -> Beads:
    beads: Beads = bead_model(template, "residue")(torch.from_numpy(template.coordinates).float()[None])
    return beads


def _untested(why: str, *but: str) -> tuple[Finding, ...]:
    """Return tests of images against the template as not done, but for some."""
    names = (test.NAME for test in WITH_POSES)
    return tuple(Finding(name, "not tested", why) for name in names if name not in but)


def _read(stack: ParticleStack, template: Template) -> dict[str, str]:
    """Return what was read, as text."""
    table = stack.table
    groups = np.unique(table.optics_group)
    boxes = np.unique(stack.source_box[groups])
    pixels = np.unique(table.pixel_size)
    defocus = (table.defocus_u + table.defocus_v) / 2
    low, middle, high = np.quantile(defocus, [0, 0.5, 1])
    of_file = "" if len(stack) == stack.source_count else f" of {stack.source_count:,} in the file"
    chains = ", ".join(template.chain_names)
    return {
        "particles": f"{len(stack):,}{of_file}",
        "image files": f"{len(stack.files):,}",
        "optics groups": f"{len(groups)}",
        "box": f"{', '.join(map(str, boxes))} pixels",
        "pixel size": f"{', '.join(f'{size:.4g}' for size in pixels[:4])} Å",
        "defocus": f"{low:,.0f} to {high:,.0f} Å, median {middle:,.0f}",
        "poses": "given" if stack.has_poses else "none",
        "template": f"{len(template):,} residues, {'chain' if len(template.chain_names) == 1 else 'chains'} {chains}",
    }
