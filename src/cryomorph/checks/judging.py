"""From the outcome of a competition to the finding of one test."""

from collections.abc import Mapping

from cryomorph.checks.competition import CLEAR, Outcome
from cryomorph.checks.finding import Evidence, Finding

Text = tuple[str, str]
"""What an alternative means, and what mends it."""


def judge(outcome: Outcome, name: str, texts: Mapping[str, Text], good: str, *, needs_poses: bool = True) -> Finding:
    """Return the finding of a test by alternatives.

    Parameters
    ----------
    outcome
        Of the competition.
    name
        Of the test.
    texts
        Of its alternatives, by name.
    good
        What to say if none of them is as good as what the file says.
    needs_poses
        Whether the test says anything only where images agree with their orientations.
    """
    mistake = outcome.mistake(name)
    if mistake is not None:
        evidence: Evidence = {
            "alternative": mistake.name,
            "nats_as_given": mistake.before,
            "nats_gained": mistake.nats,
            "gained_z": mistake.z,
        }
        return Finding(name, "wrong", texts[mistake.name][0], evidence, texts[mistake.name][1])
    nearest = outcome.nearest(name)
    if nearest is None:
        return Finding(name, "not tested", "the file has nothing to test")
    label, nats, z = nearest
    evidence = {"nats": outcome.score.mean, "nearest_alternative": label, "alternative_nats": nats, "alternative_z": z}
    if needs_poses and not outcome.oriented:
        return Finding(name, "not tested", "images and poses do not agree, see docking", evidence)
    if not outcome.signal:
        return Finding(name, "not tested", "nothing of the template is seen in these images, see docking", evidence)
    if z < -CLEAR:
        return Finding(name, "good", good, evidence)
    if z > CLEAR:
        return Finding(name, "suspect", f"perhaps {texts[label][0]}: a little better so", evidence, texts[label][1])
    return Finding(name, "not tested", f"these images cannot tell whether {texts[label][0]}", evidence)
