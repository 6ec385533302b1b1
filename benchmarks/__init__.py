"""How long things take, each beside its reference in the same run. A script a question."""
