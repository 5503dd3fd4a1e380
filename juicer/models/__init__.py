"""Causal language models: loading and saving, and the exact log-probability of a response."""
