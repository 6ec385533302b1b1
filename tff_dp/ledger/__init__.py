"""The privacy ledger: what has been spent on a data set, on disk before the result is seen.

A round is charged before it is run. Whatever happens afterwards (a crash, a kill, a power cut), the
charge stays: a round that is run again is charged again, so that the ledger may count too much and
never too little. One ledger can take several plans, such as a warm start's or those of a sweep;
what it reports is what all of them have spent together.

The file has one JSON object a line: first a plan, then an entry for each charge, and the line of
another plan before that plan's first charge. An entry names its plan by the hash of the plan, and
its run by a random name. Each line holds the hash of the one before it and its own, so that gaps
and edits show. A second file, with `.head` after the name, says how many charges had been
acknowledged; without it, a ledger that lost its last lines would look like one that never had
them. The hashes find accidents and careless edits. They do not stop a forger, who can write both
files anew.

This is format 2. Files of format 1, which had one plan and no names of runs, are read and
continued.
"""

from tff_dp.ledger.book import Ledger
from tff_dp.ledger.reading import LedgerSummary, replay, summarize

__all__ = ["Ledger", "LedgerSummary", "replay", "summarize"]
