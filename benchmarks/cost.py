"""What it costs to let the data decide: processor time of free coefficients, choices and posterior beside all else.

Example
-------
python benchmarks/cost.py DATA/adk/particles.star --template DATA/adk/open_4ake.pdb --json row.json

One run with default settings is timed from within. Processor time of all threads is counted, which depends little on
what else the machine does.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from cryomorph import workflows
from cryomorph.config import parse_config
from cryomorph.training import Trainer

PARTS = {
    "free coefficients": (Trainer, "explained"),
    "beads": (Trainer, "choose_beads"),
    "strengths": (Trainer, "try_strengths"),
    "steps, posterior": (workflows, "find_uncertainty"),
}
"""Where each part of the work is done."""


def timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """Return a function that adds its seconds to a list."""

    def run(*arguments: Any, **options: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **options)
        finally:
            spent.append(time.process_time() - started)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("particles", type=Path)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="run folder to keep")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    settings = {
        "particles": {"path": str(arguments.particles)},
        "template": {"path": str(arguments.template)},
        "hardware": {"accelerator": "cpu"},
    }
    spent: dict[str, list[float]] = {name: [] for name in PARTS}
    patches = [
        patch.object(owner, name, timed(getattr(owner, name), spent[part])) for part, (owner, name) in PARTS.items()
    ]
    with TemporaryDirectory() as folder:
        for each in patches:
            each.start()
        started = time.process_time()
        run = workflows.train(parse_config(settings, "benchmark"), arguments.out or Path(folder) / "run")
        whole = time.process_time() - started
        images = len(run.source_index())
    seconds = {part: sum(each) for part, each in spent.items()}
    rest = whole - sum(seconds.values())
    row = {"images": images, "everything else": rest, **seconds, "share": sum(seconds.values()) / rest}
    print(", ".join(f"{name} {value:.3g}" for name, value in row.items()))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
