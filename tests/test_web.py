"""engine.evaluate.services.web and ServiceError: servers that mean no good, over a socket."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("requests")

from engine.evaluate.services import ServiceError, azure, facepp, service, web

Reply = Callable[[socket.socket], None]
BACKOFF = 1.5
PIECES = 200


@contextmanager
def serving(reply: Reply) -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server that gives every request this reply, and what was sent to it."""
    listening, seen = socket.create_server(("127.0.0.1", 0)), []

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                data = connection.recv(1 << 16)
                seen.append(data)
                reply(connection)
            except OSError:
                pass  # the client has had enough, which is what is tested

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", seen
    finally:
        listening.close()


def says(status: int, body: bytes = b"{}", *headers: str) -> Reply:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} Fine", f"Content-Length: {len(body)}", *headers))
    return lambda connection: connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)


def ask(reply: Reply, *, attempts: int = 1, backoff: float = 0) -> web.Answer:
    with serving(reply) as (url, _):
        return web.send(web.open_session(attempts=attempts, backoff=backoff), "The service", "GET", url)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("36000", web.LONGEST_WAIT),
        ("inf", web.LONGEST_WAIT),
        ("nan", 0),
        ("-5", 0),
        ("1e400", web.LONGEST_WAIT),
        ("7", 7),
        ("Fri, 31 Dec 2999 23:59:59 GMT", web.LONGEST_WAIT),
        ("Fri, 31 Dec 99999999999999 23:59:59 GMT", BACKOFF),
        ("Mon, 01 Jan 1990 00:00:00 GMT", 0),
        ("soon", BACKOFF),
    ],
)
def test_a_server_is_not_waited_for_longer_than_is_sensible(
    header: str, wait: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    clock = SimpleNamespace(sleep=waits.append, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr(web, "time", clock)
    reply = says(429, b"{}", f"Retry-After: {header}")
    assert ask(reply, attempts=2, backoff=BACKOFF).status_code == 429
    assert waits == [wait]


def drip(prefix: bytes, piece: bytes, sent: list[bytes]) -> Reply:
    """An answer of PIECES pieces, which takes ten seconds. sent: gets each of them."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(prefix)
        for _ in range(PIECES):
            connection.sendall(piece)
            sent.append(piece)
            time.sleep(0.05)

    return reply


@pytest.mark.parametrize(
    ("prefix", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % PIECES, b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"", b"H"),
    ],
    ids=["body", "chunks", "header", "status"],
)
def test_an_answer_that_drips_is_given_up(prefix: bytes, piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TOTAL", 0.5)
    sent: list[bytes] = []
    with pytest.raises(ServiceError, match="has not answered within"):
        ask(drip(prefix, piece, sent))
    assert len(sent) < PIECES


@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize("zipped", [False, True])
def test_an_answer_without_end_is_given_up(status: int, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LARGEST", 1 << 16)
    reply = (
        says(status, gzip.compress(bytes(1 << 20)), "Content-Encoding: gzip")
        if zipped
        else drip(f"HTTP/1.1 {status} OK\r\nContent-Length: {1 << 40}\r\n\r\n".encode(), bytes(1 << 15), [])
    )
    with pytest.raises(ServiceError, match="more than 65,536 bytes"):
        ask(reply)


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 200_000, b"", b"\xff\xfe", b"1" * 5000, b"no"])
def test_what_is_no_json_is_none(body: bytes) -> None:
    assert web.content(ask(says(200, body))) is None


def test_no_password_of_netrc_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine\ndefault login me password mine\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with serving(says(200)) as (url, seen):
        web.send(web.open_session(attempts=1), "The service", "GET", url)
    assert seen
    assert b"authorization" not in seen[0].lower()


def forms(key: str) -> list[str]:
    quoted = key.replace("/", "%2F").replace("+", "%2B")
    return [key, key.upper(), quoted, base64.b64encode(key.encode()).decode(), json.dumps(key)[1:-1]]


@pytest.mark.parametrize("form", range(5))
@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_key_that_a_server_sends_back_is_in_no_text(form: int, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    key = 'the+key/of "mine"'
    monkeypatch.setattr(service, "_secrets", {})
    said = f"\x1b[31mwrong key {forms(key)[form]} of yours" + "x" * 5000
    bodies = [
        json.dumps({"error": {"code": said, "message": said}, "error_message": said}).encode(),
        said.encode(),
    ]
    for body in bodies:
        with serving(says(status, body)) as (url, _):
            http = web.open_session(attempts=1)
            for adapter in (
                azure.AzureFace(url, key, http=http),
                facepp.FacePlusPlus(key, key, http=http, endpoint=url, wait=lambda seconds: None),
            ):
                try:
                    adapter.open()
                except ServiceError as error:
                    text = str(error)
                else:
                    text = str(ServiceError(f"of an unknown form: {said}"))
                assert not any(one.lower() in text.lower() for one in forms(key))
                assert len(text) < 1000
                assert "\x1b" not in text


@pytest.mark.parametrize("endpoint", ["https://me:mine@host", "http://me:mine@127.0.0.1", "https://:mine@host/x"])
def test_an_endpoint_with_a_password_is_refused_without_saying_it(endpoint: str) -> None:
    said = web.insecure(endpoint)
    assert said is not None
    assert "mine" not in said
    assert web.insecure("https://host.example/x") is None
    assert web.insecure("https://[host") is not None
