"""MLflow: runs, registered versions, gates, promotion, rollback and restore.

Contract: registering ensures rather than adds, because DVC may restore a stage without running it.
Pitfall: MLflow has no transaction over two aliases, so a move is journalled (`aliases`).
"""
