"""What every source brings, and what it refuses to reach."""

import base64
import gzip
import json

import pytest

from data_ground import Ground, dataset_spec, from_claim
from finetune_api.storage import Hub
from finetune_trainer import fetch
from finetune_trainer.errors import AccessError, DataError, ExternalServiceError
from finetune_trainer.sources import SOURCES, fetch_source
from finetune_trainer.sources.fetched_files import Desk
from finetune_trainer.sources.from_hugging_face import split_of
from local_web import Reply, local_web
from s3_stub import S3Stub


@pytest.fixture
def ground(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "FIRST_DELAY_SECONDS", 0.001)
    return Ground(tmp_path, monkeypatch)


def fetched(ground, source, *, allowed=(), max_bytes=1 << 20, hub=None):
    (one,) = dataset_spec(source).sources
    scratch = ground.claims.parent / "scratch"
    return fetch_source(one, Desk(scratch, max_bytes, hub or Hub(), allowed))


def contents(found):
    return {file.entry.name: file.path.read_bytes().decode() for file in found.files}


def test_every_source_of_the_api_has_a_line_in_the_table():
    (one,) = dataset_spec({"inline": {"data": "x"}, "format": "CSV"}).sources
    connectors = {name for name, value in one if value is None or name == "inline"}
    assert set(SOURCES) == connectors - {
        "name",
        "split",
        "max_rows",
        "weight",
        "include",
        "exclude",
        "csv",
        "digest",
    }


def test_inline_data_is_a_file_of_its_format(ground):
    found = fetched(ground, {"inline": {"data": "a,b\n"}, "format": "CSV"})
    assert contents(found) == {"inline.csv": "a,b\n"}


def test_the_digest_of_one_file_is_the_digest_of_its_content(ground):
    ground.put("a.csv", "one")
    digest = "sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert fetched(ground, from_claim("a.csv")).digest == digest


def test_a_folder_gives_its_data_files_in_order(ground):
    for name in ("b.jsonl", "a.csv", "deep/c.parquet", "README.md", ".hidden.csv", "_tmp/d.csv"):
        ground.put(f"lake/{name}", name)
    found = fetched(ground, from_claim("lake"))
    assert list(contents(found)) == ["a.csv", "b.jsonl", "deep/c.parquet"]


def test_include_and_exclude_choose_files(ground):
    for name in ("a.csv", "b.csv", "c.log"):
        ground.put(f"lake/{name}", name)
    source = from_claim("lake", include=["*.csv", "*.log"], exclude=["b*"], format="CSV")
    assert list(contents(fetched(ground, source))) == ["a.csv", "c.log"]


def test_compressed_files_are_unpacked(ground):
    ground.put("a.csv.gz", gzip.compress(b"one"))
    assert contents(fetched(ground, from_claim("a.csv.gz"))) == {"a.csv.gz": "one"}


def test_a_broken_archive_is_a_finding(ground):
    ground.put("a.csv.gz", gzip.compress(b"one" * 1000)[:20])
    with pytest.raises(DataError, match=r"ParseError: a.csv.gz is not a whole gzip file"):
        fetched(ground, from_claim("a.csv.gz"))


def test_an_archive_that_unpacks_beyond_the_limit_is_refused(ground):
    ground.put("a.csv.gz", gzip.compress(bytes(5_000_000)))
    with pytest.raises(DataError, match=r"limits.maxSize \(1,000,000 bytes\)"):
        fetched(ground, from_claim("a.csv.gz"), max_bytes=1_000_000)


def test_a_missing_file_names_the_nearest(ground):
    ground.put("support/tickets.jsonl", "{}")
    with pytest.raises(AccessError) as missing:
        fetched(ground, from_claim("support/ticket.jsonl"))
    assert missing.value.reason == "SourceNotFound"
    assert str(missing.value) == (
        'SourceNotFound: claim "data", path "support/ticket.jsonl": not found. Expected: an '
        "existing file or folder with data files (.csv, .tsv, .json, .jsonl, .ndjson, "
        ".parquet, .txt, .text). Fix: correct the name; nearest: tickets.jsonl."
    )


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secrets/token", "/"])
def test_a_link_out_of_the_volume_is_refused(ground, target):
    (ground.claims / "data" / "link.csv").symlink_to(target)
    with pytest.raises(AccessError) as refused:
        fetched(ground, from_claim("link.csv"))
    assert refused.value.reason == "AccessDenied"


def test_a_link_in_a_folder_is_refused_too(ground):
    ground.put("lake/a.csv", "one")
    (ground.claims / "data/lake/b.csv").symlink_to("/etc/passwd")
    with pytest.raises(AccessError, match="leads out of the volume"):
        fetched(ground, from_claim("lake"))


def s3_source(web, prefix, bucket="lake"):
    return {
        "s3": {
            "bucket": bucket,
            "prefix": prefix,
            "endpoint": web.url(""),
            "pathStyle": True,
            "anonymous": True,
        }
    }


def stub_with(*keys):
    stub = S3Stub()
    stub.objects = {key: key.encode() for key in keys}
    stub.metadata = {key: {} for key in keys}
    return stub


def test_a_key_or_everything_below_a_prefix_is_read_from_a_bucket(ground):
    with local_web(stub_with("faq/a.csv", "faq/b.jsonl", "faq/note.md", "faq.csv")) as web:
        assert list(contents(fetched(ground, s3_source(web, "faq")))) == ["a.csv", "b.jsonl"]
        assert contents(fetched(ground, s3_source(web, "faq/a.csv"))) == {"a.csv": "faq/a.csv"}


def test_a_missing_key_names_the_nearest(ground):
    with local_web(stub_with("faq/tickets.csv")) as web, pytest.raises(AccessError) as missing:
        fetched(ground, s3_source(web, "faq/ticket.csv"))
    assert missing.value.reason == "SourceNotFound"
    assert "nearest: faq/tickets.csv" in str(missing.value)


def test_a_forbidden_bucket_is_denied(ground):
    stub = stub_with()
    stub.fail = lambda asked: Reply(403, b"<Error><Code>AccessDenied</Code></Error>")
    with local_web(stub) as web, pytest.raises(AccessError) as refused:
        fetched(ground, s3_source(web, "faq.csv"))
    assert refused.value.reason == "AccessDenied"


def http_source(*urls, **fields):
    return {"http": {"urls": list(urls), **fields}}


def test_an_address_is_fetched_with_its_credentials(ground):
    ground.secret("web", USERNAME="ada", PASSWORD="secret word")
    with local_web(lambda asked: Reply(body=b"a,b\n")) as web:
        source = http_source(web.url("/x/faq.csv?sig=1"), secretRef={"name": "web"})
        found = fetched(ground, source, allowed=[web.host])
    assert contents(found) == {"faq.csv": "a,b\n"}
    expected = base64.b64encode(b"ada:secret word").decode()
    assert web.asked[0].headers["authorization"] == f"Basic {expected}"
    assert web.asked[0].path == "/x/faq.csv?sig=1"


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (404, AccessError, "SourceNotFound"),
        (403, AccessError, "AccessDenied"),
        (500, ExternalServiceError, "ServiceUnavailable"),
        (302, AccessError, "SourceNotFound"),
    ],
)
def test_an_answer_of_a_server_has_a_class(ground, status, error, reason):
    with local_web(lambda asked: Reply(status)) as web, pytest.raises(error) as refused:
        fetched(ground, http_source(web.url("/faq.csv?signature=abc")), allowed=["localhost"])
    assert refused.value.reason == reason
    assert "signature" not in str(refused.value)


def test_a_busy_server_is_asked_again(ground):
    replies = [Reply(503), Reply(429), Reply(body=b"fine")]
    with local_web(lambda asked: replies.pop(0)) as web:
        found = fetched(ground, http_source(web.url("/a.csv")), allowed=[web.host])
    assert contents(found) == {"a.csv": "fine"}


def test_a_private_address_is_refused_before_anything_is_sent(ground):
    with local_web(lambda asked: Reply(body=b"inside")) as web:
        with pytest.raises(AccessError) as refused:
            fetched(ground, http_source(web.url("/a.csv")))
        assert web.asked == []
    assert refused.value.reason == "AddressNotAllowed"


FILES = ("README.md", "data/train-0.jsonl", "data/validation-0.jsonl", "de/test.csv", "load.py")


def hub_answer(asked):
    if asked.path.startswith("/api/datasets/acme/faq/revision/"):
        siblings = [{"rfilename": name} for name in FILES]
        return Reply(body=json.dumps({"sha": "c0ffee", "siblings": siblings}).encode())
    return Reply(body=asked.path.encode()) if "/resolve/" in asked.path else Reply(404)


def from_hub(ground, web, **wanted):
    hub = Hub.model_validate({"endpoint": web.url(""), "secretRef": {"name": "hub"}})
    source = {"huggingFace": {"repository": "acme/faq", **wanted}}
    return fetched(ground, source, allowed=[web.host], hub=hub)


def test_a_repository_is_read_at_one_commit_without_its_code(ground):
    ground.secret("hub", HF_TOKEN="hf_token")
    with local_web(hub_answer) as web:
        found = from_hub(ground, web, revision="refs/pr/1")
    assert found.revision == "c0ffee"
    assert [(file.entry.name, file.split) for file in found.files] == [
        ("data/train-0.jsonl", None),
        ("data/validation-0.jsonl", "validation"),
        ("de/test.csv", "test"),
    ]
    assert web.asked[0].path == "/api/datasets/acme/faq/revision/refs%2Fpr%2F1"
    assert web.asked[1].path == "/datasets/acme/faq/resolve/c0ffee/data/train-0.jsonl"
    assert web.asked[0].headers["authorization"] == "Bearer hf_token"


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({"split": "train"}, ["data/train-0.jsonl"]),
        ({"split": "val"}, ["data/validation-0.jsonl"]),
        ({"subset": "de"}, ["de/test.csv"]),
    ],
    ids=["a split", "a split by another spelling", "a subset"],
)
def test_a_part_of_a_repository_is_chosen(ground, wanted, names):
    ground.secret("hub", HF_TOKEN="hf_token")
    with local_web(hub_answer) as web:
        found = from_hub(ground, web, **wanted)
    assert [file.entry.name for file in found.files] == names
    if "split" in wanted:
        assert {file.split for file in found.files} == {None}


def test_a_part_that_does_not_exist_is_named(ground):
    ground.secret("hub", HF_TOKEN="hf_token")
    with local_web(hub_answer) as web, pytest.raises(AccessError, match='subset "fr": not found'):
        from_hub(ground, web, subset="fr")


def test_an_offline_hub_is_not_asked(ground):
    source = {"huggingFace": {"repository": "acme/faq"}}
    with pytest.raises(AccessError, match=r"hub.offline is true"):
        fetched(ground, source, hub=Hub(offline=True))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "train"),
        ("data/valid-00000-of-00001.parquet", "validation"),
        ("dev/part1.jsonl", "validation"),
        ("en/test_2.json", "test"),
        ("trained.csv", None),
    ],
)
def test_a_split_is_known_by_a_word_of_the_name(name, split):
    assert split_of(name) == split
