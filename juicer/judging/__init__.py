"""A judge that compares two responses: an endpoint, a model of this machine or a program.

Contract: every pair is asked in both orders; what a judge does not answer is counted and never guessed.
Pitfall: a judge may prefer a place, a length or its own kind. The record says how often the two orders agree.
"""
