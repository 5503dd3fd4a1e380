"""Where demonstrations come from: files and datasets of the hub, the formats of their rows, and which rows are kept."""
