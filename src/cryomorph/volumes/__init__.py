"""Maps: made from particles by back-projection, simulated from models, compared shell by shell, written as MRC."""
