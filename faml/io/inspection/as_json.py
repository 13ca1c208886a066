"""An inspection as one JSON object for other programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faml.io.inspect import Inspection

__all__ = ["SCHEMA_VERSION", "inspection_to_json"]

SCHEMA_VERSION = 1
"""Grows when a key changes its name or meaning; new keys leave it."""


def inspection_to_json(found: Inspection) -> str:
    """Everything of an inspection under the names of its attributes.

    Returns
    -------
    str
        One object with ``schema_version``. What is not known is null; there is no NaN.
    """
    content = {"schema_version": SCHEMA_VERSION, **asdict(found)}
    return json.dumps(_plain(content), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """Values that JSON has: numbers of numpy become Python's, and what is not finite null."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
