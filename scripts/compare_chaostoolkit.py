"""Runs the same pod kill with chaosrun and with Chaos Toolkit, by turns, and prints what each cost and said.

Started by compare-chaostoolkit.sh in a lab and in Chaos Toolkit's own Python environment. The truth is the workload's: it stamps on the
kernel's monotonic clock when it was told to end and when its replacement answered again.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import re
import ssl
import statistics
import subprocess
import time
import urllib.error
import urllib.request

import yaml

NAMESPACE = "compare"
# The replacement answers 503 for this long.
READY_AFTER = 3
GRACE = 5


class Api:
    """The lab's API server, under a name of our own so that our requests are told from the tools'."""

    def __init__(self, path):
        config = yaml.safe_load(pathlib.Path(path).read_text())
        cluster = config["clusters"][0]["cluster"]
        self.server = cluster["server"]
        self.token = config["users"][0]["user"]["token"]
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE

    def call(self, method, path, body=None):
        request = urllib.request.Request(
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
                "User-Agent": "comparison",
            },
        )
        with urllib.request.urlopen(request, context=self.tls, timeout=10) as answer:
            return answer.read().decode()

    def get(self, path):
        return json.loads(self.call("GET", path))

    def requests(self, client):
        """How many requests of clients whose name matches were served so far: the server's own count."""
        total = 0
        for line in self.call("GET", "/metrics").splitlines():
            found = re.match(r'apiserver_request_total\{.*client="([^"]*)"\} (\d+)', line)
            if found and re.search(client, found[1]):
                total += int(found[2])
        return total


def wait(what, ready, seconds=60):
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {seconds} s for {what}")
        time.sleep(0.1)


def deploy(api, stamps):
    api.call("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    api.call(
        "POST",
        f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": NAMESPACE, "labels": {"app": "web"}},
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {
                        "terminationGracePeriodSeconds": GRACE,
                        "volumes": [{"name": "stamps", "hostPath": {"path": str(stamps)}}],
                        "containers": [
                            {
                                "name": "web",
                                "image": "chaosrun/pipeline",
                                "args": ["probe-server", "--ready-after", str(READY_AFTER), "--stamp", "/stamps"],
                                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
                                "volumeMounts": [{"name": "stamps", "mountPath": "/stamps"}],
                            }
                        ],
                    },
                },
            },
        },
    )
    service = api.call(
        "POST",
        f"/api/v1/namespaces/{NAMESPACE}/services",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 8080}]},
        },
    )
    return json.loads(service)["spec"]["clusterIP"]


def is_ready(api):
    status = api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/web").get("status", {})
    pods = api.get(f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
    return status.get("readyReplicas") == 1 and len(pods) == 1


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def outages(stamps):
    """Seconds from each end stamp to the next ready stamp."""
    events = []
    for path in pathlib.Path(stamps).iterdir():
        for line in path.read_text().splitlines():
            stamp = json.loads(line)
            events.append((stamp["monotonicNs"], stamp["event"]))
    found, ended = [], None
    for at, event in sorted(events):
        if event == "terminating":
            ended = at
        elif event == "ready" and ended is not None:
            found.append((at - ended) / 1e9)
            ended = None
    return found


def chaosrun_experiment(url):
    return {
        "apiVersion": "chaosrun.dev/v1",
        "kind": "Experiment",
        "metadata": {"name": "pod-kill"},
        "claim": {"text": "a lost pod is replaced and answers within 60 seconds"},
        "target": {"namespace": NAMESPACE, "deployment": "web"},
        "steadyState": {
            "probes": [{"name": "answers", "http": {"url": url}, "interval": "50ms", "timeout": "1s", "hold": "1s"}]
        },
        "faults": [{"name": "kill", "podKill": {"gracePeriod": f"{GRACE}s"}, "mode": "one"}],
        "slos": {"rto": "< 60s"},
        "timeouts": {"baseline": "60s", "recovery": "61s", "settle": "1s"},
    }


def chaostoolkit_experiment(url):
    def python(module, function, **arguments):
        return {"type": "python", "module": module, "func": function, "arguments": arguments}

    probes = "chaosk8s.deployment.probes"
    return {
        "title": "pod-kill",
        "description": "a lost pod is replaced and answers within 60 seconds",
        "steady-state-hypothesis": {
            "title": "it answers",
            "probes": [
                {
                    "type": "probe",
                    "name": "answers",
                    "tolerance": 200,
                    "provider": {"type": "http", "url": url, "timeout": 1},
                }
            ],
        },
        "method": [
            {
                "type": "action",
                "name": "kill",
                "provider": python(
                    "chaosk8s.pod.actions",
                    "terminate_pods",
                    label_selector="app=web",
                    ns=NAMESPACE,
                    qty=1,
                    grace_period=GRACE,
                ),
            },
            # Without this one the next would see the status from before the kill, and be done at once.
            {
                "type": "probe",
                "name": "gone",
                "provider": python(probes, "deployment_not_fully_available", name="web", ns=NAMESPACE, timeout=30),
            },
            {
                "type": "probe",
                "name": "back",
                "provider": python(probes, "deployment_fully_available", name="web", ns=NAMESPACE, timeout=60),
                # So that the continuous hypothesis has a chance to see the service again.
                "pauses": {"after": 2},
            },
        ],
        "rollbacks": [],
    }


def cost(command, folder):
    """Runs a command to its end: exit code, seconds, processor seconds, peak megabytes of it and its children."""
    with open(folder / "output.txt", "ab") as output:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
    return process.returncode, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def stamp(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def said_by_chaosrun(folder):
    runs = sorted((folder / "runs").iterdir())
    trial = json.loads((runs[-1] / "report.json").read_text())["experiments"][0]["trials"][0]
    rto = trial["rto"]
    return {"recovery": rto["value"], "bounds": (rto["lower"], rto["upper"])}


def said_by_chaostoolkit(folder):
    journal = json.loads((folder / "journal.json").read_text())
    activities = {one["activity"]["name"]: one for one in journal["run"]}
    killed = stamp(activities["kill"]["start"])
    back = stamp(activities["back"]["end"])
    # Of the continuous hypothesis: from the first check that failed to the first one after it that did not.
    bad = good = None
    for check in (journal["steady_states"].get("during") or []):
        for probe in check["probes"]:
            if not probe["tolerance_met"] and bad is None:
                bad = stamp(probe["start"])
            elif probe["tolerance_met"] and bad is not None and good is None:
                good = stamp(probe["start"])
    return {
        "status": journal["status"] + (", deviated" if journal.get("deviated") else ""),
        "recovery": (back - killed).total_seconds(),
        "hypothesis": (good - bad).total_seconds() if bad and good else None,
    }


def middle(values):
    values = [value for value in values if value is not None]
    return f"{statistics.median(values):.2f}" if values else "none"


def spread(values):
    values = [value for value in values if value is not None]
    return f"{min(values):.2f} to {max(values):.2f}" if values else ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--chaosrun", required=True)
    parser.add_argument("--chaos", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--runs", required=True, type=int)
    arguments = parser.parse_args()
    config = os.environ["KUBECONFIG"]
    api = Api(config)
    stamps = arguments.work / "stamps"
    stamps.mkdir()
    address = deploy(api, stamps)
    url = f"http://{address}:8080/ready"
    tools = {}
    for name in ("chaosrun", "chaostoolkit"):
        folder = arguments.work / name
        folder.mkdir()
        tools[name] = folder
    experiment = tools["chaosrun"] / "pod-kill.yaml"
    experiment.write_text(json.dumps(chaosrun_experiment(url)))
    (tools["chaostoolkit"] / "pod-kill.json").write_text(json.dumps(chaostoolkit_experiment(url)))
    commands = {
        "chaosrun": [arguments.chaosrun, "--kubeconfig", config, "run", "--out", "runs", "pod-kill.yaml"],
        "chaostoolkit": [
            arguments.chaos, "run", "--journal-path", "journal.json", "--hypothesis-strategy", "continuously",
            "--hypothesis-frequency", "1", "pod-kill.json",
        ],
    }
    clients = {"chaosrun": "^chaosrun/", "chaostoolkit": "(?i)python"}
    said = {"chaosrun": said_by_chaosrun, "chaostoolkit": said_by_chaostoolkit}
    rows = {name: [] for name in commands}
    for _ in range(arguments.runs):
        for name, command in commands.items():
            wait("the Deployment", lambda: is_ready(api) and answers(url))
            time.sleep(2)
            known = len(outages(stamps))
            before = api.requests(clients[name])
            code, seconds, processor, memory = cost(command, tools[name])
            requests = api.requests(clients[name]) - before
            wait("the stamp of the replacement", lambda: len(outages(stamps)) > known)
            row = {
                "code": code, "seconds": seconds, "processor": processor, "memory": memory, "requests": requests,
                "truth": outages(stamps)[known],
            }
            try:
                row |= said[name](tools[name])
            except (OSError, KeyError, IndexError, TypeError) as problem:
                raise SystemExit(f"{name}: {problem!r}\n{(tools[name] / 'output.txt').read_text()}")
            rows[name].append(row)
    show(rows, arguments)


def show(rows, arguments):
    version = subprocess.run([arguments.chaosrun, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    packages = [f"{name} {importlib.metadata.version(name)}" for name in
                ("chaostoolkit", "chaostoolkit-lib", "chaostoolkit-kubernetes", "kubernetes")]
    print(f"{version}; {', '.join(packages)}; Python {'.'.join(map(str, os.sys.version_info[:3]))}; "
          f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the end; {len(rows['chaosrun'])} runs each, by turns\n")
    print("| median (smallest to largest) | chaosrun | Chaos Toolkit |\n|---|---|---|")
    for title, key in (
        ("time from start to end, s", "seconds"),
        ("processor time (user + system), s", "processor"),
        ("peak resident memory, MB", "memory"),
        ("API requests, counted by the API server", "requests"),
        ("outage stamped by the workload, s", "truth"),
        ("recovery as reported, s", "recovery"),
    ):
        cells = [f"{middle([row[key] for row in rows[name]])} ({spread([row[key] for row in rows[name]])})" for name in rows]
        print(f"| {title} | {' | '.join(cells)} |")
    errors = {name: [row["recovery"] - row["truth"] for row in rows[name]] for name in rows}
    print(f"| reported less stamped, s | {' | '.join(f'{middle(errors[name])} ({spread(errors[name])})' for name in rows)} |")
    hypothesis = [row["hypothesis"] for row in rows["chaostoolkit"]]
    print(f"| first failed to first good continuous check, s | | {middle(hypothesis)} ({spread(hypothesis)}) |")
    print("\n| run | tool | exit code | stamped, s | reported, s | also said |\n|---|---|---|---|---|---|")
    for number in range(len(rows["chaosrun"])):
        for name in rows:
            row = rows[name][number]
            if name == "chaosrun":
                lower, upper = row["bounds"]
                extra = "no bounds" if lower is None or upper is None else f"between {lower:.3f} and {upper:.3f}"
            else:
                seen = "none" if row["hypothesis"] is None else f"{row['hypothesis']:.2f} s"
                extra = f"status {row['status']}; outage in its continuous checks: {seen}"
            recovery = "none" if row["recovery"] is None else f"{row['recovery']:.3f}"
            print(f"| {number + 1} | {name} | {row['code']} | {row['truth']:.3f} | {recovery} | {extra} |")


main()
