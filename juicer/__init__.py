"""Reward learning from human demonstrations: the library behind the stage programs (tasks/) and the flows (flows/)."""
