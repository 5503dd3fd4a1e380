"""What a recipe will cost before it runs: operations, memory, hours and disk."""
