"""Atomic models: reading and writing, selections, the backbone graph, beads."""
