"""Causal language models: loading and saving, and the exact log-probability of a response.

Contract: safetensors only; a checkpoint with missing tensors is refused.
Pitfall: a log-probability is a sum over response tokens, end-of-text included and the prompt excluded.
"""
