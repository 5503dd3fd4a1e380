"""The stages of the harness's small project: the real machinery of stages around work that costs no time to import."""
