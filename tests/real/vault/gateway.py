"""A gateway with a key source of the test, in front of a sandbox that accepts every pair."""
import base64
import hashlib
import json
import pathlib
import sys
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from stage import BINARY, CALLER, free_port, free_ports, status  # noqa: E402

POLL = 1.0
ADMIN = "fga_real000000000000000000000000000000000000000000"
BASIC = "Basic " + base64.b64encode(":".join(CALLER).encode()).decode()

CONFIG = """\
[listen]
data  = ["127.0.0.1:{data}"]
admin = "127.0.0.1:{admin}"
workers = 1
[admin]
token_sha256 = "{token}"
[state]
dir = "state"
[log]
exchanges = "state/exchanges.jsonl"
[limits]
drain_grace = "0s"
{vault}
[accounts.main]
base_url = "http://127.0.0.1:{sandbox}"
keys     = {{ {keys} }}
[services.checkout]
account = "main"
credentials = [ {{ access_key = "{access}", secret_sha256 = "{digest}" }} ]
"""


class Fastrac:
    """The sandbox with its control API."""

    def __init__(self, stage, pairs=40):
        control = free_port()
        self.port = stage.sandbox(control=control)
        for n in range(1, pairs + 1):
            body = json.dumps({"label": f"pair {n}", "access_key": f"access-{n}", "secret_key": f"canary-secret-{n}"}).encode()
            urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{control}/_sandbox/keys", body), timeout=5).read()


class Gateway:
    """`vault` are the lines of [vault], if there is one, `keys` the members of the account's `keys`."""

    def __init__(self, stage, fastrac, name, vault=None, keys='source = "vault", path = "fastrac/main"', environment=None):
        self.stage, self.name, self.vault = stage, name, vault
        self.folder = stage.folder / name
        self.folder.mkdir()
        self.data, self.admin = free_ports(2)
        self.environment = environment or {}
        text = CONFIG.format(data=self.data, admin=self.admin, sandbox=fastrac.port, keys=keys,
                             vault="" if vault is None else f'[vault]\n{vault}\npoll = "{POLL}s"',
                             token=hashlib.sha256(ADMIN.encode()).hexdigest(), access=CALLER[0], digest=hashlib.sha256(CALLER[1].encode()).hexdigest())
        (self.folder / "gateway.toml").write_text(text)

    def start(self, name=None):
        self.process = name or self.name
        words = ["env", *(f"{key}={value}" for key, value in self.environment.items()), BINARY, "run", "--config", self.folder / "gateway.toml"]
        self.stage.start(self.process, words, self.folder)
        self.stage.until(self.process, lambda: status(f"http://127.0.0.1:{self.admin}/livez") == 200)
        return self

    def ready(self):
        self.stage.until(self.process, self.is_ready)
        return self

    def is_ready(self):
        return status(f"http://127.0.0.1:{self.admin}/readyz") == 200

    def get(self, path):
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", headers={"authorization": f"Bearer {ADMIN}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def keys(self):
        return self.get("/status")["accounts"]["main"]["keys"]

    def current(self, member="source_version"):
        """The vault's number of the pair in use, or its digest (`version`)."""
        return next((pair[member] for pair in self.keys()["pairs"] if pair["role"] == "current"), None)

    def source(self):
        return self.keys()["source"]

    def degraded(self):
        return self.get("/readyz")["degraded"]

    def metric(self, name, labels=""):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"fastrac_gateway_{name}{{") and labels in line:
                    return float(line.split()[-1])
        return None

    def ask(self, path="/region/city?province_id=31", timeout=10):
        """Status, outcome and seconds of a request of the service."""
        began = time.monotonic()
        request = urllib.request.Request(f"http://127.0.0.1:{self.data}{path}", headers={"authorization": BASIC})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                answer.read()
                return answer.status, answer.headers["x-gateway-outcome"], time.monotonic() - began
        except urllib.error.HTTPError as error:
            return error.code, error.headers["x-gateway-outcome"], time.monotonic() - began
