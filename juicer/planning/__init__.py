"""What a recipe will cost before it runs: operations, memory, hours and disk.

Contract: needs no weights and no network, and refuses what cannot fit.
Pitfall: memory is an estimate of tensors; `training.memory.OVERHEAD` stands for the rest.
"""
