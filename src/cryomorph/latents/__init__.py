"""Where the latent coordinates of a particle come from. One file a kind."""
