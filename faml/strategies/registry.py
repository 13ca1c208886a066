"""Which strategies there are: built-in ones first, then those of installed packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from faml.errors import ConfigurationError
from faml.strategies.base import SearchContext, Strategy

__all__ = ["GROUP", "available_strategies", "create_strategy"]

GROUP = "faml.strategies"


def available_strategies() -> dict[str, EntryPoint]:
    """Entry points by name; faml's own win over others of the same name."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        own = entry.value.startswith("faml.")
        if own or entry.name not in found:
            found[entry.name] = entry
    return dict(sorted(found.items()))


def create_strategy(name: str, context: SearchContext) -> Strategy:
    """Load and build a strategy.

    Raises
    ------
    ConfigurationError
        If no strategy has that name, or its package cannot be imported.
    """
    known = available_strategies()
    if name not in known:
        raise ConfigurationError(
            f"unknown strategy {name!r}; installed are: {', '.join(known) or 'none'}"
        )
    try:
        factory = known[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"strategy {name!r} ({known[name].value}) cannot be loaded: {error}; "
            "reinstall the package that provides it"
        ) from error
    strategy: Strategy = factory(context)
    return strategy
