"""What a run costs: sizes of what it holds, laws of how its time grows, and both together."""
