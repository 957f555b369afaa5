#!/usr/bin/env bash
# Calls the paths of the command line with curl --retry, and prints the status in which each ended.
set -uo pipefail
# Not /dev/null: before a retry, curl empties the file.
body=$(mktemp)
trap 'rm -f "$body"' EXIT
for path in "$@"; do
  curl -sS -o "$body" -w '%{http_code}\n' --retry 3 -u "$ACCESS:$SECRET" "$BASE_URL$path"
done
exit 0
