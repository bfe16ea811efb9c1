"""The command `pooltable` where a shell calls it, run in a fork of the prepared process (tests/prepared.py).

    shell  -->  this, in a Python without its library  --- standard files, folder, environment -->  prepared process
                signals  ------------------------------------------------------------------------>  command's process
    exit code, or the signal of which the command died  <-----------------------------------------

Variables that Python reads only when it starts cannot be set for a fork: where they are others than those of the
prepared process, the installed command runs in place of this one.
"""

import json
import os
import signal
import socket
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(address: str, installed: str, *arguments: str) -> None:
    with open(f"{address}.json") as file:
        names, expected = json.load(file)
    if {name: value for name, value in os.environ.items() if name.startswith(tuple(names))} != expected:
        os.execv(installed, [installed, *arguments])
    # A signal that comes now waits until it is known whom to give it to.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(connection, [b"%08d" % len(request)], [0, 1, 2])
        connection.sendall(request)
        with connection.makefile("rb") as answers:
            pid = int(answers.readline())
            for number in SIGNALS:
                signal.signal(number, lambda number, _: os.kill(pid, number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            code = os.waitstatus_to_exitcode(int(answers.readline()))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
