"""The training loop that the methods share: optimiser steps, adapters, their record, and the state of a checkpoint.

Contract: a resumed run ends in the same bytes as an uninterrupted one, on a CPU.
Pitfall: `trainer` overrides private methods of TRL's trainers; `runtime.libraries` bounds the versions.
"""
