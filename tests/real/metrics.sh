#!/bin/sh
# Parses the output of /metrics with other programs' parsers: Prometheus text with promtool (also the sandbox's),
# OpenMetrics with prometheus_client. Compares the metric families in it with tests/real/metrics.txt.
# Usage: tests/real/metrics.sh [FOLDER]    FOLDER keeps the virtual environment for the next run
# Needs promtool (apt: prometheus) and python3 with venv; prometheus_client comes from PyPI unless FOLDER has it.
set -eu
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
FASTRAC_GATEWAY_METRICS_OUT=$out FASTRAC_SANDBOX_METRICS_OUT=$out cargo test --quiet --workspace --lib for_other_parsers
promtool check metrics <"$out/metrics.txt"
promtool check metrics <"$out/sandbox.txt"
env=${1:-$out/env}
[ -x "$env/bin/python" ] || { python3 -m venv "$env" && "$env/bin/pip" install --quiet prometheus_client; }
"$env/bin/python" - "$out/metrics.om" "$out/metrics.txt" tests/real/metrics.txt <<'PYTHON'
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

def samples(families):
    return {
        (s.name, tuple(sorted((k, float(v) if k == "le" else v) for k, v in s.labels.items()))): s.value
        for f in families for s in f.samples if s.name.startswith("fastrac_gateway_")
    }

om = list(openmetrics(open(sys.argv[1]).read()))
text = list(prometheus(open(sys.argv[2]).read()))
assert all(f.documentation for f in om), "a family has no help"
kinds = {f.name: f.type for f in om}
assert kinds["fastrac_gateway_requests"] == "counter" and kinds["fastrac_gateway_request_duration_seconds"] == "histogram"
assert samples(om) == samples(text) and len(samples(om)) > 60, "the two formats have different samples"
# prometheus_client names a counter without _total in both formats
listed = {(row[0].removesuffix("_total"), row[1]) for row in map(str.split, open(sys.argv[3])) if row and not row[0].startswith("#")}
assert listed == {(f.name, f.type) for f in text}, f"tests/real/metrics.txt and the program differ in {sorted(listed ^ {(f.name, f.type) for f in text})}"
print(f"{len(om)} families, {len(samples(om))} samples, the same in both formats")
PYTHON
