"""Causal language models: loading and saving, adapters, and the exact log-probability of a response."""
