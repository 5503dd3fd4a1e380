"""The training loop that the methods share: optimiser steps, adapters, their record, and the state of a checkpoint."""
