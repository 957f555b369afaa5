"""What a process uses over time, what its metrics say, and what is in its exchange log."""
import collections
import json
import os
import pathlib
import re
import statistics
import threading
import time

from stage import get


class Memory:
    """Anonymous memory of a process, resident or swapped, once a second until `stop`. What is resident of files, such as the
    program itself, changes with the needs of others on the machine."""

    def __init__(self, pid):
        self.file = pathlib.Path(f"/proc/{pid}/status")
        self.samples = []                # seconds since the beginning, bytes
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        began = time.monotonic()
        while not self.stopping.wait(1):
            kib = re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+) kB", self.file.read_text(), re.M)
            self.samples.append((time.monotonic() - began, sum(map(int, kib)) << 10))

    def stop(self):
        self.stopping.set()
        self.thread.join()

    def growth(self, since, until):
        """Bytes by which it grows between these times, by the line of least squares; and how far the samples are from that line
        (standard deviation)."""
        times, sizes = zip(*[sample for sample in self.samples if since <= sample[0] <= until])
        slope, intercept = statistics.linear_regression(times, sizes)
        return slope * (until - since), statistics.stdev(size - slope * at - intercept for at, size in zip(times, sizes))


    def by(self, seconds):
        """The mean of each span of so many seconds."""
        spans = collections.defaultdict(list)
        for at, size in self.samples:
            spans[at // seconds].append(size)
        return [statistics.mean(sizes) for _, sizes in sorted(spans.items())]


class Metrics:
    """One scrape."""

    def __init__(self, admin):
        self.values = collections.defaultdict(list)
        text = get(f"http://127.0.0.1:{admin}/metrics")
        for name, labels, value in re.findall(r"^fastrac_gateway_(\w+?)(?:\{(.*)\})? (\S+)$", text, re.M):
            self.values[name].append((labels, float(value)))

    def sum(self, name, labels=""):
        return sum(value for known, value in self.values[name] if labels in known)


def open_files(pid, admin):
    """Descriptors of a process, without those of connections to Fastrac that wait for the next request."""
    idle = Metrics(admin).sum("upstream_connections", 'state="idle"')
    return len(os.listdir(f"/proc/{pid}/fd")) - int(idle)


def read_log(folder):
    """How often each request id occurs in the exchange log; and what is wrong with its numbers."""
    lines, wrong = collections.Counter(), []
    for file in sorted(folder.glob("exchanges*.jsonl")) + sorted(folder.glob("unidentified*.jsonl")):
        expected = 1
        for line in map(json.loads, file.open()):
            if line["seq"] != expected:
                wrong.append(f"{file.name}: {line['seq']} instead of {expected}")
            expected = line["seq"] + 1
            if "event" in line:
                wrong.append(f"{file.name}: {line}")
            elif "request_id" in line:
                lines[line["request_id"]] += 1
    return lines, wrong
