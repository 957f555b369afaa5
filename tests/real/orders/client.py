"""Clients that time out at random and repeat their order blindly, with or without an Idempotency-Key.

Always holds: a client that ends an attempt without a response knows that none had come. It closes its sending half and
reads until the gateway has closed the connection, so that a response that crosses with the close still counts. A full
close or a reset would throw such a response away, and the gateway has to count it as given; so these two are used only
where Fastrac cannot have responded yet, and a client that finds itself late there never repeats.
"""
import fcntl
import http.client
import json
import random
import socket
import struct
import termios
import time

LEAST = 0.15                     # seconds before the sandbox executes an order; no response can come earlier
PATIENT = 10                     # seconds that a client waits at most when it has decided to wait
AWB, UNKNOWN, GAVE_UP, DOUBT, LOST = "awb", "unknown", "gave up", "in doubt", "lost"


class Response:
    """Status, headers (names in lower case) and body."""

    def __init__(self, data):
        head, _, self.body = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}

    @property
    def whole(self):
        return len(self.body) >= int(self.headers["content-length"])

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    def code(self):
        return (self.json().get("error") or {}).get("code")


class Attempt:
    """One request: `response`, or None; `sent`: whether bytes of it may have reached the gateway; `doubt`: a response
    may have been thrown away."""

    def __init__(self, response=None, sent=True, doubt=False):
        self.response, self.sent, self.doubt = response, sent, doubt


class Line:
    """A thread's connection to the gateway, which may be kept for the next request."""

    def __init__(self, port, stopped):
        self.port, self.stopped, self.socket = port, stopped, None

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket = None

    def ask(self, request, patience, leave, keep):
        """Sends a request and waits for `patience` seconds; then leaves as `leave` says: half, close or reset."""
        began = time.monotonic()
        try:
            if not self.socket:
                self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=5)
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            self.close()
            return Attempt(sent=False)
        try:
            self.socket.settimeout(PATIENT)
            self.socket.sendall(request)
            response = self.read(began + patience)
            if response is None:
                if leave != "half":
                    return self.abandon(began, leave)
                self.socket.shutdown(socket.SHUT_WR)
                response = self.read(time.monotonic() + 4 * PATIENT)
                keep = False
        except OSError:
            response, keep = None, False
        if response is None or not keep or response.headers.get("connection") == "close":
            self.close()
        return Attempt(response)

    def read(self, until):
        """A whole response; None: the time is up. An OSError: the connection ended before."""
        data = b""
        while True:
            left = until - time.monotonic()
            if left <= 0 and not data:
                return None
            # Of a response that has begun the rest is not far.
            self.socket.settimeout(PATIENT if data else left)
            try:
                more = self.socket.recv(65536)
            except TimeoutError:
                return None
            if not more:
                raise ConnectionResetError
            data += more
            if b"\r\n\r\n" in data and (response := Response(data)).whole:
                return response

    def abandon(self, began, leave):
        """Closes or resets the connection. Afterwards it is known whether a response could have come before."""
        (unread,) = struct.unpack("i", fcntl.ioctl(self.socket, termios.FIONREAD, b"\0\0\0\0"))
        if leave == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
        return Attempt(doubt=bool(unread) or time.monotonic() - began >= LEAST)


class Client:
    """One order, repeated until it has a response, or so and so often."""

    def __init__(self, number, seed):
        self.number = number
        self.random = random.Random(f"{seed}/{number}")
        self.keyed = number % 2 == 1
        self.persists = self.random.random() < 0.6
        self.repeats = self.random.randint(0, 5)
        self.weight = 1000 * self.random.randint(1, 40)
        # What became of it; the response that it ended with; whether any attempt may have been sent to Fastrac.
        self.end, self.last, self.may_be_executed = None, None, False
        self.attempts = 0
        self.seen = set()

    def request(self, pair):
        order = {"courier_code": "anteraja", "code_service": "reg", "cod": "0", "insurance": "0", "pickup": "0",
                 "shipper": {"name": "Toko", "phone": "6281200000001", "address": "Jl. 1", "region_id": 3171031001},
                 "receiver": {"name": "Budi", "phone": "6281200000002", "address": "Jl. 2", "region_id": 5171011001},
                 "item": {"name": "Kaos", "desc": f"order {self.number}", "category": "Pakaian", "value": 150000,
                          "weight": self.weight, "length": 10, "width": 10, "height": 10, "qty": 1}}
        body = json.dumps(order).encode()
        lines = ["POST /order/express HTTP/1.1", "host: gateway", f"access-key: {pair[0]}", f"secret-key: {pair[1]}",
                 "content-type: application/json", f"content-length: {len(body)}"]
        lines += [f"idempotency-key: key-{self.number}"] if self.keyed else []
        return "\r\n".join([*lines, "", ""]).encode() + body

    def run(self, line, pair):
        request, draw = self.request(pair), self.random
        while self.end is None:
            # After many attempts it waits, as a person would; until then its time is up at random.
            patience = PATIENT if self.attempts > 8 else draw.choice((draw.uniform(0.01, 0.12), draw.uniform(0.1, 1.5), PATIENT))
            early = patience < 0.8 * LEAST and not self.may_be_executed
            leave = draw.choice(("half", "close", "reset")) if early else "half"
            attempt = line.ask(request, patience, leave, keep=draw.random() < 0.5)
            if not attempt.sent:
                # The gateway is being restarted.
                if line.stopped.wait(0.1):
                    self.end = LOST
                continue
            self.attempts += 1
            self.judge(attempt)
            if self.end is None and not self.persists and self.attempts > self.repeats:
                self.end = GAVE_UP
            if self.attempts > 60 or line.stopped.is_set():
                self.end = LOST
            if self.end is None:
                time.sleep(draw.choice((0, 0, draw.uniform(0, 0.3))))
        return self

    def judge(self, attempt):
        response = attempt.response
        if response is None:
            self.may_be_executed = True
            self.end = DOUBT if attempt.doubt else None
            return
        self.last = response
        code, sent = response.code(), response.headers["x-gateway-sent"]
        replayed = response.headers.get("idempotent-replayed") == "true"
        self.may_be_executed |= sent != "no"
        self.seen.update({code} if code else (), {"replay"} if replayed else ())
        if response.status == http.client.OK and response.json().get("success") is True:
            self.end = AWB
        elif code == "order.unknown" or (replayed and sent == "unknown"):
            # What it may have bought is not known to the gateway either: a person has to find out.
            self.end = UNKNOWN
