"""Compiled kernels: numpy arrays in, numpy arrays out; no validation, no randomness, no state.

Each has an obvious slow twin in ``tests/naive.py``. Arrays are C-contiguous float32/complex64
unless a docstring says otherwise; sums that need it run in float64.
"""
