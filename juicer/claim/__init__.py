"""The comparison of the methods with SFT of the same effort, repeated over seeds (`juicer claim`).

Start at `run.py`, which runs the recipe in copies of the project; `results.py` says what comes out.

Contract: rounds are chosen on validation prompts, and every figure is from held-out prompts. A difference is paired:
against sft-matched, on the same prompts, of the same seed and variant.
Pitfall: where the held-out prompts differ between seeds, as in the quickstart's worlds, the seeds are the only units.
"""
