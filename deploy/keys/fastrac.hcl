# All that the gateway asks of the vault: read one secret. (KV version 2; for version 1 leave `data/` out.)
path "secret/data/fastrac/main" {
  capabilities = ["read"]
}
