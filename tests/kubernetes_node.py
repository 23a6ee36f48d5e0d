"""A one-node Kubernetes of the tests' own, and what a person does with kubectl and helm.

`kubernetes/build.sh` makes it once (KUBERNETES=FOLDER says where; minutes), the tests start it and
stop it. Invariants: a command that fails raises with what it said; every wait has a limit and tells
at its end what it saw last; nothing is asked of a registry.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NODE_ADDRESS = "10.243.0.1"
"""Where pods find what runs on the host."""

T = TypeVar("T")


class CommandError(AssertionError):
    """A command failed."""


def call(
    *command: str,
    environ: Mapping[str, str] | None = None,
    given: str | None = None,
    limit_s: float = 300.0,
) -> str:
    """What a command prints.

    Args:
        command: program and arguments.
        environ: variables beside those of the tests.
        given: its standard input.
        limit_s: seconds.

    Raises:
        CommandError: it failed.
    """
    done = subprocess.run(
        command,
        env={**os.environ, **(environ or {})},
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s,
    )
    if done.returncode:
        raise CommandError(
            f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def wait_for(what: str, look: Callable[[], T | None], limit_s: float = 120.0) -> T:
    """The first thing seen that is true; a command that fails meanwhile has seen nothing."""
    deadline, seen = time.monotonic() + limit_s, "nothing yet"
    while time.monotonic() < deadline:
        try:
            found = look()
        except CommandError as error:
            seen = str(error)
        else:
            if found:
                return found
            seen = repr(found)
        time.sleep(1.0)
    raise AssertionError(f"not within {limit_s:g} s: {what}; seen last: {seen}")


@dataclass(frozen=True)
class Node:
    """The cluster.

    Attributes:
        built: what build.sh made.
        state: where its data lie.
        helm: the program.
    """

    built: Path
    state: Path
    helm_program: Path

    def up(self) -> None:
        """Start it; a second time on the data it had."""
        call(str(HERE / "cluster/kubernetes/up.sh"), str(self.built), str(self.state))
        self.kubectl("label", "node", "--all", "--overwrite", "co-s2p/device-class=orin-nano")

    def down(self) -> None:
        """Stop it."""
        call(str(HERE / "cluster/kubernetes/down.sh"), str(self.state))

    def load(self, image: str) -> None:
        """Give it an image of the Docker engine, unless it has that one."""
        digest = call("docker", "image", "inspect", "--format", "{{.Id}}", image).strip()
        mark = self.state / "images" / image.replace("/", "_")
        if mark.exists() and mark.read_text() == digest:
            return
        self._forget(image)
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            done = subprocess.run(
                [*self._ctr, "images", "import", "-"], stdin=saved.stdout, check=True
            )
        assert saved.returncode == 0 == done.returncode
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(digest)

    def _forget(self, image: str) -> None:
        """Give up what it had under that name, its other names with it: it would fill the disk."""
        rows = [line.split() for line in call(*self._ctr, "images", "ls").splitlines()[1:]]
        digests = {row[2] for row in rows if row[0].endswith(f"/{image}")}
        if names := [row[0] for row in rows if row[2] in digests]:
            call(*self._ctr, "images", "rm", "--sync", *names)

    def kill(self, container_id: str) -> None:
        """kill -9 of a container's processes."""
        call(*self._ctr, "tasks", "kill", "--all", "--signal", "SIGKILL", container_id)

    def kubectl(self, *arguments: str, given: str | None = None, limit_s: float = 300.0) -> str:
        """What kubectl prints."""
        program = str(self.built / "bin/kubectl")
        return call(program, *arguments, environ=self.environ, given=given, limit_s=limit_s)

    def helm(self, *arguments: str, limit_s: float = 600.0) -> str:
        """What helm prints."""
        return call(str(self.helm_program), *arguments, environ=self.environ, limit_s=limit_s)

    @property
    def environ(self) -> dict[str, str]:
        """What kubectl and helm need to find it."""
        return {"KUBECONFIG": str(self.state / "kubeconfig")}

    @property
    def _ctr(self) -> list[str]:
        return ["ctr", "-a", str(self.state / "run/c.sock"), "-n", "k8s.io"]


@dataclass
class Site:
    """A namespace in which Pod Security is `restricted`, with releases of the chart.

    Attributes:
        node: the cluster.
        namespace: its name.
        release: the release that the methods speak of.
    """

    node: Node
    namespace: str
    release: str = "co-s2p"

    @property
    def full_name(self) -> str:
        """What the chart's names begin with."""
        return self.release if "co-s2p" in self.release else f"{self.release}-co-s2p"

    def open(self) -> None:
        """Make the namespace."""
        self.node.kubectl("create", "namespace", self.namespace)
        self.node.kubectl(
            *("label", "namespace", self.namespace),
            "pod-security.kubernetes.io/enforce=restricted",
        )

    def close(self) -> None:
        """Remove it and all that is in it."""
        self.node.kubectl("delete", "namespace", self.namespace, "--ignore-not-found")

    def kubectl(self, *arguments: str, given: str | None = None, limit_s: float = 300.0) -> str:
        """kubectl in this namespace."""
        return self.node.kubectl("-n", self.namespace, *arguments, given=given, limit_s=limit_s)

    def helm(self, *arguments: str) -> str:
        """helm in this namespace."""
        return self.node.helm("-n", self.namespace, *arguments)

    def get(self, *what: str) -> Any:
        """A resource, or a list of them, as kubectl shows it."""
        shown = json.loads(self.kubectl("get", *what, "-o", "json"))
        return shown.get("items", shown)

    def pods(self, component: str = "") -> dict[str, Any]:
        """Pods of the release by name; of one component where it is given."""
        labels = f"app.kubernetes.io/instance={self.release}"
        labels += f",app.kubernetes.io/component={component}" if component else ""
        return {pod["metadata"]["name"]: pod for pod in self.get("pods", "-l", labels)}

    def cos2p(self, *arguments: str, limit_s: float = 120.0) -> Any:
        """What `cos2p ... --json` prints in the planner's pod."""
        words = ("exec", f"{self.full_name}-planner-0", "--", "cos2p", *arguments, "--json")
        return json.loads(self.kubectl(*words, limit_s=limit_s))

    def status(self) -> Any:
        """What `cos2p status` says."""
        return self.cos2p("status")

    def worker(self, pod: str) -> dict[str, Any]:
        """What `cos2p status` says of one device; empty where it has never been there."""
        rows: list[dict[str, Any]] = self.status()["workers"]
        return next((row for row in rows if row["worker_id"] == pod), {})

    def log(self, pod: str, *arguments: str) -> str:
        """What a pod has written."""
        return self.kubectl("logs", pod, *arguments)

    def has_logged(self, pod: str, sentence: str) -> bool:
        """Whether a pod, or the one before its last restart, has written this."""
        logged = self.log(pod)
        if container(self.get("pod", pod))[1]:
            logged += self.log(pod, "--previous")
        return sentence in logged

    def wait_for_versions(self, more: int, limit_s: float = 180.0) -> None:
        """Until the run has closed so many more."""
        goal = wait_for("a version", lambda: self.status()["version"] + more, limit_s)
        wait_for(f"version {goal}", lambda: self.status()["version"] >= goal, limit_s)

    def wait_for_ready(self, limit_s: float = 180.0) -> None:
        """Until every pod of a service is ready."""
        wait_for(
            "all pods ready",
            lambda: all(ready(pod) for pod in self.pods().values() if lasting(pod)),
            limit_s,
        )


def ready(pod: Mapping[str, Any]) -> bool:
    """Whether Kubernetes calls it ready, and it is not about to leave."""
    conditions = pod["status"].get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )


def lasting(pod: Mapping[str, Any]) -> bool:
    """Whether it belongs to a service, and not to a job or a test."""
    return pod["metadata"]["labels"]["app.kubernetes.io/component"] not in ("init", "test")


def container(pod: Mapping[str, Any]) -> tuple[str, int]:
    """Its container's id, empty before there is one, and how often it was started again."""
    for status in pod["status"].get("containerStatuses", []):
        return status.get("containerID", "").removeprefix("containerd://"), status["restartCount"]
    return "", 0
