"""The privacy ledger: a record on disk of what has been spent on a data set.

A round is charged before it runs, and the charge is on the disk before any result is seen. Whatever
happens afterwards (a crash, a kill, a power cut), the charge stays. A round that is run again is
charged again, so that the ledger may count too much but never too little. One ledger can hold
several plans, such as that of a warm start or those of a sweep; it reports what all of them have
spent together.

The file has one JSON object per line: first a plan, then an entry for each charge, and the line of
each further plan before that plan's first charge. An entry names its plan by the hash of the plan,
and its run by a random name. Each line contains the hash of the line before it and its own hash, so
that gaps and edits are detected. A second file, with `.head` appended to the name, says how many
charges have been acknowledged; without it, a ledger that has lost its last lines would look like
one that never had them. The hashes detect accidents and careless edits. They do not stop a forger,
who can rewrite both files.

This is format 2. Files of format 1, which had one plan and no names of runs, can be read and
continued.
"""

from tff_dp.ledger.book import Ledger
from tff_dp.ledger.reading import LedgerSummary, replay, summarize

__all__ = ["Ledger", "LedgerSummary", "replay", "summarize"]
