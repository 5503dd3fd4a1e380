"""Responses drawn from a policy, reproducible sample by sample."""
