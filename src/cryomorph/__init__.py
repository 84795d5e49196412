"""Atomic conformations of flexible proteins, one for every particle, from single-particle cryo-EM images."""

__version__ = "0.1.0"
