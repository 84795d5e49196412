"""The page: sections' data and the assets that draw them, in one file without any link to elsewhere."""

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

import cryomorph
from cryomorph.report.certainty import certainty
from cryomorph.report.convergence import convergence
from cryomorph.report.encoding import as_json
from cryomorph.report.maps import maps
from cryomorph.report.measures import measures
from cryomorph.report.molecule import molecule, shown_steps
from cryomorph.report.orientations import defocus, views
from cryomorph.report.remarks import remarks
from cryomorph.report.sequence import sequence
from cryomorph.report.shells import shells
from cryomorph.report.source import Source
from cryomorph.report.summary import key_numbers, what_was_run

SCRIPTS = ("core", "chart", "sphere", "ribbon", "viewer", "map", "motion", "sections", "curves", "main")
"""In this order; each is a function of its own that adds to one object."""
STYLE, PAGE = "report.css", "report.html"


def sections(source: Source) -> dict[str, Any]:
    """Return all that the page shows, by section."""
    fitted, analysis, posterior = source.fitted, source.analysis, source.posterior
    box, pixel_size = fitted.run.images()
    motions = shown_steps(analysis)
    seen = None if source.poses is None else views(source.poses.rotation)
    table = source.table
    said = remarks(
        analysis, posterior, source.metrics, None if seen is None else seen["empty"], source.halves, source.missing
    )
    return {
        "title": "/".join(fitted.run.path.absolute().parts[1:][-2:]),
        "version": cryomorph.__version__,
        "numbers": key_numbers(analysis, fitted.template, posterior, source.metrics, source.evaluation),
        "remarks": [remark.as_dict() for remark in said],
        "molecule": molecule(analysis, motions, fitted.template, fitted.source_index),
        "maps": maps(analysis, [motion.coordinates for motion in motions]),
        "measures": measures(analysis),
        "sequence": sequence(fitted.template, analysis.rmsf, None if posterior is None else posterior.residues),
        "convergence": convergence(source.metrics, float(fitted.reconstruction.strength)),
        "shells": shells(source.calibration, source.metrics, box, pixel_size),
        "views": seen,
        "defocus": None if table is None else defocus(table.defocus_u, table.defocus_v),
        "certainty": None if posterior is None else certainty(posterior),
        "halves": source.halves,
        "examples": source.examples,
        "run": what_was_run(fitted, posterior, source.provenance),
    }


def page(data: dict[str, Any]) -> str:
    """Return the HTML of the data of all sections.

    Texts reach the page as JSON and from there as text nodes, never as HTML. The page's policy forbids everything but
    its own script and style, which it knows by their digests: no network, no other script whatever a file name says.
    """
    script = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    style = _asset(STYLE)
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "script": script, "data": as_json(data)}
    # In one pass: whatever is put in is not looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _asset(PAGE))


def _asset(name: str) -> str:
    return (files("cryomorph.report") / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
