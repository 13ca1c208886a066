"""Errors a user can meet, and the exit code each one gives the command line.

Every message names what was expected, what was found, the particle or file concerned and what to
do about it. The command line prints the message alone and exits with ``exit_code``.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ClusterError",
    "ConfigurationError",
    "FamlError",
    "InputDataError",
    "OutputError",
]


class FamlError(Exception):
    """Base of every error that faml raises on purpose.

    Attributes
    ----------
    exit_code : int
        Exit status of the command line (0 success, 1 unexpected failure, 2 wrong usage,
        3 bad input data, 4 output or checkpoint, 5 workers lost, 130 interrupted).
    """

    exit_code = 1


class ConfigurationError(FamlError):
    """A setting, or a combination of settings, that cannot be run."""

    exit_code = 2


class InputDataError(FamlError):
    """A file or particle that is missing, unreadable or inconsistent."""

    exit_code = 3


class OutputError(FamlError):
    """The output directory or a file in it cannot be used or written."""

    exit_code = 4


class CheckpointError(OutputError):
    """A checkpoint that cannot be read, written or continued."""


class ClusterError(FamlError):
    """Workers or their scheduler cannot be reached, or are lost."""

    exit_code = 5
