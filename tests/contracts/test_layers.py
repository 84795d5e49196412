"""The parts of a seam know its base and helpers, not each other: what one is made of may be replaced alone."""

import ast
from pathlib import Path

import pytest

import cryomorph
from cryomorph.config import SEAMS

PACKAGE = Path(cryomorph.__file__).parent
SEAM_PACKAGES = sorted(package.__name__.removeprefix("cryomorph.") for package, _ in SEAMS.values())


def imported(source: str, module: str) -> set[str]:
    """Full names of everything that the source of `module` imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(module.split(".")[: -node.level]) if node.level else ""
            origin = ".".join(part for part in (parent, node.module) if part)
            names |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return names


def known_siblings(source: str, package: str, name: str) -> set[str]:
    """Modules of a package, other than its base and private helpers, that one of them imports."""
    siblings = {path.stem for path in (PACKAGE / package).glob("*.py")} - {"__init__", "base", name}
    public = {sibling for sibling in siblings if not sibling.startswith("_")}
    found = imported(source, f"cryomorph.{package}.{name}")
    return {name for name in public if any(f"{other}.".startswith(f"cryomorph.{package}.{name}.") for other in found)}


def test_every_seam_is_looked_at():
    assert SEAM_PACKAGES == ["conformations", "latents", "likelihood", "poses", "priors"]


@pytest.mark.parametrize("package", SEAM_PACKAGES)
def test_parts_of_a_seam_do_not_import_each_other(package):
    paths = sorted((PACKAGE / package).glob("*.py"))
    assert {"__init__", "base"} < {path.stem for path in paths}
    offenders = {path.name: known_siblings(path.read_text(encoding="utf-8"), package, path.stem) for path in paths}
    assert {name: siblings for name, siblings in offenders.items() if siblings} == {}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from cryomorph.conformations.mlp import MLP", {"mlp"}),
        ("from cryomorph.conformations import mlp", {"mlp"}),
        ("import cryomorph.conformations.mlp as other", {"mlp"}),
        ("from . import mlp", {"mlp"}),
        ("from .mlp import MLP", {"mlp"}),
        ("def f():\n    from cryomorph.conformations.mlp import MLP", {"mlp"}),
        ("from cryomorph.conformations.base import ConformationModel", set()),
        ("from cryomorph.conformations._helper import mlp", set()),
        ("from cryomorph.structure.graph import backbone_graph", set()),
    ],
)
def test_an_import_of_a_sibling_is_seen_however_it_is_written(line, expected):
    assert known_siblings(line, "conformations", "gnn") == expected
