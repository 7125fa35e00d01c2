"""An S3 store, `s3s-fs`, behind a proxy that can cut all connections to it and refuse new ones for a while."""

import asyncio
import collections
import os
import shutil
import socket
import struct
import subprocess
import threading

ACCESS_KEY = "nightshift-bench"
SECRET_KEY = "only-for-measurements"


class Store:
    """A server with one bucket, `bucket`, whose objects are files below `folder`."""

    def __init__(self, target, folder):
        # ./test installs it there.
        places = os.pathsep.join([str(target / "tools/bin"), os.environ.get("PATH", "")])
        program = shutil.which("s3s-fs", path=places)
        if program is None:
            raise SystemExit("s3s-fs, which ./test installs, is not there")
        self.bucket = folder / "bucket"
        self.bucket.mkdir(parents=True)
        self.server = subprocess.Popen(
            [program, "--host", "127.0.0.1", "--port", "0", "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY,
             str(folder)],
            env={**os.environ, "RUST_LOG": "s3s_fs=info"}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        address = next(line.split("running at http://")[1].strip() for line in self.server.stdout
                       if "running at http://" in line)
        # What else it prints must not fill the pipe.
        threading.Thread(target=collections.deque, args=(self.server.stdout, 0), daemon=True).start()
        host, port = address.split(":")
        self.proxy = Proxy(host, int(port))

    def configure(self, folder):
        """Writes the settings of a warehouse in the bucket into a folder."""
        secret = folder / "secret"
        secret.write_text(SECRET_KEY)
        (folder / "nightshift.toml").write_text(
            "warehouse = 's3://bucket/warehouse'\n\n[[store]]\nurl = 's3://bucket'\n"
            f"endpoint = 'http://127.0.0.1:{self.proxy.port}'\nregion = 'us-east-1'\n"
            f"access_key_id = '{ACCESS_KEY}'\nsecret_access_key_file = '{secret}'\n")

    def cut(self, seconds):
        """Resets all connections and refuses new ones for a while; returns how many were reset."""
        return self.proxy.cut(seconds)

    def stop(self):
        self.server.kill()
        self.server.wait()


class Proxy:
    """Passes requests on to a server, from a thread of its own."""

    def __init__(self, host, port):
        self.upstream = (host, port)
        self.port = None
        self.writers = set()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.within(self.listen())

    def within(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    async def listen(self):
        # The server looks whether an object is there and then writes it, so of two that create the same object at
        # once both would succeed. Stores that honour the condition don't do that.
        self.creation = asyncio.Lock()
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    def cut(self, seconds):
        return self.within(self.cut_for(seconds))

    async def cut_for(self, seconds):
        self.server.close()
        open_now = list(self.writers)
        for writer in open_now:
            reset(writer)
        await asyncio.sleep(seconds)
        while True:
            try:
                self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
                return len(open_now)
            except OSError:
                # Somebody else's connection has the port for a moment.
                await asyncio.sleep(0.05)

    async def serve(self, reader, writer):
        self.writers.add(writer)
        upstream = None
        try:
            while (request := await head_of(reader)) is not None:
                if upstream is None or upstream[0].at_eof():
                    upstream = await asyncio.open_connection(*self.upstream)
                if header(request, "if-none-match") is None:
                    await exchange(request, reader, writer, upstream)
                    continue
                async with self.creation:
                    await exchange(request, reader, writer, upstream)
        except (OSError, EOFError, asyncio.LimitOverrunError):
            # What it was in the middle of is cut off at both ends.
            reset(writer)
        finally:
            self.writers.discard(writer)
            writer.close()
            if upstream is not None:
                upstream[1].close()


def reset(writer):
    """Ends a connection so that the other side finds it broken, not closed."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def exchange(request, reader, writer, upstream):
    """Passes a request on, and the answer back."""
    from_server, to_server = upstream
    to_server.write(request)
    await body(request, reader, to_server)
    while (answer := await head_of(from_server)) is not None:
        writer.write(answer)
        status = answer.split(b" ", 2)[1]
        if status == b"100":
            await writer.drain()
            continue
        if not request.startswith(b"HEAD ") and status not in (b"204", b"304"):
            await body(answer, from_server, writer)
        await writer.drain()
        return
    raise EOFError


async def head_of(reader):
    """All lines before a body, with the empty one; None at the end."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None


async def body(head, reader, writer):
    """Passes on what belongs to a head."""
    length = header(head, "content-length")
    if length is not None:
        await some(int(length), reader, writer)
    elif header(head, "transfer-encoding") == "chunked":
        size = None
        while size != 0:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            writer.write(line)
            await some(size + 2, reader, writer)
    await writer.drain()


async def some(count, reader, writer):
    while count > 0:
        data = await reader.read(min(count, 1 << 16))
        if not data:
            raise EOFError
        writer.write(data)
        await writer.drain()
        count -= len(data)


def header(head, name):
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return None
