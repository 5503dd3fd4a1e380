"""The training loop that the methods share: optimiser steps, their record, and the state a checkpoint holds."""
