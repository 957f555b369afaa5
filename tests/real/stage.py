"""Test environment of tests/real: sandboxes and gateways as processes on loopback, ended by their id.

Used by the scripts beside it. The binary is $FASTRAC_GATEWAY (tests/run sets it), else the release
build. Nothing here knows what is tested.
"""
import ctypes
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("FASTRAC_GATEWAY", ROOT / "target/release/fastrac-gateway")).resolve()
KEYS = ("sandbox-access", "sandbox-secret")             # the sandbox's own default pair
CALLER = ("svc-checkout-1", "fgw_real000000000000000000000000000000000000000")
CANNOT_TEST = 77                                        # exit code: something is missing; the last line says what

DAILY = ", per_day = 100000000"
CONFIG = """\
[listen]
data  = ["127.0.0.1:{data}"]
admin = "127.0.0.1:{admin}"
[state]
dir = "state"
[log]
exchanges = "state/exchanges.jsonl"
bodies    = "masked"
[limits]
drain_grace = "0s"
[accounts.main]
base_url = "{fastrac}"
keys     = {{ source = "file", path = "keys.toml" }}
budget   = {{ per_second = 10000, burst = 10000, per_day = 100000000 }}
[services.checkout]
account = "main"
quota   = {{ per_second = 10000, burst = 10000, per_day = 100000000 }}
allow   = ["lookup", "read", "quote", "order", "account"]
credentials = [ {{ access_key = "{access}", secret_sha256 = "{digest}" }} ]
"""


def cannot(reason):
    print(f"cannot test: {reason}")
    sys.exit(CANNOT_TEST)


def free_ports(count):
    """Different ports that are free now. They lie below the range from which Linux takes the local ports of
    outgoing connections (32768 and up), so that no client of a test running beside this one takes them."""
    ports = set()
    while len(ports) < count:
        port = random.randrange(10000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.add(port)
    return list(ports)


def free_port():
    return free_ports(1)[0]


def status(url, **headers):
    """HTTP status of a GET, or None if there is no response."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def post(url, value, pair=None, token=None):
    """The JSON response to a POST of JSON, by a service with its pair, or by an operator with a token."""
    headers = {"content-type": "application/json"}
    headers |= {"access-key": pair[0], "secret-key": pair[1]} if pair else {}
    headers |= {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, json.dumps(value).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def get(url, token=None):
    """The text of a page."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
        return answer.read().decode()


def control(port, path, body=None, method=None):
    """The JSON response of a sandbox's control API."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"http://127.0.0.1:{port}/_sandbox/{path}", data, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _die_with_us():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def openssl(*words, folder):
    done = subprocess.run(["openssl", *map(str, words)], cwd=folder, capture_output=True, text=True, timeout=60)
    if done.returncode:
        sys.exit(f"openssl {' '.join(map(str, words))}: {done.stderr[-2000:]}")


class Authority:
    """A certificate authority, ca.crt and ca.key in a folder, made with openssl."""

    def __init__(self, folder):
        self.folder = folder
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.crt",
                "-days", 30, "-subj", "/CN=an authority", folder=folder)

    def issue(self, name, san, days=30, common_name="nobody"):
        """NAME.crt and NAME.key with subject alternative names such as "IP:127.0.0.1"; each is put in place at once."""
        (self.folder / f"{name}.ext").write_text(f"subjectAltName={san}\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key.new", "-out", f"{name}.csr",
                "-subj", f"/CN={common_name}", folder=self.folder)
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", days,
                "-extfile", f"{name}.ext", "-out", f"{name}.crt.new", folder=self.folder)
        for part in ("crt", "key"):
            (self.folder / f"{name}.{part}.new").rename(self.folder / f"{name}.{part}")


class Stage:
    """`with Stage() as stage:` a temporary folder, and processes that end with it."""

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="fastrac-real-"))
        self.running = []
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return self

    def __exit__(self, *_):
        for _, process in reversed(self.running):
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(3)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name, command, folder):
        with open(self.folder / f"{name}.output", "wb") as output:
            process = subprocess.Popen([str(word) for word in command], cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=subprocess.STDOUT, preexec_fn=_die_with_us)
        self.running.append((name, process))
        return process

    def until(self, name, true, seconds=15):
        """Polls until it holds; if the process ends or time runs out, the end of its output is the message."""
        process = dict(self.running)[name]
        deadline = time.monotonic() + seconds
        while not true():
            if process.poll() is not None or time.monotonic() > deadline:
                ended = f"ended with {process.poll()}" if process.poll() is not None else f"was not ready in {seconds} s"
                words = (self.folder / f"{name}.output").read_text(errors="replace").splitlines()[-15:]
                sys.exit(f"{name} {ended}:\n  " + "\n  ".join(words))
            time.sleep(0.05)

    def sandbox(self, name="sandbox", seed=1, control=None, config=""):
        """A Fastrac simulator, with its control API if that has a port, and this configuration; returns its own port."""
        if not BINARY.exists():
            cannot(f"{BINARY} is not built (cargo build --release)")
        port = next(port for port in free_ports(2) if port != control)
        more = ["--control", f"127.0.0.1:{control}"] if control else []
        (self.folder / f"{name}.toml").write_text(config)
        self.start(name, [BINARY, "sandbox", "--config", self.folder / f"{name}.toml", "--listen", f"127.0.0.1:{port}", "--seed", seed, *more], self.folder)
        self.until(name, lambda: status(f"http://127.0.0.1:{port}/region/province") is not None)
        return port

    def gateway(self, sandbox, name="gateway", more=None, command=(BINARY,), daily=True):
        """A gateway before that sandbox, which is a port or a URL; returns its data and admin ports and its folder.
        `more` has further lines by the header of their table; `command` runs the binary; `daily`: with limits by the day."""
        folder = self.folder / name
        folder.mkdir()
        data, admin = free_ports(2)
        digest = hashlib.sha256(CALLER[1].encode()).hexdigest()
        (folder / "keys.toml").write_text(f'[main]\naccess_key = "{KEYS[0]}"\nsecret_key = "{KEYS[1]}"\n')
        (folder / "keys.toml").chmod(0o600)
        fastrac = sandbox if isinstance(sandbox, str) else f"http://127.0.0.1:{sandbox}"
        config = CONFIG.format(data=data, admin=admin, fastrac=fastrac, access=CALLER[0], digest=digest)
        config = config if daily else config.replace(DAILY, "")
        for header, lines in (more or {}).items():
            config = config.replace(f"{header}\n", f"{header}\n{lines}\n") if header in config else f"{config}{header}\n{lines}\n"
        (folder / "gateway.toml").write_text(config)
        self.start(name, [*command, "run", "--config", folder / "gateway.toml"], folder)
        self.until(name, lambda: status(f"http://127.0.0.1:{admin}/readyz") == 200)
        return data, admin, folder

    def end(self, name):
        """Sends TERM; returns the exit code after the drain."""
        process = dict(self.running)[name]
        process.terminate()
        return process.wait(40)
