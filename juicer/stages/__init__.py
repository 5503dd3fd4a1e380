"""What every stage program does around its work: arguments, parameters, checkpoints, costs, publication.

Contract: outputs appear by one atomic rename; the same inputs and seed give the same bytes.
Pitfall: DVC deletes declared outputs before a rerun, so checkpoints live in .juicer/, keyed by all inputs.
"""
