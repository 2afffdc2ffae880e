"""The bridge that pods, node and host services share, and its way out of the machine.

One masquerading rule of our own replaces the CNI plugin's rule per pod: `down` can then remove
all of it without asking a runtime that may already be dead.
"""

import itertools
import json
from pathlib import Path

from harness.commands import output, succeeds
from harness.locations import BRIDGE, BRIDGE_ADDRESS, POD_NETWORK, STATE

CNI_CONFIGURATION = STATE / "cni"
CNI_PLUGINS = Path("/usr/lib/cni")
_MASQUERADE = ("POSTROUTING", "-s", POD_NETWORK, "!", "-d", POD_NETWORK, "-j", "MASQUERADE")
_FORWARDED = (("FORWARD", "-i", BRIDGE, "-j", "ACCEPT"), ("FORWARD", "-o", BRIDGE, "-j", "ACCEPT"))

_FAMILIES = ("iptables", "ip6tables")
_KUBELET_CHAINS = ("KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT")
"""What the kubelet makes and nothing removes; kube-proxy has a cleanup of its own."""


def raise_bridge() -> None:
    """Create bridge, rules and CNI configuration; what is there already stays."""
    if not Path(f"/sys/class/net/{BRIDGE}").exists():
        output("ip", "link", "add", BRIDGE, "type", "bridge")
    output("ip", "address", "replace", f"{BRIDGE_ADDRESS}/24", "dev", BRIDGE)
    output("ip", "link", "set", BRIDGE, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="utf-8")
    _ensure("nat", _MASQUERADE)
    for rule in _FORWARDED:
        _ensure("filter", rule)
    _write_cni_configuration()


def remove_bridge() -> None:
    """Remove rules and bridge, and with it the host side of every pod's link."""
    for table, rule in (("nat", _MASQUERADE), *(("filter", rule) for rule in _FORWARDED)):
        _delete(table, rule)
    for family, table in itertools.product(_FAMILIES, ("filter", "nat", "mangle")):
        for base in ("INPUT", "OUTPUT"):
            _delete(table, (base, "-j", "KUBE-FIREWALL"), family)
        for chain, verb in itertools.product(_KUBELET_CHAINS, ("-F", "-X")):
            succeeds(family, "-w", "-t", table, verb, chain)
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        output("ip", "link", "delete", BRIDGE)


def _delete(table: str, rule: tuple[str, ...], family: str = "iptables") -> None:
    while succeeds(family, "-w", "-t", table, "-D", *rule):
        pass


def _ensure(table: str, rule: tuple[str, ...]) -> None:
    if not succeeds("iptables", "-w", "-t", table, "-C", *rule):
        output("iptables", "-w", "-t", table, "-A", *rule)


def _write_cni_configuration() -> None:
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(STATE / "ipam"),
            "ranges": [[{"subnet": POD_NETWORK, "gateway": BRIDGE_ADDRESS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    configuration = {"cniVersion": "1.0.0", "name": "finetune", "plugins": plugins}
    CNI_CONFIGURATION.mkdir(parents=True, exist_ok=True)
    target = CNI_CONFIGURATION / "10-finetune.conflist"
    target.write_text(json.dumps(configuration, indent=1), encoding="utf-8")
