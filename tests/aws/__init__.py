"""A small AWS on loopback: real enough to launch, interrupt, resume and end whole jobs without an account.

`World` is the whole of it. Below it lie moto in this process, which answers what it can, and layers that answer what
it cannot: capacity, prices, fleets, idempotency, quotas, events, faults, permissions, credentials that expire. Product
code under test knows none of this: it is given `AWS_ENDPOINT_URL` and credentials, as a user would give them.

| module | holds |
|---|---|
| `world` | `World`: the face of it all, and the check that nothing is left |
| `call`, `answer`, `endpoint` | one request as a value; answers in each service's own form; the server on loopback |
| `fault` | errors, lost answers and held calls, of any operation of any service |
| `credential`, `permission`, `demand` | keys that expire; policies with their conditions, enforced; what a call needs |
| `catalog`, `capacity`, `price`, `quota`, `score` | what is sold, how much of it is left, at which price, to whom |
| `fleet`, `template`, `instance`, `listing` | EC2 operations that moto answers wrongly or not at all |
| `table` | services that moto lacks: Price List, Service Quotas, images by SSM parameter |
| `event` | EventBridge events of EC2, which moto does not emit |
| `runner`, `machine` | instances as machines: their user data run as processes, in EC2's order of states |
| `init`, `unit`, `shim` | what systemd, `shutdown` and the image's Python are on such a machine |
| `metadata` | the instance metadata service of one machine |
| `stage`, `hasty` | a user with a terminal; the command line with shorter pauses towards AWS |
| `wait` | waiting for a condition |
"""
