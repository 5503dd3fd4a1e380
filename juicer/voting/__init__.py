"""People compare the responses of two models, blind: the ballot, the votes, their tally and the local page.

Contract: a vote is appended and never changed; one on a response that no longer exists is kept and not counted.
Pitfall: the page is for the person at this machine. It binds to loopback and answers only who has its token.
"""
