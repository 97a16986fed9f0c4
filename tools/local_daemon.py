"""A daemon of its own for a measurement, and what speaks to it."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse


class UnixHttp(http.client.HTTPConnection):
    """HTTP over the API's unix socket."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Refused(Exception):
    """An answer of the API that is not 200."""


class Daemon:
    """A running daemon; `started` is the time it took until it listened, in seconds."""

    def __init__(self, binary, data, arguments=()):
        self.data = data
        begun = time.monotonic()
        self.process = subprocess.Popen(
            [binary, "serve", "--dev", "--data-dir", data, "--nbd-tcp", "off", "--http", "off",
             *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            if "is serving" in line:
                break
        else:
            raise SystemExit(f"{sys.argv[0]}: the daemon did not start")
        self.started = time.monotonic() - begun
        self.api = UnixHttp(os.path.join(data, "api.sock"))
        self.socket = os.path.join(data, "nbd.sock")

    def call(self, version, action, **parameters):
        """One RPC action; its answer."""
        query = urllib.parse.urlencode({"Version": version, "Action": action, **parameters})
        for is_last in (False, True):
            try:
                self.api.request("POST", "/?" + query)
                answer = self.api.getresponse()
                break
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.api.close()  # idle for too long: the daemon closed it
                if is_last:
                    raise
        body = json.loads(answer.read())
        if answer.status != 200:
            raise Refused(f"{action}: {body['Code']}: {body['Message']}")
        return body

    def create(self, name, size, **parameters):
        """A new encrypted disk's id."""
        return self.call("2026-11-01", "CreateLocalDisk", DiskName=name, SizeBytes=size,
                         Encrypted="true", **parameters)["DiskId"]

    def attach(self, disk):
        self.call("2014-05-26", "AttachDisk", DiskId=disk, InstanceId="i-local")

    def attached(self, name, size):
        """A new, attached disk's id."""
        disk = self.create(name, size)
        self.attach(disk)
        return disk

    def memory(self):
        """Resident bytes of its own: pages of layers that it has mapped, which are the page
        cache's and go when memory is short, are not among them."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            fields = dict(line.split(":", 1) for line in status)
        return int(fields["RssAnon"].split()[0]) * 1024

    def cpu(self):
        """CPU seconds used so far, all threads."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        begun = time.monotonic()
        self.process.terminate()
        self.process.wait()
        return time.monotonic() - begun

    def kill(self):
        self.api.close()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def scratch(prefix, parent=None):
    """A folder that is gone afterwards."""
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def running(binary, data, arguments=()):
    """A daemon that is gone afterwards."""
    daemon = Daemon(binary, data, arguments)
    try:
        yield daemon
    finally:
        daemon.kill()


def connect(path, export):
    """An NBD connection in transmission, by EXPORT_NAME."""
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(path)
    stream.recv(18, socket.MSG_WAITALL)
    name = export.encode()
    stream.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, len(name)) + name)
    if len(stream.recv(10, socket.MSG_WAITALL)) != 10:
        raise SystemExit(f"{sys.argv[0]}: connection refused")
    return stream


def fill(path, export, stride, count, length, start=0):
    """Writes `length` random bytes at `count` places, `stride` apart, from `start` on."""
    data = os.urandom(length)
    batch = max(1, (256 << 10) // length)
    with connect(path, export) as stream:
        for first in range(0, count, batch):
            indices = range(first, min(first + batch, count))
            stream.sendall(b"".join(
                struct.pack(">IHHQQI", 0x25609513, 0, 1, i, start + i * stride, length) + data
                for i in indices))
            replies = stream.recv(16 * len(indices), socket.MSG_WAITALL)
            if len(replies) != 16 * len(indices) or any(
                    replies[at:at + 8] != struct.pack(">II", 0x67446698, 0)
                    for at in range(0, len(replies), 16)):
                raise SystemExit(f"{sys.argv[0]}: a write failed")


def fio(path, export, *options):
    """Runs fio's nbd engine; its first job's JSON."""
    command = ["fio", "--name=cell", "--ioengine=nbd", f"--uri=nbd+unix:///{export}?socket={path}",
               "--time_based", "--norandommap", "--randrepeat=0", "--group_reporting",
               "--output-format=json", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    job = json.loads(done[done.index("{"):])["jobs"][0]  # notes may stand before it
    if job["error"]:
        raise SystemExit(f"fio reports error {job['error']}: {' '.join(command)}")
    return job
