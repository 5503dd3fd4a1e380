"""How good a policy is: metrics on validation and held-out prompts, the choice between models, and public benchmarks.

Contract: every choice is made on validation prompts; held-out prompts are only reported.
Pitfall: figures are comparable only if prompts, scorer and parameters are the same (`DvcLock.evaluated_on`).
"""
