"""The synthetic world of the quickstart: its demonstrations, its oracle and its tiny models."""
