"""Several methods from one SFT checkpoint against SFT of at least the same effort (`juicer compare-methods`).

Start at `plan.py`: each method and control is a job of its own, run by the machinery of `juicer.claim`.

Contract: a control starts after the methods of its variant and seed, and gets at least the steps and response tokens of
the one that used most.
"""
