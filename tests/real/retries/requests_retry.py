"""Calls the paths of the command line with `requests` and urllib3's Retry, and prints the status in which each ended."""
import os
import sys

import requests
import urllib3

retry = urllib3.util.Retry(total=3, backoff_factor=0.1, status_forcelist=[429, 503], raise_on_status=False)
session = requests.Session()
session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
session.auth = (os.environ["ACCESS"], os.environ["SECRET"])
for path in sys.argv[1:]:
    print(session.get(os.environ["BASE_URL"] + path, timeout=20).status_code, flush=True)
