"""Conformation models: latent coordinates to atomic coordinates. One file a model."""
