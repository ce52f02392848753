"""EC2: spot and on-demand instances in the user's own account."""
