"""Several recipes or changes of one project, without one taking the place of another: experiments and worktrees.

An experiment (`juicer exp`) is DVC's: a commit under refs/exps with params.yaml and dvc.lock, known to `dvc exp` too.
It runs in a git worktree of its own in .juicer/experiments/ (`run.py`), so the workspace stays as it is, and the graph
is derived anew from the recipe, which `dvc exp run -S` cannot do. `table.py` compares what experiments came to. A
worktree (`juicer worktree`, `worktree.py`) is a folder for a recipe that stays.

Contract: nothing here changes the workspace, except `apply` and `undo.py`, which say so. Both kinds of folders use the
project's DVC cache, so a stage that two of them have in common runs once.
Pitfall: DVC's own locks are per folder; refs and the cache are shared. Whoever writes refs holds `run.SAVING`.
"""
