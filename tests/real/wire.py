"""Requests of services and responses as bytes, for tests/real: HTTP/1.1 heads, and HTTP/2 frames with prior knowledge."""
import json
import re
import struct

QUOTE = json.dumps({"origin": 3171031001, "destination": 3171031002, "cod": "0", "insurance": "0",
                    "items": [{"name": "Kaos", "weight": 1000, "width": 20, "height": 10, "length": 30,
                               "quantity": 1, "value": 75000}]}).encode()
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def head(method, target, pair=None, length=None, more=()):
    lines = [f"{method} {target} HTTP/1.1", "host: gateway", *more]
    lines += [f"access-key: {pair[0]}", f"secret-key: {pair[1]}"] if pair else []
    lines += ["content-type: application/json", f"content-length: {length}"] if length is not None else []
    return "\r\n".join([*lines, "", ""]).encode()


async def response(reader):
    """Status, head in lower case and body of a response with a length."""
    top = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(re.search(r"\r\ncontent-length: (\d+)", top)[1])
    return int(top.split(" ", 2)[1]), top, await reader.readexactly(length)


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(window):
    """SETTINGS with the window that each stream begins with."""
    return frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window))


def http2_request(stream, method, target, pair, body=b"", more=()):
    """The frames of a whole request; `more` are further fields."""
    fields = [(":method", method), (":scheme", "http"), (":authority", "gw"), (":path", target),
              ("access-key", pair[0]), ("secret-key", pair[1]), *more]
    block = b"".join(b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields)
    if not body:
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, body)
