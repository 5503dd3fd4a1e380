"""Small stand-ins: the quickstart's synthetic world with its oracle and models, and tiny models of real architectures."""
