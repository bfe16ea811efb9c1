"""Measurements, each a script with --help; `make bench` runs them all. See README.md."""
