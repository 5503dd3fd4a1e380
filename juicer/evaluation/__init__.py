"""How good a policy is: metrics on held-out prompts, and the public benchmarks."""
