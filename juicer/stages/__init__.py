"""What every stage program does around its work: arguments, parameters, checkpoints, costs, publication."""
