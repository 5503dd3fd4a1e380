"""Small stand-ins: the quickstart's synthetic world with oracle and models, and tiny models of real architectures."""
