"""What `spotrun doctor` looks at in an AWS account, one area a module: facts, a pure `check`, one thin `look`.

- `question`: what a job needs of the account.
- `identity`: credentials, and how long they live.
- `bucket`: where the runs lie.
- `role`: the instance profile, and the role that spot itself needs.
- `region`: regions, networks, image, and what the account sets for all machines.
- `limit`: how many vCPUs may run.
- `queue`: notices by EventBridge.
- `examination`: all of it.
"""
