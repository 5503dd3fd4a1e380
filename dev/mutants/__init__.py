"""Changes to the modules that decide what is learnt and reported, and whether a test notices them."""
