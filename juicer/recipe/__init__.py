"""A recipe: validated, turned into the graph of stages, and written to params.yaml."""
