"""What a test says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["good", "suspect", "wrong", "not tested"]

Evidence = dict[str, float | int | str]


@dataclass(frozen=True)
class Finding:
    """The outcome of one test.

    Attributes
    ----------
    name : str
        Of the test.
    verdict : str
        "wrong" where the numbers leave no doubt, "suspect" where someone should look, "not tested" where the input has
        not what the test needs, or cannot tell.
    sentence : str
        What was found.
    evidence : mapping
        The numbers, by name. Nats are per image; what ends in `_z` is in standard errors.
    mend : str
        The option or edit that would mend it, empty where nothing is to be mended.
    """

    name: str
    verdict: Verdict
    sentence: str
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)
    mend: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return vars(self) | {"evidence": dict(self.evidence)}
