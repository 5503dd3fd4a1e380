"""The paper: RFT (Algorithm 1), IRFT (Algorithm 2), SFT, and the objectives that they train with.

Start at `algorithms`: each algorithm in one function. `irft` is one round of Algorithm 2; `reward` and
`policy_alignment` (RLOO) or `ppo` are the two halves of a round of Algorithm 1; `objectives` are the losses as pure
functions; `forks` computes the prompt of several responses once where that is faster.

A GPU trains on packed rows (`juicer.models.packing`), a CPU on padded ones. Three losses have a CPU path too, which the
quickstart takes on a machine without a GPU. All compute the same quantity (the tests compare the paths), but in another
order of summation, so weights agree to rounding and not in every byte:

- SFT (`on_single_cpu`): only positions that predict a response token reach the output head, in chunks of similar
  length. On packed rows the loop of IRFT trains instead; on padded ones elsewhere, TRL's SFTTrainer.
- RLOO (`on_single_cpu`): log-probabilities and entropies are computed the same way, on packed rows too; otherwise by
  TRL's RLOOTrainer.
  Where a step is one micro-batch, the pass with gradient gives the old log-probabilities too; where it is several,
  those recorded while sampling do, if a forward pass confirms them. Policy, reference and reward compute the prompt of
  a group once where that is faster (`forks_are_faster`), the reward wherever it runs.
- IRFT (`forks_are_faster`): the prompt of a pair is computed once, in one row with both responses, for model types
  whose attention takes a custom mask. In packed rows demonstration and sample each have it.

Everything else is the same code on CPUs and GPUs: sampling (by torch), the reward, the optimisers and the evaluation.
"""
