"""Where demonstrations come from: files and hub datasets, the formats of their rows, and which rows are kept.

Contract: a row becomes demonstrations or a `LeftOut` with a reason; nothing is dropped without being counted.
Pitfall: files are larger than memory, so rows are streamed.
"""
