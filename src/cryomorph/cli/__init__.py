"""The `cryomorph` command: parses, calls, prints. One file a command, or a few that belong together."""

from cryomorph.cli.application import app, main

__all__ = ["app", "main"]
