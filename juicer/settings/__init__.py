"""Typed settings, one module per part of a recipe: the names, types, limits and meanings of all parameters.

Contract: an unknown key is an error that suggests the nearest right one; the docstring of a field is its documentation.
Pitfall: settings are no dependency of a stage, because params.yaml spells out every value. A default changed here takes
effect when `juicer use` writes params.yaml again.
"""
