"""Measures of agreement between maps, poses and classes."""
