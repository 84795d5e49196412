"""The competition of hypotheses: what explains the images best, one mistake after the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryomorph.checks.hypothesis import Hypothesis, Score, Scorer
from cryomorph.progress import Progress

CERTAIN = 5.0
"""Standard errors that leave no doubt."""
CLEAR = 3.0
"""Standard errors below which images do not tell two hypotheses apart."""
SHARE = 0.1
"""Of all that is explained, what a mistake must have cost to be called one."""
LIKELY = 4
"""Alternatives, the best ones, that are looked at more closely."""
MISTAKES = 4
"""That are looked for in one file at most."""

Changes = Mapping[str, Mapping[str, Any]]
"""Names of alternatives, and how each changes a hypothesis."""


Trial = tuple[str, str, Hypothesis]
"""Test, name of the alternative, and the alternative."""


class Alternatives(Protocol):
    """A test by alternatives to what the file says."""

    NAME: str

    def alternatives(self, base: Hypothesis, scorer: Scorer) -> Changes:
        """Return the alternatives to a hypothesis."""


@dataclass(frozen=True)
class Mistake:
    """An alternative that explains the images better than what it was compared with.

    Attributes
    ----------
    test, name : str
        The test that it belongs to, and its own.
    nats : float
        Gained per image.
    z : float
        The same in standard errors.
    before : float
        Nats per image before.
    """

    test: str
    name: str
    nats: float
    z: float
    before: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a competition ended.

    Attributes
    ----------
    scorer : Scorer
    base : Hypothesis
        What explains the images best.
    mistakes : tuple of Mistake
        That were found on the way there, in which order.
    oriented : bool
        Whether the images agree with their orientations: `base` explains them better than random ones.
    rivals : mapping of test name to mapping of alternatives to (nats, z)
        What each alternative explains more than `base`, which is negative where it is worse.
    """

    scorer: Scorer
    base: Hypothesis
    mistakes: tuple[Mistake, ...]
    oriented: bool
    rivals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def score(self) -> Score:
        """Of the best hypothesis."""
        return self.scorer.score(self.base)

    @property
    def signal(self) -> bool:
        """Whether anything of the template is seen in the images at all."""
        return self.score.z > CERTAIN

    def mistake(self, test: str) -> Mistake | None:
        """Return what a test found, if anything."""
        return next((mistake for mistake in self.mistakes if mistake.test == test), None)

    def nearest(self, test: str) -> tuple[str, float, float] | None:
        """Return the alternative of a test that comes nearest to the best hypothesis: name, nats and z."""
        rivals = self.rivals.get(test, {})
        return max(((name, *values) for name, values in rivals.items()), key=lambda rival: rival[1], default=None)


@dataclass(frozen=True)
class Resort:
    """A costly search, made only where there is a reason to.

    Attributes
    ----------
    test, name : str
        The test that it belongs to, and its own.
    reasons : tuple of str
        Tests whose alternatives may be the best ones only because this one was not tried.
    search : callable
        Returns the alternative to a hypothesis.
    """

    test: str
    name: str
    reasons: tuple[str, ...]
    search: Callable[[Scorer, Hypothesis], Hypothesis]

    def alternatives(self, scorer: Scorer, base: Hypothesis, best: Trial | None) -> list[Trial]:
        """Return the alternative to a hypothesis, if the best one so far is a reason to look for it."""
        needed = not is_oriented(scorer, base) if best is None else best[0] in self.reasons
        return [(self.test, self.name, self.search(scorer, base))] if needed else []


def compete(
    scorer: Scorer,
    start: Hypothesis,
    tests: Sequence[Alternatives],
    progress: Progress,
    refined: Mapping[str, Callable[[Scorer, Hypothesis], Hypothesis]] | None = None,
    resort: "Resort | None" = None,
) -> Outcome:
    """Replace a hypothesis by the best alternative until none is clearly better.

    Parameters
    ----------
    scorer
        Of the hypotheses.
    start
        What the file says.
    tests
        Whose alternatives are tried.
    progress
        Told of every hypothesis.
    refined
        How the alternatives of a test that are points on a scale are brought to the best place about them.
    resort
        What is costly, and tried where images and poses do not agree as they are.
    """
    base, mistakes = start, list[Mistake]()
    for _ in range(MISTAKES):
        tried = _try_all(scorer, base, tests, progress)
        if resort is not None and not any(mistake.test == resort.test for mistake in mistakes):
            tried += resort.alternatives(scorer, base, _best(scorer, base, tried))
        best = _best(scorer, base, tried)
        if best is None or any(mistake.test == best[0] for mistake in mistakes):
            break
        nats, z = scorer.score(best[2]).over(scorer.score(base))
        mistakes.append(Mistake(best[0], best[1], nats, z, scorer.score(base).mean))
        base = (refined or {}).get(best[0], _as_it_is)(scorer, best[2])
    rivals: dict[str, dict[str, tuple[float, float]]] = {test.NAME: {} for test in tests}
    for test, name, hypothesis in _try_all(scorer, base, tests, progress):
        if not any(mistake.test == test for mistake in mistakes):
            rivals[test][name] = scorer.score(hypothesis).over(scorer.score(base))
    return Outcome(scorer, base, tuple(mistakes), not start.round and is_oriented(scorer, base), rivals)


def _best(scorer: Scorer, base: Hypothesis, tried: Sequence[Trial]) -> Trial | None:
    """Return the best alternative against which what is given is a mistake; None if there is none.

    It must agree with the orientations, or have nothing to do with them.
    """
    better = sorted(tried, key=lambda trial: -scorer.score(trial[2]).mean)
    for trial in better[:LIKELY]:
        score = scorer.score(trial[2])
        nats, z = score.over(scorer.score(base))
        if z < CERTAIN or nats < SHARE * score.mean:
            continue
        if base.round or trial[2].sign != base.sign or is_oriented(scorer, trial[2]):
            return trial
    return None


def _as_it_is(scorer: Scorer, hypothesis: Hypothesis) -> Hypothesis:
    return hypothesis


def is_oriented(scorer: Scorer, hypothesis: Hypothesis) -> bool:
    """Tell whether images agree with the orientations of a hypothesis better than with random ones."""
    return scorer.score(hypothesis).over(scorer.score(hypothesis.but(random=1)))[1] > CERTAIN


def _try_all(scorer: Scorer, base: Hypothesis, tests: Sequence[Alternatives], progress: Progress) -> list[Trial]:
    tried = [
        (test.NAME, name, base.but(**changes))
        for test in tests
        for name, changes in test.alternatives(base, scorer).items()
    ]
    # Those that are rendered alike follow each other.
    tried.sort(key=lambda trial: trial[2].rendering)
    progress.start("comparing hypotheses", len(tried), "hypotheses")
    try:
        for _, _, hypothesis in tried:
            scorer.score(hypothesis)
            progress.advance()
    finally:
        progress.finish()
    return tried
