"""Scripts for ChimeraX (.cxc), which opens files named in them from the script's own folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["states", "maps", "motions", "flexibility"]
PALETTE = "#2166ac:#f7f7f7:#b2182b"
FIRST = {"states": 1, "maps": 101, "motions": 201, "flexibility": 301}
"""Number of the first model of each kind."""


@dataclass(frozen=True)
class Opened:
    """A file that a script opens.

    Attributes
    ----------
    path
        From the script's folder.
    name
        Shown in the list of models.
    kind
        What it is.
    colour
        Empty for a model that is coloured by its B-factors.
    """

    path: str
    name: str
    kind: Kind
    colour: str = ""


def script(opened: Sequence[Opened], most: float) -> str:
    """Return the text of a script that opens files, the first motion in sight if there is one.

    Parameters
    ----------
    opened
        What to open.
    most
        B-factor at the red end of the colours.
    """
    lines = ["# Open this file in ChimeraX. Models are switched on and off in the panel Models."]
    number = dict(FIRST)
    seen: dict[Kind, list[int]] = {"states": [], "maps": [], "motions": [], "flexibility": []}
    for file in opened:
        model = number[file.kind]
        number[file.kind] += 1
        seen[file.kind].append(model)
        steps = " coordsets true" if file.kind == "motions" else ""
        lines += ["", f"# {file.name}", f'open "{file.path}" id {model} name "{file.name}"{steps}']
        if file.kind == "maps":
            lines.append(f"volume #{model} style surface color {file.colour} transparency 0.5 sdLevel 3")
        elif file.colour:
            lines += [f"hide #{model} atoms", f"cartoon #{model}", f"color #{model} {file.colour}"]
        else:
            lines += [f"hide #{model} atoms", f"cartoon #{model}"]
            lines.append(f"color byattribute a:bfactor #{model} palette {PALETTE} range 0,{max(most, 0.1):.2f}")
    lines += ["", *_in_sight(seen), "view", ""]
    return "\n".join(lines)


def _in_sight(seen: dict[Kind, list[int]]) -> list[str]:
    """Show the first motion with its slider, else states and their maps."""
    hidden = seen["flexibility"] + seen["motions"][1:]
    if seen["motions"]:
        hidden += seen["states"] + seen["maps"]
    lines = [f"hide #{','.join(map(str, hidden))} models"] if hidden else []
    if seen["motions"]:
        lines.append(f"coordset slider #{seen['motions'][0]}")
    return lines
