"""What operators do all the time, and what becomes of Fastrac meanwhile.

The weather changes every SPELL seconds, and begins again after a cycle. Orders always take LEAST seconds at least, which
their clients rely on.
"""
import hashlib
import itertools
import threading
import time
import urllib.error

from client import LEAST
from executions import OPERATION
from stage import control, get, post

TOKEN = "fga_real000000000000000000000000000000000000000000"
ADMIN = f'tokens = [ {{ name = "trial", sha256 = "{hashlib.sha256(TOKEN.encode()).hexdigest()}", role = "operate" }} ]'
SPELL = 10                       # seconds that a weather lasts
CRASH = {"status": 500, "headers": [], "body": '{"success":false,"message":"Internal Server Error"}'}
# Name; what happens to orders; what happens to everything else.
WEATHER = [
    ("calm", [], []),
    ("slow",
     [{"chance": 0.5, "delay": {"uniform": {"least": 200, "most": 3000}}}],
     [{"delay": {"exponential": {"mean": 150, "most": 1500}}}]),
    ("resets",
     [{"chance": 0.15, "act": "lose_reset"}, {"chance": 0.15, "act": "reset"}],
     [{"chance": 0.3, "act": "reset"}, {"chance": 0.1, "act": "lose"}]),
    ("errors",
     [{"chance": 0.15, "act": {"answer": {**CRASH, "execute": True}}}, {"chance": 0.15, "act": {"answer": CRASH}}],
     [{"chance": 0.4, "act": {"html": 500}}]),
    ("throttled",
     [{"chance": 0.1, "act": {"throttle": {"retry_after": 1}}}],
     [{"times": 3, "act": {"throttle": {"retry_after": 1}}}]),
    ("silent",
     [{"chance": 0.1, "act": "lose", "delay_ms": 5000}],
     [{"chance": 0.3, "wait_ms": 5000}]),
    ("cut",
     [{"chance": 0.2, "act": {"cut": {"after": 40}}}],
     [{"chance": 0.2, "act": {"cut": {"after": 40, "reset": True}}}, {"chance": 0.2, "act": {"wrong_length": {"by": -7}}},
      {"chance": 0.2, "act": {"drip": {"bytes": 50, "every_ms": 20}}}]),
]
CYCLE = SPELL * len(WEATHER)
SLOW = {"wait_ms": int(LEAST * 1000), "wait": {"exponential": {"mean": 80, "most": 800}}}
PAGES = ["status", "metrics", "config", "orders", "quota", "readyz"]


class Operators:
    """One thread: the weather, a page each second, and a command every few."""

    def __init__(self, gateway, steering):
        self.data, self.admin, self.folder = gateway
        self.steering = steering
        self.done, self.failed = {}, []
        self.pairs, self.faults = itertools.count(1), []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        began = time.monotonic()
        commands = itertools.cycle([self.purge, self.reload, self.rotate])
        for second in itertools.count():
            if self.stopping.wait(max(0, began + second - time.monotonic())):
                break
            if second % SPELL == 0:
                name, *faults = WEATHER[second // SPELL % len(WEATHER)]
                self.attempt(name, self.weather, *faults)
            self.attempt("page", get, self.url(PAGES[second % len(PAGES)]), TOKEN)
            if second % 4 == 2:
                command = next(commands)
                self.attempt(command.__name__, command)
        self.attempt("calm", self.weather, [], [])

    def stop(self):
        self.stopping.set()
        self.thread.join(60)

    def url(self, page):
        return f"http://127.0.0.1:{self.admin}/{page}"

    def attempt(self, name, command, *words):
        try:
            command(*words)
            self.done[name] = self.done.get(name, 0) + 1
        except OSError as error:
            self.failed.append(f"{name}: {error}")

    def weather(self, of_orders, of_others):
        """The new faults come before the old ones go: no order finds Fastrac without its delay."""
        old, self.faults = self.faults, []
        for fault in [*({**SLOW, "operation": OPERATION, **fault} for fault in [*of_orders, {}]), *of_others]:
            self.faults.append(control(self.steering, "faults", fault)["id"])
        for number in old:
            try:
                control(self.steering, f"faults/{number}", method="DELETE")
            except urllib.error.HTTPError as error:
                if error.code != 404:       # used up
                    raise

    def purge(self):
        post(self.url("cache/purge"), {}, token=TOKEN)

    def reload(self):
        """Another quota each time, so that the configuration differs."""
        file = self.folder / "gateway.toml"
        old, new = ("burst = 20", "burst = 21")
        text = file.read_text()
        text = text.replace(old, new) if old in text else text.replace(new, old)
        (self.folder / "new.toml").write_text(text)
        (self.folder / "new.toml").rename(file)
        post(self.url("reload"), {}, token=TOKEN)

    def rotate(self):
        """A new pair at Fastrac and in the file; the one before the last is revoked."""
        number = next(self.pairs)
        pair = {"access_key": f"access-{number}", "secret_key": f"canary-secret-{number}"}
        control(self.steering, "keys", {"label": f"pair {number}", **pair})
        new = self.folder / "new-keys.toml"
        new.write_text("[main]\n" + "".join(f'{name} = "{value}"\n' for name, value in pair.items()))
        new.chmod(0o600)
        new.rename(self.folder / "keys.toml")
        if number > 2:
            control(self.steering, "keys/revoke", {"access_key": f"access-{number - 2}"})
