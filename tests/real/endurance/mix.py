"""What the services of the trial do, well and badly behaved, at steady rates.

Each visit is a connection of its own with a few requests. The ids of all responses that came whole are kept: each must
have its line in the exchange log.
"""
import asyncio
import itertools
import json
import random
import threading

from client import Client, Line
from stage import CALLER, ROOT
from wire import (DATA, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, QUOTE, RST_STREAM, frame, head, http2_request,
                  response, settings)

MARKET = ("svc-market-1", "fgw_real_market0000000000000000000000000000000000")    # a low quota, which it exceeds
ORDERERS = 3                     # clients with an order each, at the same time
PATIENCE = 60                    # seconds for a visit, on a machine that is busy; then it counts as stuck


class Mix:
    """All visits to the gateway's port until `stop`."""

    def __init__(self, port):
        self.port = port
        self.answered, self.outcomes, self.stuck = [], {}, []
        self.stopping = asyncio.Event()
        self.numbers = itertools.count()

    async def run(self):
        await asyncio.gather(*(self.repeat(rate, visit) for rate, visit in VISITS))

    async def repeat(self, per_second, visit):
        """Begins visits so often a second; in the end waits for those under way."""
        running = set()
        while not self.stopping.is_set():
            task = asyncio.create_task(self.once(visit))
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(random.expovariate(per_second))
        await asyncio.gather(*running)

    async def once(self, visit):
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            await asyncio.wait_for(visit(self, reader, writer), PATIENCE)
        except asyncio.TimeoutError:
            self.stuck.append(visit.__name__)
        except (OSError, asyncio.IncompleteReadError):
            pass                 # the gateway closed: also after a refusal
        finally:
            if writer:
                writer.close()

    async def ask(self, link, method, target, body=b"", pair=CALLER, more=()):
        reader, writer = link
        writer.write(head(method, target, pair, len(body) if body else None, more) + body)
        await self.answer(reader)

    async def answer(self, reader):
        _, top, _ = await response(reader)
        lines = dict(line.split(": ", 1) for line in top.split("\r\n") if ": " in line)
        self.count(lines["x-request-id"], lines["x-gateway-outcome"])

    def count(self, request_id, outcome):
        self.answered.append(request_id)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


# ---- well behaved ------------------------------------------------------------------------------------------

async def browse(mix, *link):
    for _ in range(8):
        await mix.ask(link, "GET", f"/region/city?province_id={random.randrange(11, 95)}")


async def search(mix, *link):
    for _ in range(3):
        keyword = json.dumps({"keyword": f"ke{random.randrange(10_000)}"}).encode()
        await mix.ask(link, "POST", "/region/search-region", keyword)


async def price(mix, *link):
    for _ in range(2):
        await mix.ask(link, "POST", "/tariff/express", QUOTE)


async def track(mix, *link):
    for _ in range(3):
        awb = json.dumps({"courier_code": "anteraja", "awb": f"FSTRA{random.randrange(10**6)}"}).encode()
        await mix.ask(link, "GET", "/order/track", awb)


async def balance(mix, *link):
    await mix.ask(link, "POST", "/user/balance/history", b"{}")


async def streams_of_http2(mix, reader, writer):
    """Six requests at once on one connection."""
    ids = {stream: f"endurance-{next(mix.numbers):010}" for stream in range(1, 13, 2)}
    writer.write(PREFACE + settings(window=1 << 20))
    for stream, request_id in ids.items():
        method, target, body = random.choice((("GET", f"/region/city?province_id={random.randrange(11, 95)}", b""),
                                              ("POST", "/tariff/express", QUOTE), ("GET", "/courier/all", b"")))
        writer.write(http2_request(stream, method, target, CALLER, body, [("x-request-id", request_id)]))
    while ids:
        top = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(top[:3], "big"))
        kind, flags, stream = top[3], top[4], int.from_bytes(top[5:], "big")
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            mix.count(ids.pop(stream), "over HTTP/2")
        elif kind == RST_STREAM:
            ids.pop(stream, None)
        elif kind == GOAWAY:
            return


# ---- badly behaved -----------------------------------------------------------------------------------------

async def impatient(mix, *link):
    await mix.ask(link, "POST", "/tariff/express", QUOTE, more=["x-gateway-timeout: 20"])


async def over_quota(mix, *link):
    for _ in range(12):
        await mix.ask(link, "GET", "/region/province", pair=MARKET)


async def stranger(mix, *link):
    await mix.ask(link, "GET", "/region/city?x=" + "a" * 4_000, pair=None)


async def leaves(mix, reader, writer):
    writer.write(head("POST", "/tariff/express", CALLER, len(QUOTE)) + QUOTE)
    await writer.drain()
    await asyncio.sleep(random.choice((0, 0.005, 0.05)))


async def leaves_halfway(mix, reader, writer):
    writer.write(head("POST", "/tariff/express", CALLER, len(QUOTE)) + QUOTE[:-7])
    await writer.drain()


async def uploads_slowly(mix, reader, writer):
    writer.write(head("POST", "/tariff/express", CALLER, len(QUOTE)))
    for byte in range(0, len(QUOTE), 16):
        writer.write(QUOTE[byte:byte + 16])
        await asyncio.sleep(0.2)
    await mix.answer(reader)


async def reads_slowly(mix, reader, writer):
    writer.transport.pause_reading()
    writer.write(head("GET", "/courier/all", CALLER))
    await asyncio.sleep(3)
    writer.transport.resume_reading()
    await mix.answer(reader)


async def window_0_with_pings(mix, reader, writer):
    writer.write(PREFACE + settings(window=0) + http2_request(1, "GET", "/courier/all", CALLER))
    for _ in range(8):
        writer.write(frame(PING, 0, 0, b"01234567"))
        await asyncio.sleep(0.5)


async def half_a_head(mix, reader, writer):
    writer.write(b"GET /region/city HTTP/1.1\r\nhost: ")
    await asyncio.sleep(5)


async def order_again(mix, *link):
    """An order whose key was used before: its response, or a refusal."""
    body = (ROOT / "config/first-hour/order.json").read_bytes().replace(b"Kaos katun", b"order 1000000000")
    await mix.ask(link, "POST", "/order/express", body, more=["idempotency-key: again"])


VISITS = [                       # how many of each begin in a second
    (5, browse), (3, search), (4, price), (5, track), (1, balance), (2, streams_of_http2),
    (5, impatient), (0.5, over_quota), (4, stranger), (4, leaves), (2, leaves_halfway), (0.5, uploads_slowly),
    (0.5, reads_slowly), (0.3, window_0_with_pings), (0.5, half_a_head), (1, order_again),
]


# ---- orders ------------------------------------------------------------------------------------------------

class Orders:
    """Clients of tests/real/orders, one after another in each of ORDERERS threads, until `stop`."""

    def __init__(self, port, seed):
        self.port, self.seed = port, seed
        self.ended, self.numbers, self.stopping = {}, itertools.count(), threading.Event()
        self.threads = [threading.Thread(target=self.order, daemon=True) for _ in range(ORDERERS)]
        for thread in self.threads:
            thread.start()

    def order(self):
        line = Line(self.port, threading.Event())
        while not self.stopping.is_set():
            number = next(self.numbers)
            client = Client(number, self.seed).run(line, CALLER)
            self.ended[number] = client.end

    def stop(self, seconds):
        """No further orders; those under way come to their end. Returns how many did not."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(seconds)
        return sum(thread.is_alive() for thread in self.threads)
