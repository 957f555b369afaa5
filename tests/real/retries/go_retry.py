"""Calls the paths of the command line as Go's hashicorp/go-retryablehttp does with its defaults, and prints the status in
which each ended: up to four retries after 429 and 5xx, after `Retry-After` for 429 and 503, else after 1, 2, 4, 8 s."""
import base64
import os
import sys
import time
import urllib.error
import urllib.request

pair = base64.b64encode(f"{os.environ['ACCESS']}:{os.environ['SECRET']}".encode()).decode()
for path in sys.argv[1:]:
    for attempt in range(5):
        request = urllib.request.Request(os.environ["BASE_URL"] + path, headers={"Authorization": f"Basic {pair}"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, wait = answer.status, None
        except urllib.error.HTTPError as error:
            status, wait = error.code, error.headers.get("Retry-After")
        if (status != 429 and status < 500) or attempt == 4:
            break
        time.sleep(int(wait) if wait and status in (429, 503) else min(30, 2 ** attempt))
    print(status, flush=True)
