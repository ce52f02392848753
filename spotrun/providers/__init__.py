"""Capacity: the seam (`provider`), the way from a spec to a provider (`connect`), and the providers.

- `local`: real processes on this computer under a simulated market.
"""
