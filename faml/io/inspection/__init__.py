"""Parts of what `faml inspect` finds out."""
