"""Strategies: where a particle's (class, pose) posterior is evaluated, and with which weights."""
