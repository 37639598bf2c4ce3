"""Parsers under a coverage-guided fuzzer: `make fuzz`, or `python -m tests.fuzz TARGET --seconds N`."""
