"""Rounds over a cohort: the server's part, the clients' part, and how both are run."""
