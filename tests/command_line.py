"""Running the command in this process, and what it answers."""

import re
from dataclasses import dataclass


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]


def refused(result: Result, message: str) -> None:
    """Exit code 2, one line about the error, no traceback."""
    assert result.code == 2, result.err
    assert result.errors == result.err.strip().splitlines()[-1:]
    assert re.search(message, result.errors[0]), result.errors[0]
    assert "Traceback" not in result.err
