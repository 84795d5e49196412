"""Images with known truth, from an ensemble of all-atom conformations.

A molecule in ice is a weak phase object: the electrons counted in a pixel are Poisson distributed with the mean
`N (1 - c)`, where `N` is the dose a pixel receives and `c = 2 σ V * h` the contrast, made of the interaction
constant σ, the projected potential V (atoms minus the ice they displace) and the contrast transfer function h. Images
are stored as particle stacks are: protein bright, zero mean far from the molecule, in units of the noise's standard
deviation (`(N - counts) / sqrt(N)`); without noise, as the contrast c itself.

Left out: multiple scattering, the structure of the ice, inelastic scattering, the detector's response.
"""

from cryomorph.simulate.files import star_document
from cryomorph.simulate.frame import dock, map_frame
from cryomorph.simulate.images import add_noise, contrasts
from cryomorph.simulate.particles import Particles, ctf_parameters, draw_particles
from cryomorph.simulate.settings import SimulationSettings
from cryomorph.simulate.simulation import simulate

__all__ = [
    "Particles",
    "SimulationSettings",
    "add_noise",
    "contrasts",
    "ctf_parameters",
    "dock",
    "draw_particles",
    "map_frame",
    "simulate",
    "star_document",
]
