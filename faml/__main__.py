"""``python -m faml``."""

from faml.cli.app import main

main()
