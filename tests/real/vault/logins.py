"""The login methods: the setup of OpenBao, and the gateway's [vault] for each."""
import base64
import http.server
import json
import subprocess
import threading
import time

def certificates(folder):
    """A CA, the vault's certificate for 127.0.0.1, and a client's."""
    folder.mkdir()

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-days", "2",
            "-subj", "/CN=test vault CA")
    for name, extension in [("bao", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth"), ("client", "subjectAltName=DNS:fastrac-gateway\nextendedKeyUsage=clientAuth")]:
        (folder / f"{name}.ext").write_text(f"{extension}\nbasicConstraints=critical,CA:false\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.crt", "-days", "2", "-extfile", f"{name}.ext")
        (folder / f"{name}.key").chmod(0o600)
    return folder


def secret(folder, name, text):
    file = folder / name
    file.write_text(text + "\n")
    file.chmod(0o600)
    return file


def approle(bao, folder, name="fastrac", mount="approle", **limits):
    """The role's id and a file with a secret id."""
    if f"{mount}/" not in bao.ask("GET", "sys/auth")["data"]:
        bao.ask("POST", f"sys/auth/{mount}", {"type": "approle"})
    bao.ask("POST", f"auth/{mount}/role/{name}", {"token_policies": ["fastrac"], "token_ttl": "1h", "token_max_ttl": "24h", **limits})
    role = bao.ask("GET", f"auth/{mount}/role/{name}/role-id")["data"]["role_id"]
    issued = bao.ask("POST", f"auth/{mount}/role/{name}/secret-id", {})["data"]["secret_id"]
    return role, secret(folder, f"secret-id-{name}-{mount.replace('/', '-')}", issued)


def _jwt(folder, claims):
    """A JWT signed with an RSA key made for the test (RS256), and its public key."""
    def part(raw):
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    if not (folder / "jwt.key").exists():
        subprocess.run(["openssl", "genrsa", "-out", "jwt.key", "2048"], cwd=folder, check=True, capture_output=True)
        subprocess.run(["openssl", "rsa", "-in", "jwt.key", "-pubout", "-out", "jwt.pub"], cwd=folder, check=True, capture_output=True)
    signed = part(b'{"alg":"RS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    done = subprocess.run(["openssl", "dgst", "-sha256", "-sign", "jwt.key"], cwd=folder, input=signed, check=True, capture_output=True)
    return (signed + b"." + part(done.stdout)).decode(), (folder / "jwt.pub").read_text()


class TokenReview(http.server.BaseHTTPRequestHandler):
    """The only Kubernetes API that a Kubernetes login uses: TokenReview."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": asked["spec"], "status": {
            "authenticated": True, "user": {"username": "system:serviceaccount:shop:fastrac-gateway", "uid": "0000", "groups": ["system:serviceaccounts"]}}}).encode()
        self.send_response(201)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def ways(stage, bao, tls, recipe):
    """The arguments of a gateway for each login; `recipe` is the setup that deploy/keys/README.md describes."""
    folder = stage.folder / "credentials"
    where = f'address = "{bao.address}"\nca = "{tls}/ca.crt"\n'
    found = []

    def way(name, auth, **more):
        found.append({"name": name, "vault": where + (f"auth = {{ {auth} }}" if auth else ""), **more})

    token = bao.ask("POST", "auth/token/create", {"policies": ["fastrac"], "ttl": "1h"})["auth"]["client_token"]
    way("token", f'method = "token", token_file = "{secret(folder, "token", token)}"')
    token = bao.ask("POST", "auth/token/create", {"policies": ["fastrac"], "ttl": "1h"})["auth"]["client_token"]
    found.append({"name": "environment", "vault": "", "environment": {"VAULT_ADDR": bao.address, "VAULT_CACERT": f"{tls}/ca.crt", "VAULT_TOKEN": token}})

    role, file = recipe
    way("approle", f'method = "approle", role_id = "{role}", secret_id_file = "{file}"',
        keys='source = "vault", path = "fastrac/main", sealed_copy = { path = "main.age", identity = "age-identity" }')
    role, file = approle(bao, folder, mount="elsewhere/approle")
    way("mounted", f'method = "approle", role_id = "{role}", secret_id_file = "{file}", mount = "elsewhere/approle"')

    jwt, public = _jwt(folder, {"iss": "test", "sub": "fastrac-gateway", "aud": "vault", "exp": int(time.time()) + 3600, "iat": int(time.time())})
    bao.ask("POST", "sys/auth/jwt", {"type": "jwt"})
    bao.ask("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [public], "bound_issuer": "test"})
    bao.ask("POST", "auth/jwt/role/fastrac", {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_subject": "fastrac-gateway", "token_policies": ["fastrac"]})
    way("jwt", f'method = "jwt", role = "fastrac", token_file = "{secret(folder, "jwt", jwt)}"')

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TokenReview)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    account = {"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:shop:fastrac-gateway", "kubernetes.io/serviceaccount/namespace": "shop",
               "kubernetes.io/serviceaccount/service-account.name": "fastrac-gateway", "kubernetes.io/serviceaccount/service-account.uid": "0000"}
    bao.ask("POST", "sys/auth/kubernetes", {"type": "kubernetes"})
    bao.ask("POST", "auth/kubernetes/config", {"kubernetes_host": f"http://127.0.0.1:{server.server_port}", "token_reviewer_jwt": _jwt(folder, account)[0], "disable_local_ca_jwt": True,
                                                "kubernetes_ca_cert": (tls / "ca.crt").read_text()})
    bao.ask("POST", "auth/kubernetes/role/fastrac", {"bound_service_account_names": ["fastrac-gateway"], "bound_service_account_namespaces": ["shop"], "token_policies": ["fastrac"]})
    way("kubernetes", f'method = "kubernetes", role = "fastrac", token_file = "{secret(folder, "service-account", _jwt(folder, account)[0])}"')

    bao.ask("POST", "sys/auth/cert", {"type": "cert"})
    bao.ask("POST", "auth/cert/certs/fastrac", {"certificate": (tls / "ca.crt").read_text(), "allowed_dns_sans": ["fastrac-gateway"], "token_policies": ["fastrac"]})
    way("cert", f'method = "cert", name = "fastrac", cert = "{tls}/client.crt", key = "{tls}/client.key"')
    return found
