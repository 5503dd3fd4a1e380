"""The stage programs, one per stage of dvc.yaml: read declared inputs, call `juicer`, write declared outputs."""
