-- Run by Postgres once, when its volume is new.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
