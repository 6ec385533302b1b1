"""A fuzz of the fast context: random computations, in every strategy, against stock TFF.

`./run fuzz --minutes N` from the shell; CONTRIBUTING.md says how to read what it prints. A case is plain
data (`cases.Case`). It renders to the source of a program, which is what is run and what is printed, so
that a finding can be run by itself:

- `kinds`: what can be drawn. `chains` draws graphs of the operations of `operations`; `federated`,
  `learning` and `aggregators` put them, models, and TFF's aggregations into computations over clients.
- `running`: a program on stock TFF, and under each strategy with and without XLA.
- `comparing`: when two results are the same.
- `examining`: what is wrong with a case, if anything. `shrinking`: the smallest case with that fault.
- `known`: the differences that are not faults, each with its reason.
- `worker`, `__main__`: the loop in a child process, and its parent, which outlives a crash.
"""
