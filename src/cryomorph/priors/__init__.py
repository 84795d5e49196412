"""Geometric priors on a conformation. One file a prior."""
