"""MLflow: runs, registered versions, gates, promotion, rollback and restore."""
