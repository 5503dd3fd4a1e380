"""The results of a run: numbers, charts, the report page and the summary.

Contract: the versioned report has what follows from its declared inputs alone. Costs, and the commit and versions,
which differ between machines, go to pages of their own. Results of other runs are found through their dvc.lock, by md5.
Pitfall: prompts and responses come from outside and are escaped everywhere.
"""
