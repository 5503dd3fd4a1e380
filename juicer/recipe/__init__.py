"""A recipe: validated, turned into the graph of stages, and written to params.yaml.

Contract: a recipe is checked completely before any work starts, and the graph is derived, never edited.
Pitfall: an input that a recipe does not have is None in Python and the file recipes/absent in params.yaml.
"""
