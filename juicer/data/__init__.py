"""Demonstrations, the template that turns them into prompts and responses, and dialogues as token ids.

Contract: every stage after `fetch` reads the schema of `demonstrations`; a sample keeps the token ids that were drawn.
Pitfall: decoding a sample and tokenising it again changes its tokens, so nothing does that.
"""
