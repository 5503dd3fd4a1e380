"""Small stand-ins: the quickstart's synthetic world with oracle and models, and tiny models of real architectures.

Contract: everything follows from the seed. Pitfall: the oracle judges this world only, never another source.
"""
