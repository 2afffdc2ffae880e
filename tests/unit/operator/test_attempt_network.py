"""Who reaches the pods of an attempt, and what these reach."""

from __future__ import annotations

from typing import Any

import builders
from builders import EXPERIMENT, our_object, prepared
from finetune_operator.observed import Policy
from finetune_operator.planners import plan

POLICY = Policy(image="trainer:test", visitor_namespaces=("operators", "monitoring"))


def network(**wanted: Any) -> list[dict[str, Any]]:
    """Return the NetworkPolicies of a first attempt."""
    found = our_object(EXPERIMENT, status=prepared(attempt={"number": 1}), **wanted)
    answer = plan(builders.observed(EXPERIMENT, found, policy=POLICY))
    return [one for one in answer.apply if one["kind"] == "NetworkPolicy"]


def test_only_its_own_pods_the_operator_and_monitoring_come_in() -> None:
    [policy] = network()
    [rule] = policy["spec"]["ingress"]
    pods, namespaces = rule["from"]
    assert pods["podSelector"]["matchLabels"] == {"finetune.dev/experiment": "assistant"}
    [chosen] = namespaces["namespaceSelector"]["matchExpressions"]
    assert chosen["values"] == ["monitoring", "operators"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]


def test_it_selects_the_pods_of_its_attempt_and_no_others() -> None:
    [policy] = network()
    found = our_object(EXPERIMENT, status=prepared(attempt={"number": 1}))
    job = builders.child(plan(builders.observed(EXPERIMENT, found)), "Job")
    labels = job["spec"]["template"]["metadata"]["labels"]
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= labels.items()
    assert selected["finetune.dev/attempt"] == "1"


def test_restricted_pods_reach_dns_themselves_and_what_is_listed() -> None:
    wanted = {"mode": "Restricted", "egressCidrs": ["10.0.0.0/8"], "egressNamespaces": ["judges"]}
    [policy] = network(networkPolicy=wanted)
    dns, others = policy["spec"]["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert others["to"][0]["podSelector"]
    assert others["to"][-1] == {"ipBlock": {"cidr": "10.0.0.0/8"}}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_where_none_is_wanted_there_is_none() -> None:
    assert network(networkPolicy={"mode": "None"}) == []
