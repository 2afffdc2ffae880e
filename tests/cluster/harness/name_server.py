"""DNS of the cluster: CoreDNS as a host process on the bridge."""

from harness.binaries import program
from harness.certificates import kubeconfig
from harness.locations import BRIDGE_ADDRESS, DNS_READY, STATE
from harness.processes import start, wait_for_answer

PROCESSES = ("coredns",)

_COREFILE = f"""\
.:53 {{
    bind {BRIDGE_ADDRESS}
    errors
    ready {DNS_READY.removeprefix("http://").removesuffix("/ready")}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig("observer")}
        pods insecure
        ttl 0
    }}
    forward . /etc/resolv.conf
    cache 2
}}
"""
"""No time to live and two seconds of cache: ranks look for peers that started a moment ago."""


def start_name_server() -> None:
    """Start CoreDNS; `wait_for_name_server` says when it has read the cluster."""
    corefile = STATE / "Corefile"
    corefile.write_text(_COREFILE, encoding="utf-8")
    start("coredns", [program("coredns"), "-conf", corefile])


def wait_for_name_server() -> None:
    """Wait until CoreDNS has listed the Services of the cluster."""
    wait_for_answer("coredns", DNS_READY)
