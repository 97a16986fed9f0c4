"""Runs a command on a terminal of its own and answers what it asks: `session.py SCRIPT COMMAND…`.

SCRIPT is JSON: a list of [what is waited for, what is typed]; `null` is typed as end of file, a
line that begins with ^ as that control key.
Then the command is left to end by itself, or is stopped (SIGTERM) once the text that the last entry
waits for is there and nothing is typed. Prints, as JSON: the exit status, all that the terminal
showed, and whether it echoes again at the end.
"""

import json
import os
import pty
import select
import signal
import sys
import termios
import time

PATIENCE_SECONDS = 40
END_OF_FILE = b"\x04"


def read_some(terminal, seconds):
    if not select.select([terminal], [], [], seconds)[0]:
        return b""
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is gone
        return None


def wait_for(terminal, shown, text, since):
    end = time.monotonic() + PATIENCE_SECONDS
    while text.encode() not in shown[since:]:
        some = read_some(terminal, 0.2)
        assert some is not None and time.monotonic() < end, f"in vain: {text!r} in {bytes(shown)!r}"
        shown += some
    return shown.index(text.encode(), since) + len(text)


def echoes(terminal):
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


def keys(typed):
    if typed is None:
        return END_OF_FILE
    if typed.startswith("^"):
        return bytes([ord(typed[1]) - ord("@")])
    return typed.encode() + b"\n"


def main():
    script, command = json.loads(sys.argv[1]), sys.argv[2:]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(command[0], command)
    shown, since, hidden = bytearray(), 0, []
    for text, typed in script:
        since = wait_for(terminal, shown, text, since)
        if typed == "":
            os.kill(child, signal.SIGTERM)
            continue
        hidden.append(not echoes(terminal))
        os.write(terminal, keys(typed))
    end = time.monotonic() + PATIENCE_SECONDS
    is_echoing = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        some = read_some(terminal, 0.05)
        if some:
            shown += some
        if ended:
            while some := read_some(terminal, 0):
                shown += some
            break
        assert time.monotonic() < end, f"it does not end: {bytes(shown)!r}"
    try:
        is_echoing = echoes(terminal)
    except termios.error:  # nobody is left who could see it
        pass
    said = {"status": os.waitstatus_to_exitcode(status), "shown": shown.decode(errors="replace"),
            "hidden": hidden, "echoes": is_echoing}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
