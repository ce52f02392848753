"""What `spotrun doctor` looks at on any provider. What it looks at in an AWS account is in `spotrun.providers.ec2.doctor`.

Each area is one module: what is to be known as a frozen value, a pure `check` from it to verdicts, and one thin `look`
that asks the outside.

- `verdict`: what a check says, and what would mend it.
- `computer`: this machine.
- `place`: a store, tried for real.
- `round`: looks at all areas at once, each with a bound on its time.
"""
