"""The command line: one file per verb, no logic of its own.

Nothing heavy is imported before a verb runs, so that `spotrun --help` answers at once. Exit codes: 0 done, 1 the run
failed, 2 wrong use (nothing was launched).
"""
