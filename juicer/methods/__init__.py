"""The paper: RFT (Algorithm 1), IRFT (Algorithm 2), SFT, and the objectives that they train with.

Start at `algorithms`: each algorithm in one function. `irft` is one round of Algorithm 2; `reward` and
`policy_alignment` (RLOO) or `ppo` are the two halves of a round of Algorithm 1; `objectives` are the losses as pure
functions; `forks` computes the prompt of a pair once where that is faster.
"""
