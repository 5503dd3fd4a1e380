"""Demonstrations, the template that turns them into prompts and responses, and dialogues as tokens."""
