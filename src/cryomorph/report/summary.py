"""What was run and what came out, in numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cryomorph.analysis.result import Analysis
from cryomorph.fitted import FittedRun
from cryomorph.report.convergence import Metrics, seconds
from cryomorph.structure.beads import BeadModel
from cryomorph.structure.model import Template
from cryomorph.structure.scatterers import Scatterers
from cryomorph.uncertainty import Uncertainty


def key_numbers(
    analysis: Analysis,
    template: Template,
    posterior: Uncertainty | None,
    metrics: Metrics,
    evaluation: Mapping[str, Any] | None,
) -> list[dict[str, str]]:
    """Return what stands at the top: `value`, `unit`, `label` and `detail` of each number."""
    found = [
        _card(f"{len(analysis):,}", "", "particles", ""),
        _card(f"{len(template):,}", "", "residues", _chains(template)),
        _card(
            f"{np.sqrt(analysis.components.total):.2f}",
            "Å",
            "motion",
            "of residues about their mean place, root mean square",
        ),
        _card(f"{len(analysis.states)}", "", "states", "groups of similar conformations"),
    ]
    if posterior is not None and len(posterior.deviation):
        detail = "of one particle’s conformation, median"
        found.append(_card(f"{np.median(posterior.deviation):.2f}", "Å", "uncertainty", detail))
    if evaluation is not None and isinstance(evaluation.get("rmsd_mean"), int | float):
        constant = evaluation.get("rmsd_constant")
        detail = "mean Cα RMSD" + ("" if constant is None else f"; best single structure {constant:.2f}\u00a0Å")
        found.append(_card(f"{evaluation['rmsd_mean']:.2f}", "Å", "from the truth", detail))
    found.append(_card(*_duration(seconds(metrics)), "training", f"{len(metrics)} epochs"))
    return found


def what_was_run(
    fitted: FittedRun, posterior: Uncertainty | None, provenance: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what there is to say of how the result came about: rows of name and value, and all settings as YAML."""
    config, template = fitted.config, fitted.template
    latest = provenance[-1] if provenance else {}
    versions = latest.get("versions", {})
    rows = {
        "particles": str(config.particles.path),
        "template": str(config.template.path),
        "residues": f"{len(template):,} in {_chains(template)}",
        "conformations": str(getattr(config.decoder, "kind", "")),
        "latents": str(getattr(config.latents, "kind", "")),
        "poses": str(getattr(config.poses, "kind", "")),
        "directions in use": "" if posterior is None else "{1} of {0}".format(*posterior.directions.shape),
        "beads": _chosen(fitted.reconstruction.molecule.kind, config.beads),
        "prior strength": _chosen(f"{float(fitted.reconstruction.strength):.4g}", config.priors.strength),
        "latent prior": _chosen(f"{float(fitted.reconstruction.latent_prior):.4g}", config.latent_prior),
        "scattering": _scattering(fitted.reconstruction.beads),
        "seed": str(config.seed),
        "started": str(provenance[0].get("time", "")) if provenance else "",
        "command": " ".join(str(word) for word in latest.get("command", [])),
        "machine": f"{latest.get('platform', '')}, {latest.get('threads', '?')} threads" if latest else "",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return {"rows": [[name, value] for name, value in rows.items() if value], "settings": config.to_yaml()}


def _scattering(beads: BeadModel | Scatterers) -> str:
    """Say what was looked for beside the molecule's complete, sharp atoms, and found; nothing if it was not."""
    if not isinstance(beads, Scatterers):
        return ""
    occupancy, b_factor = beads.of_residues()
    return (
        f"occupancies of residues {occupancy.min():.2f} to {occupancy.max():.2f}, B-factors {b_factor.min():.0f} to "
        f"{b_factor.max():.0f}\u00a0Å², {int((beads.extra > 0).sum())} beads about the molecule"
    )


def _chosen(value: str, setting: float | str) -> str:
    return f"{value} (chosen)" if setting == "auto" else value


def _card(value: str, unit: str, label: str, detail: str) -> dict[str, str]:
    return {"value": value, "unit": unit, "label": label, "detail": detail}


def _chains(template: Template) -> str:
    count = len(template.chain_names)
    return f"{count} chains" if count > 1 else "1 chain"


def _duration(time: float) -> tuple[str, str]:
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if time >= 2 * size:
            return f"{time / size:.1f}", unit
    return f"{time:.0f}", "s"
