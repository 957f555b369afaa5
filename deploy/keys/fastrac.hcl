# Everything that the gateway needs of the vault: reading one secret (KV version 2; for version 1, leave out `data/`).
path "secret/data/fastrac/main" {
  capabilities = ["read"]
}
