"""Reference-free averaging and classification of cryo-ET subtomograms (FAML)."""

__version__ = "0.1.0"
