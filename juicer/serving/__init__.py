"""A model in use: found by the name that a user gives it, talked to, served, and taken away.

Start at `named.py`, which finds the model; `conversation.py` answers with it, `portable.py` copies it for other
programs.

Contract: a copy renders a dialogue to the same tokens as the policy was trained on, in any program that reads chat
templates; what cannot be written so is refused. The weights keep their bytes.
Pitfall: what a model writes is text from outside. It is shown with its control characters escaped, never as it is.
"""
