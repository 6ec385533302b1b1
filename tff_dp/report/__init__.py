"""Reports: what a run guarantees, for people as a page and for programs as JSON.

A report follows from the run's folder: the claim and its figures from the ledger and the plan, the
rest from what the run has recorded. Nothing here needs TensorFlow. `schema.json` describes the JSON.
"""

from tff_dp.report.content import report_of
from tff_dp.report.files import Difference, Files, verify_report, write_report
from tff_dp.report.page import page_of

__all__ = ["Difference", "Files", "page_of", "report_of", "verify_report", "write_report"]
