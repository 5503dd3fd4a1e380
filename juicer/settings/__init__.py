"""Typed settings, one small module per part of a recipe, so that a stage depends only on what it uses."""
