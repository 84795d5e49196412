"""Interchangeable parts: settings with a `kind`, and finding the class that belongs to it.

A part (a conformation model, a prior, a pose source, ...) lives in one file of its package and names its settings class
in the class attribute `Settings`. Nothing registers itself on import: `discover` looks through the package.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class Settings(BaseModel):
    """Base of all settings: unknown fields are refused and values do not change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def kind_of(component: type[Any]) -> str:
    """Return the `kind` by which a component class is chosen in a configuration."""
    return str(component.Settings.model_fields["kind"].default)


def discover(package: ModuleType, base: type[T]) -> dict[str, type[T]]:
    """Find the components defined in the modules of a package; those with an underscore are not looked into.

    Parameters
    ----------
    package
        An imported package, e.g. `cryomorph.conformations`.
    base
        The abstract class they derive from.

    Returns
    -------
    dict
        `kind` to class, sorted by kind.
    """
    found: dict[str, type[T]] = {}
    names = (
        f"{package.__name__}.{info.name}" for info in pkgutil.iter_modules(package.__path__) if info.name[0] != "_"
    )
    for name in names:
        module = importlib.import_module(name)
        for member in vars(module).values():
            own = isinstance(member, type) and issubclass(member, base) and member.__module__ == name
            if own and "Settings" in vars(member):
                found[kind_of(member)] = member
    return dict(sorted(found.items()))
