"""Particle files (RELION, cryoSPARC, MRC) as one `ParticleStack`."""
