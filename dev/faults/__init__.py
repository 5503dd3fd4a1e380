"""The fault harness: ordinary runs are killed, edited, starved and doubled, and what they leave is judged."""
