"""What a script and the test that starts it say to each other.

The test passes the areas to exercise as arguments, the members' endpoints in ENDPOINTS and a folder to
write to in SCRATCH. A script prints `ok <area>` after each area; `do kill` asks for the leader to be
killed and `do restart` for the dead member to be started again, each answered by a line once it is done;
`snapshot <file>` hands over a file for the original's etcdutl to restore from. Whatever else goes wrong is
an exception: the script ends with a traceback and a status that is not 0.
"""

import os
import sys
import time

# Seconds that anything awaited may take; generous, for a busy machine.
PATIENCE = 60

AREAS = sys.argv[1:]
SCRATCH = os.environ["SCRATCH"]


def endpoints():
    """(host, port) of each member."""
    urls = os.environ["ENDPOINTS"].split(",")
    parts = [url.split("//", 1)[1].rsplit(":", 1) for url in urls]
    return [(host, int(port)) for host, port in parts]


def say(line):
    print(line, flush=True)


def ask(what):
    """Has the test do something to the cluster."""
    say("do " + what)
    answer = sys.stdin.readline().strip()
    assert answer == "done", answer


def expect(found, wanted):
    assert found == wanted, "found {!r} instead of {!r}".format(found, wanted)


class Deadline:
    """Ends a wait that takes too long."""

    def __init__(self, what):
        self.what = what
        self.end = time.monotonic() + PATIENCE

    def check(self, last=None):
        assert time.monotonic() < self.end, "not in time: {} ({!r})".format(self.what, last)


def snapshot_file(name):
    return os.path.join(SCRATCH, name)
