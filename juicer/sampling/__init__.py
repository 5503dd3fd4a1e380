"""Responses drawn from a policy, reproducible sample by sample.

Contract: each sample has a seed of its own, so it does not depend on the batch or the number of processes.
Pitfall: temperature changes the distribution, but the recorded log-probability is always that at temperature 1.
"""
