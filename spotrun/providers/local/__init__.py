"""The local provider: real processes on this computer under a simulated market.

- `provider`: `LocalProvider`, the seam's implementation.
- `host`: the simulated machine, a detached process; `imds`: its metadata service.
- `state`: a machine's folder of records; `process`: its processes; `environment`: what they inherit.
- `post_mortem`: what happens when a host dies; `sweep`: ends everything under a home.

Nothing is imported here: the host should start fast.
"""
