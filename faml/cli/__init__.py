"""The command line: parse, wire, print, exit codes."""
