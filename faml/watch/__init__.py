"""A run while it goes on: its report in a browser, or a table in the terminal."""
