"""Demonstrations: where they come from, how they are read, templated, curated and paired with samples."""
