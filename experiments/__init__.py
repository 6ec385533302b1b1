"""Experiments, one question a file, each with a TOML file of its settings.

`python -m experiments NAME` runs one.
"""
