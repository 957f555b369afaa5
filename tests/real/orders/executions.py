"""What the sandbox has executed of the orders of `client.py`, by its own journal."""
import collections
import json

from stage import control

OPERATION = "v2.order_express"
# A balance that lasts, and a journal that loses nothing.
SANDBOX = """\
balance = 1000000000000
journal = { entries = 4000000, bytes = "3GiB" }
"""


def executions(steering):
    """How often each order was executed, by its number."""
    executed, after = collections.Counter(), 0
    while entries := control(steering, f"journal?executed=true&operation={OPERATION}&after={after}&limit=5000")["entries"]:
        after = entries[-1]["seq"]
        executed.update(int(json.loads(entry["body"])["item"]["desc"].split()[1]) for entry in entries)
    return executed
