"""Known ways to get epsilon wrong, as a test suite for any framework.

`cases.json` has what is run, the wrong epsilon, and a proven lower bound on epsilon for each case:
whoever reports less than the bound is wrong, by mathematics and not by comparison. It is plain JSON
that needs nothing of this project; an infinite bound is the text "inf". To ask a function of yours,

    python -m experiments.epsilon_cases my_module:my_function

calls it with the `inputs` of each case, whose keys `definition` explains. It returns an epsilon, or
raises NotImplementedError for what it refuses: a refusal is a right answer. Without a function,
tff_dp's own is asked (`ours.epsilon`). `make` computes the file again from the definitions.
"""

from experiments.epsilon_cases.suite import Case, Verdict, judge, load, page, table

__all__ = ["Case", "Verdict", "judge", "load", "page", "table"]
