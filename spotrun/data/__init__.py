"""Data order and randomness that depend on nothing but (seed, epoch, index)."""
