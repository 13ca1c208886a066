"""Experiments: methods x settings x seeds on simulated data, and the tables and pages of them."""
