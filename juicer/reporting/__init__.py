"""The results of a run: numbers, charts, the report page and the summary.

Contract: the versioned report has no timings; costs go to a page of their own.
Pitfall: prompts and responses come from outside and are escaped everywhere.
"""
