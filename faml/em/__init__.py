"""Expectation maximisation: one loop for every strategy (method.md section 5)."""
