"""Simulated particles with known truth, and the density that the package carries."""
