"""The same rounds in other frameworks, each in a process of its environment: `benchmarks/comparison.py`.

A module `in_NAME` has a function `run`, which does a task by what the framework offers for it: its own
federated averaging, its own privacy, its own way to be given data. `__main__.py` calls it. Nothing here
imports a framework before it is asked for.
"""
