"""Requests and images for the tests of `demo`."""

from __future__ import annotations

import http.client
import io
import json
import struct
import zlib
from typing import Any

from PIL import Image, ImageDraw

from mnist_edge.demo.server import DemoServer

SEVEN = [(6, 6), (20, 6), (12, 22)]
"""Corners of a 7, in pixels of 28x28."""


def request(
    server: DemoServer, method: str, path: str, body: bytes = b"", **headers: str | None
) -> tuple[int, bytes, Any]:
    """Send one request as the page does, with other headers where they are named; None leaves one out."""
    usual: dict[str, str | None] = {"Host": server.url[7:-1]}
    if method == "POST":
        usual |= {"X-Mnist-Edge-Token": server.token, "Content-Length": str(len(body))}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, text in {**usual, **{name.replace("_", "-"): text for name, text in headers.items()}}.items():
        if text is not None:
            connection.putheader(name, text)
    connection.endheaders(body or None)
    response = connection.getresponse()
    found = response.status, response.read(), response.headers
    connection.close()
    return found


def ask(server: DemoServer, image: bytes) -> tuple[int, Any]:
    """Send an image, and return the status and the document."""
    status, content, _ = request(server, "POST", "/answer", image)
    return status, json.loads(content)


def picture(size: int = 280, file_format: str = "PNG", *, digit: bool = True, **options: Any) -> bytes:
    """A thick black 7 on white paper, or white paper alone."""
    image = Image.new("L", (size, size), 255)
    if digit:
        points = [(x * size / 28, y * size / 28) for x, y in SEVEN]
        ImageDraw.Draw(image).line(points, fill=0, width=size // 11, joint="curve")
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header declares far more pixels than its data hold."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
