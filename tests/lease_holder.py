"""A process that holds a lease, for `test_lease`. Arguments: FOLDER EXPIRY [HOST].

Prints `held`, then executes each line of its standard input: `check`, or `end` (release).
Errors are printed, with exit status 1. With HOST the process pretends to be on another machine.
"""

import sys

from data_pipelines import holder, lease
from data_pipelines.errors import UserError

folder, expiry, *host = sys.argv[1:]
lease.EXPIRY, lease.HEARTBEAT, lease.PATIENCE, lease.POLL = float(expiry), 0.05, 0.3, 0.02
if host:
    holder.place = lambda: host[0]


def print_line(text: object) -> None:
    print(text, flush=True)


try:
    with lease.held(folder, "It is in use", "wait.", waiting=print_line) as held:
        print_line("held")
        for line in sys.stdin:
            if line.strip() == "end":
                break
            held.check()
            print_line("still held")
except UserError as error:
    print_line(error)
    sys.exit(error.status)
