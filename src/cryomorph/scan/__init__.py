"""Scans: how well conformations fit images in all orientations, and which orientations fit best."""
