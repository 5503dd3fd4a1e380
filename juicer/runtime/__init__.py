"""What everything else stands on: errors, seeds, processes, devices, work contexts. Knows no data and no model."""
