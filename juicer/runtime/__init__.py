"""What everything else stands on: errors, seeds, processes, devices, events. Knows no data and no model."""
