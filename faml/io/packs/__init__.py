"""Packs: many particles in one HDF5 file (`faml.io.packs.writing` has the format)."""
