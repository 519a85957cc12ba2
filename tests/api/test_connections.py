"""What strangers may send before there is a request: real sockets on a real server."""

from __future__ import annotations

import http.client
import io
import json
import socket
import time

import pytest

KEY = "a-key"
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
BLOCK = b"a" * 65_536
LENGTH = [(b"content-length", b"2")]
ENDLESS = 64 << 20  # far more than any bound; a server that takes it all fails the test


@pytest.fixture(scope="module")
def server(running, shared_store):
    with running(str(shared_store.folder), EMBEDSTORE_API_KEYS=KEY) as server:
        yield server


@pytest.fixture
def connect(server):
    made = []

    def start(*parts):
        made.append(socket.create_connection((server.host, server.port), timeout=30))
        for part in parts:
            made[-1].sendall(part)
        return made[-1]

    yield start
    for each in made:
        each.close()


class _Given(io.BytesIO):
    """What was received, for http.client to parse."""

    def makefile(self, mode):
        return self


def answers(connection):
    """Every answer up to the end of the connection: status, headers and body."""
    received = b""
    try:
        while part := connection.recv(65_536):
            received += part
    except ConnectionResetError:
        pass
    file, found = _Given(received), []
    while file.tell() < len(received):
        response = http.client.HTTPResponse(file)
        response.begin()
        response.close = lambda: None  # the next answer is in the same file
        response.fp = file
        found.append((response.status, dict(response.getheaders()), file.read(response.length)))
    return found


def assert_refused(connection, status, code):
    (last,) = answers(connection)
    assert last[0] == status
    assert last[1]["connection"] == "close"
    body = json.loads(last[2])
    assert list(body) == ["code", "problem", "fix"]
    assert body["code"] == code


def pour(connection, block=BLOCK):
    """Send until the other side has had enough; how many bytes it took."""
    taken = 0
    try:
        while taken < ENDLESS:
            taken += connection.send(block)
    except (BrokenPipeError, ConnectionResetError):
        return taken
    raise AssertionError("the server takes whatever comes")


@pytest.mark.parametrize(
    "begun",
    [
        GET + b"X-Long: ",
        GET + b"X-Name-Without-End",
        b"GET /",
        b"GET /v1/embeddings HTTP/1.1\r\nAuthorization: Bearer ",
        b"POST /v1/embeddings HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: ",
        b"POST /v1/embeddings HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;extension=",
    ],
    ids=["value", "name", "path", "key", "trailer", "chunk extension"],
)
def test_nothing_that_never_ends_is_read_for_long(connect, server, begun):
    connection = connect(begun)
    pour(connection)
    assert server.get("/health")[0] == 200


@pytest.mark.parametrize("length", [60_000, 70_000, 200_000])
def test_headers_of_more_than_64_kib_are_431(connect, length):
    connection = connect(GET, b"X-Long: " + b"a" * length + b"\r\nConnection: close\r\n\r\n")
    if length < 64 << 10:
        (only,) = answers(connection)
        assert only[0] == 200
    else:
        assert_refused(connection, 431, "large-head")


@pytest.mark.parametrize("fields", [90, 101, 5000])
def test_more_than_100_headers_are_431(connect, fields):
    connection = connect(GET, b"X: y\r\n" * fields, b"Connection: close\r\n\r\n")
    if fields < 100:
        (only,) = answers(connection)
        assert only[0] == 200
    else:
        assert_refused(connection, 431, "large-head")


def test_what_is_no_http_is_told_so(connect):
    assert_refused(connect(b"\x16\x03\x01\x02\x00 hello\r\n\r\n"), 400, "bad-head")


def test_a_refused_body_is_not_read_on(connect):
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()
    connection = connect(head + b"Content-Length: 999999999999\r\n\r\n")
    pour(connection)
    connection = connect(head + b"Content-Length: 999999999999\r\n\r\n" + BLOCK)
    assert_refused(connection, 413, "too-large")


@pytest.mark.parametrize("header", [b"", b"Authorization: Bearer wrong\r\n"])
def test_without_a_right_key_no_body_is_read(connect, header):
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n" + header
    pour(connect(head + b"Transfer-Encoding: chunked\r\n\r\n"), b"10000\r\n" + BLOCK + b"\r\n")
    connection = connect(head + b"Content-Length: 100000\r\n\r\n" + b"a" * 100_000)
    assert_refused(connection, 401, "unauthorised")


def test_an_answer_that_comes_before_the_body_ends_the_connection(running, shared_store):
    """A browser's question beforehand is answered outside of the gate."""
    origin = "https://lab.example"
    with running(str(shared_store.folder), EMBEDSTORE_CORS_ORIGINS=origin) as server:
        connection = socket.create_connection((server.host, server.port), timeout=30)
        with connection:
            connection.sendall(
                b"OPTIONS /info HTTP/1.1\r\nHost: x\r\nOrigin: https://lab.example\r\n"
                b"Access-Control-Request-Method: POST\r\nContent-Length: 999999999\r\n\r\n"
            )
            pour(connection)


def test_an_honest_connection_serves_many_requests(server):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    for _ in range(3):
        connection.request("GET", "/health")
        assert connection.getresponse().read()
    local = connection.sock.getsockname()
    connection.request("GET", "/info", headers={"Authorization": f"Bearer {KEY}"})
    assert connection.getresponse().read()
    assert connection.sock.getsockname() == local
    connection.close()


def test_requests_in_one_piece_are_all_answered(connect):
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert [status for status, _, _ in answers(connect((GET + b"\r\n") * 20 + last))] == [200] * 21


def test_headers_that_do_not_come_are_408(bounded):
    server = bounded(head_seconds=0.3)
    for begun in (b"", b"GET", GET, b"\r\n", GET + b"\r\n" + b"GET /health"):
        with socket.create_connection(server, timeout=30) as connection:
            connection.sendall(begun)
            statuses = [status for status, _, _ in answers(connection)]
        assert statuses == ([200, 408] if b"\r\n\r\n" in begun else [408])


def test_bytes_that_trickle_gain_no_time(bounded):
    with socket.create_connection(bounded(head_seconds=0.5), timeout=30) as connection:
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < began + 60:
                connection.send(b"a")
                time.sleep(0.05)


def test_who_waits_longest_gives_the_place_to_another(bounded):
    server = bounded(connections=4, head_seconds=60)
    strangers = []
    for _ in range(7):
        strangers.append(socket.create_connection(server, timeout=30))
        strangers[-1].sendall(GET)
    for each in strangers[:3]:
        assert_refused(each, 408, "slow-head")
    with socket.create_connection(server, timeout=30) as honest:
        honest.sendall(GET + b"Connection: close\r\n\r\n")
        assert answers(honest)[0][0] == 200
    for each in strangers:
        each.close()


def test_idle_connections_give_their_place_too(bounded):
    server = bounded(connections=2, head_seconds=60)
    idle = [http.client.HTTPConnection(*server, timeout=30) for _ in range(2)]
    for each in idle:
        each.request("GET", "/health")
        each.getresponse().read()
    with socket.create_connection(server, timeout=30) as another:
        another.sendall(GET + b"Connection: close\r\n\r\n")
        assert answers(another)[0][0] == 200
    assert idle[0].sock.recv(1) == b""
    for each in idle:
        each.close()


@pytest.fixture
def bounded():
    """A small app behind the protocol in a thread, with bounds of one's own; gives its address."""
    import threading
    from functools import partial

    import uvicorn

    from api.connections import BoundedProtocol, Bounds, Waiting
    from api.server import listen

    started = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": LENGTH})
        await send({"type": "http.response.body", "body": b"ok"})

    def start(connections=100, **bounds):
        made = partial(BoundedProtocol, bounds=Bounds(connections, **bounds), waiting=Waiting())
        config = uvicorn.Config(app, http=made, lifespan="off", log_config=None, ws="none")
        listening, server = listen("127.0.0.1", 0), uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        started.append((server, thread, listening))
        return listening.getsockname()[:2]

    yield start
    for server, thread, listening in started:
        server.should_exit = True
        thread.join(30)
        listening.close()
