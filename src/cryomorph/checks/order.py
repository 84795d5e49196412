"""Whether each row of the file belongs to the image that it names."""

import numpy as np

from cryomorph.checks.competition import Changes, Outcome
from cryomorph.checks.finding import Finding
from cryomorph.checks.hypothesis import Hypothesis, Scorer
from cryomorph.checks.judging import judge

NAME = "row order"

_MEND = "correct rlnImageName (blob/idx), or extract the particles again from this file"
_TEXTS = {
    "one row on": ("every image belongs to the row after its own", _MEND),
    "one row back": ("every image belongs to the row before its own", _MEND),
    "reversed": ("the rows are in the reverse order of the images", _MEND),
    "stack": ("rows are in the order of the stack, whatever the image numbers say", _MEND),
}


def alternatives(base: Hypothesis, scorer: Scorer) -> Changes:
    """Return the orders that files get into by mistake."""
    orders: dict[str, int | str] = {"one row on": 1, "one row back": -1, "reversed": "reversed"}
    stack = scorer.sample.stack
    if len(stack.files) == 1 and (np.diff(stack.table.frame) < 0).any():
        orders["stack"] = "stack"
    return {name: {"order": order} for name, order in orders.items() if order != base.order}


def finding(outcome: Outcome) -> Finding:
    """Return the finding."""
    return judge(outcome, NAME, _TEXTS, "rows and images belong together")
