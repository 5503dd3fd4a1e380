"""DVC in one process with the project's own ways: stages side by side, started warm, and dvc.lock by the entry.

`python -m juicer.running` takes the words of `dvc` and does what DVC does, with DVC's code, messages and exit codes.
What it replaces in DVC is in `dvc_patches`, and nowhere else. Nothing here is known to a stage: a stage finds the same
files, arguments and environment as under `dvc repro`, and is its own process.
"""
