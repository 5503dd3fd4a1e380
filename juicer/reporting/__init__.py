"""What a run found: numbers, charts, the report page and the summary."""
