"""Prefect flows over the stage graph of dvc.yaml."""

import os

# Before Prefect is imported. A server for the time of a run first makes its database, which can take more than 20 s.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
# It also tells its makers how it is used, and where two of its services meet prints that its database is locked.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
