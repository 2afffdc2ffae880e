"""Datasets, good and bad."""

from __future__ import annotations

from typing import Any

from corpus.admission_case import ABSENT, Case
from finetune_api.names import DATASET

_CLAIM = {"volumeClaim": {"claimName": "data"}}
_INLINE = {"inline": {"data": "{}"}, "format": "JSONL"}


def _of(says: str, refused: str = "", **spec: Any) -> Case:
    return Case(says, DATASET, spec, tuple(refused.split()))


def _source(says: str, refused: str = "", /, **source: Any) -> Case:
    return Case(says, DATASET, {"sources": [source]}, tuple(refused.split()))


DATASET_CASES = [
    _of("ways out of an open network", "spec.networkPolicy",
        networkPolicy={"egressNamespaces": ["judges"]}),
    _of("a closed network with a way out",
        networkPolicy={"mode": "Restricted", "egressCidrs": ["10.0.0.0/8"]}),
    _of("a priority in no queue", "spec.scheduling",
        scheduling={"queuePriorityClassName": "high"}),
    _of("a volume is enough"),
    _of("rows in the manifest", sources=[_INLINE]),
    _of("columns are mapped", columns={"prompt": ["a", "b"], "answer": "c", "system": ""}),
    _of("roles are mapped", roles={"human": "user", "gpt": "assistant"}),
    _of("shares of zero", split={"validation": 0, "test": 0}),
    _of("null means absent", columns=None, split={"seed": None}),
    _of("a block of its own defaults", storage={}, compute={}, checks={}),
    _of("no sources", "spec.sources", sources=ABSENT),
    _of("an empty list of sources", "spec.sources spec", sources=[]),
    _of("seventeen sources", "spec.sources", sources=[_CLAIM] * 17),
    _of("only a validation source", "spec", sources=[{**_CLAIM, "split": "Validation"}]),
    _of("an unknown field", "spec.colums", colums={}),
    _of("an unknown field in a list", "spec.sources[0].claim", sources=[{**_CLAIM, "claim": "x"}]),
    _of("an unknown layout", "spec.layout", layout="messages"),
    _of("a role of another spelling", "spec.roles.human", roles={"human": "User"}),
    _of("a role name of 64 characters", "spec.roles", roles={"h" * 64: "user"}),
    _of("messages with columns of pairs", "spec", layout="Messages", columns={"answer": "c"}),
    _of("linked rows", layout="ParentChain", columns={"id": "i", "parentId": "p", "answer": "a"}),
    _of("a parent without ids of rows", "spec.columns", columns={"parentId": "p"}),
    _of("a row that is its own parent", "spec.columns", columns={"id": "p", "parentId": "p"}),
    _of("linked rows with a column of documents", "spec",
        layout="ParentChain", columns={"text": "c"}),
    _of("pairs with a column of documents", "spec", layout="Columns", columns={"text": "c"}),
    _of("documents as conversations", "spec", layout="PlainText", recordType="Conversation"),
    _of("text out of messages", "spec", layout="Messages", recordType="Text"),
    _of("nothing left for training", "spec.split", split={"validation": 0.5, "test": 0.5}),
    _of("a share above its bound", "spec.split.validation", split={"validation": 0.96}),
    _of("a share in quotes", "spec.split.validation", split={"validation": "0.1"}),
    _of("a seed with a fraction", "spec.split.seed", split={"seed": 1.5}),
    _of("a whole number with a point", split={"seed": 7.0}),
    _of("a negative count", "spec.split.maxValidationRows", split={"maxValidationRows": -1}),
    _of("text where a block belongs", "spec.split", split="half"),
    _of("a list where text belongs", "spec.license", license=["mit"]),
    _of("a number where text belongs", "spec.license", license=2),
    _of("null in a list", "spec.columns.prompt[0]", columns={"prompt": [None]}),
    _of("null in a map means absent", roles={"human": None}),
    _of("null as an item", "spec.sources[1]", sources=[_CLAIM, None]),
    _of("a count beyond 64 bits", "spec.split.maxValidationRows",
        split={"maxValidationRows": 2**63}),
    _of("a count as a large double", "spec.split.maxValidationRows",
        split={"maxValidationRows": 1e30}),
    _of("text in place of the list", "spec.sources", sources="data"),
    _of("a text item in place of a block", "spec.sources[0]", sources=["data"]),
    _of("an empty list of prompt columns", "spec.columns.prompt", columns={"prompt": []}),
    _of("text beyond its bound", "spec.license", license="x" * 257),
    _of("characters are counted, not bytes", license="ü" * 256),
    _of("a size that is no quantity", "spec.limits.maxSize", limits={"maxSize": "200 GB"}),
    _of("a boolean in quotes", "spec.hub.offline", hub={"offline": "true"}),
    _of("offline with a hub", "spec.hub", hub={"offline": True, "endpoint": "https://hub"}),
    _of("a delay above the longest", "spec.runPolicy", runPolicy={"backoffSeconds": 601}),
    _of(
        "two places for results",
        "spec.storage",
        storage={"volumeClaim": {"claimName": "a"}, "s3": {"bucket": "abc"}},
    ),
    _of(
        "a label name beyond its bound",
        "spec.compute.nodeSelector",
        compute={"nodeSelector": {"x" * 317: "y"}},
    ),
    _of(
        "a resource without a name",
        "spec.compute.resources.requests spec.compute.resources.limits",
        compute={"resources": {"requests": {"": "1"}, "limits": {"": "1"}}},
    ),
    _of(
        "two problems at once are both named",
        "spec.layout spec.split.seed",
        layout="Rows",
        split={"seed": -1},
    ),
    _of(
        "variables of the operator and of secrets",
        "spec.compute.env[0] spec.compute.env[1]",
        compute={"env": [{"name": "HOME"}, {"name": "DB_PASSWORD"}]},
    ),
    Case("a name with a capital", DATASET, name="Support", refused=("metadata.name",)),
    _source("two connectors", "spec.sources[0]", **_INLINE, **_CLAIM),
    _source("no connector", "spec.sources[0]", format="CSV"),
    _source("inline data without a format", "spec.sources[0]", inline={"data": "a"}),
    _source("CSV settings for JSON", "spec.sources[0]", **_CLAIM, format="JSON", csv={}),
    _source("globs on inline data", "spec.sources[0]", **_INLINE, include=["*"]),
    _source(
        "a path that leaves the volume",
        "spec.sources[0].volumeClaim.path",
        volumeClaim={"claimName": "data", "path": "a/../../b"},
    ),
    _source(
        "an absolute path",
        "spec.sources[0].volumeClaim.path",
        volumeClaim={"claimName": "data", "path": "/a"},
    ),
    _source("two dots inside a name", volumeClaim={"claimName": "data", "path": "a..b/c"}),
    _source(
        "an address with a password",
        "spec.sources[0].http.urls[1]",
        http={"urls": ["https://host/a", "https://user:word@host/a"]},
    ),
    _source(
        "keys for an anonymous request",
        "spec.sources[0].s3",
        s3={"bucket": "abc", "anonymous": True, "secretRef": {"name": "keys"}},
    ),
    _source(
        "one key where S3 needs two",
        "spec.sources[0].s3",
        s3={"bucket": "abc", "secretRef": {"name": "keys", "key": "one"}},
    ),
    _source("a claim name with capitals", "spec.sources[0].volumeClaim.claimName",
            volumeClaim={"claimName": "Data"}),
    _source("a short digest", "spec.sources[0].digest", **_CLAIM, digest="sha256:12"),
]  # fmt: skip
