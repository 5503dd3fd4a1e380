"""Responses drawn from a policy, reproducible sample by sample.

Contract: each sample has a seed of its own, so it does not depend on the batch or the number of processes.
At larger models (`steppers.can_refill`) waiting prompts take the rows of responses that have ended.
Pitfalls: temperature changes the distribution, but the recorded log-probability is always that at temperature 1.
`vllm_worker` runs in vLLM's environment, so it imports nothing of ours.
"""
