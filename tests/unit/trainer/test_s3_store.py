"""The store below a prefix of a bucket: conditional writes, parts, errors by class."""

import pytest

from data_ground import Ground
from finetune_api.storage import Location
from finetune_trainer import s3_store
from finetune_trainer.errors import AccessError, ExternalServiceError, ResourcesExhaustedError
from finetune_trainer.store import open_store, read_manifest, verify, write_manifest
from local_web import Reply, local_web
from s3_stub import S3Stub


@pytest.fixture
def stub(tmp_path, monkeypatch):
    ground = Ground(tmp_path, monkeypatch)
    ground.secret("keys", AWS_ACCESS_KEY_ID="AKIATEST", AWS_SECRET_ACCESS_KEY="hidden")
    monkeypatch.setattr(s3_store, "RETRIES", 2)
    return S3Stub()


@pytest.fixture
def web(stub):
    with local_web(stub) as running:
        yield running


def store_of(web, bucket="lake"):
    location = {
        "s3": {
            "bucket": bucket,
            "prefix": "team/a",
            "endpoint": web.url(""),
            "pathStyle": True,
            "secretRef": {"name": "keys"},
        }
    }
    return open_store(Location.model_validate(location), "runs/x")


def test_an_object_lies_below_its_prefix_and_is_signed(stub, web):
    store = store_of(web)
    entry = store.write("a.bin", b"one")
    assert store.uri == "s3://lake/team/a/runs/x"
    assert stub.objects == {"team/a/runs/x/a.bin": b"one"}
    assert (entry.bytes, store.read("a.bin")) == (3, b"one")
    assert "Credential=AKIATEST" in web.asked[0].headers["authorization"]


def test_an_anonymous_location_is_not_signed(stub, web):
    s3 = {"bucket": "lake", "endpoint": web.url(""), "pathStyle": True, "anonymous": True}
    open_store(Location.model_validate({"s3": s3})).list()
    assert "authorization" not in web.asked[0].headers


def test_a_key_is_written_once(stub, web):
    store = store_of(web)
    store.write("a.bin", b"one")
    with pytest.raises(FileExistsError):
        store.write("a.bin", b"two")
    assert store.read("a.bin") == b"one"


def test_a_put_whose_answer_got_lost_counts_as_ours(stub, web):
    lost = []

    def lose_the_first_answer(asked):
        if asked.method == "PUT" and not lost:
            stub.fail = lambda asked: None
            lost.append(stub(asked))
            return Reply(503)
        return None

    stub.fail = lose_the_first_answer
    assert store_of(web).write("a.bin", b"one").bytes == 3
    assert lost


def test_a_large_object_goes_in_parts(stub, web, monkeypatch):
    monkeypatch.setattr(s3_store, "PART_BYTES", 4)
    store = store_of(web)
    entry = store.write("a.bin", iter([b"abc", b"defghi", b"j"]))
    assert store.read("a.bin") == b"abcdefghij"
    assert entry.bytes == 10
    with pytest.raises(FileExistsError):
        store.write("a.bin", iter([b"abc", b"defghi", b"j"]))
    assert stub.uploads == {}


def test_a_producer_that_fails_leaves_no_object_and_no_upload(stub, web, monkeypatch):
    monkeypatch.setattr(s3_store, "PART_BYTES", 4)

    def chunks():
        yield b"abcdefghij"
        raise RuntimeError("the producer stopped")

    with pytest.raises(RuntimeError):
        store_of(web).write("a.bin", chunks())
    assert (stub.objects, stub.uploads) == ({}, {})


def test_listings_of_several_pages_are_joined(stub, web):
    store = store_of(web)
    for name in ("c", "a", "b/x", "b/y", "b.z"):
        store.write(name, b"")
    assert store.list() == ["a", "b.z", "b/x", "b/y", "c"]
    assert store.child("b").list() == ["x", "y"]


def test_a_manifest_verifies_and_damage_is_named(stub, web, tmp_path):
    store = store_of(web)
    digest = write_manifest(store, "test/v1", [store.write("a.bin", b"one")])
    manifest = read_manifest(store)
    verify(store, manifest)
    assert manifest.digest == digest
    store.download("a.bin", tmp_path / "x/a.bin")
    assert (tmp_path / "x/a.bin").read_bytes() == b"one"
    store.delete("a.bin")
    store.delete("a.bin")
    assert not store.exists("a.bin")
    with pytest.raises(FileNotFoundError):
        store.read("a.bin")


@pytest.mark.parametrize(
    ("reply", "error", "reason"),
    [
        (Reply(403, b"<Error><Code>AccessDenied</Code></Error>"), AccessError, "AccessDenied"),
        (Reply(401, b"<Error><Code>Unauthorized</Code></Error>"), AccessError, "AccessDenied"),
        (Reply(507, b"<Error><Code>Full</Code></Error>"), ResourcesExhaustedError, "NoSpace"),
        (
            Reply(403, b"<Error><Code>QuotaExceeded</Code></Error>"),
            ResourcesExhaustedError,
            "NoSpace",
        ),
        (Reply(503, b""), ExternalServiceError, "ServiceUnavailable"),
    ],
    ids=["forbidden", "unknown key", "full", "over quota", "down"],
)
def test_a_refusal_has_a_class(stub, web, reply, error, reason):
    stub.fail = lambda asked: reply
    with pytest.raises(error) as refused:
        store_of(web).write("a.bin", b"one")
    assert refused.value.reason == reason
    assert "s3://lake/team/a/runs/x/a.bin" in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_a_missing_bucket_is_no_missing_file(stub, web):
    with pytest.raises(AccessError, match="no such bucket"):
        store_of(web, "other").list()


def test_a_store_that_does_not_answer_is_an_external_service(stub):
    with local_web(stub) as web:
        store = store_of(web)
    with pytest.raises(ExternalServiceError, match="no answer from the object store"):
        store.list()


def test_a_secret_without_a_key_names_it(tmp_path, monkeypatch):
    Ground(tmp_path, monkeypatch).secret("half", AWS_ACCESS_KEY_ID="AKIATEST")
    s3 = {"bucket": "lake", "secretRef": {"name": "half"}}
    with pytest.raises(AccessError, match='Secret "half": key "AWS_SECRET_ACCESS_KEY"'):
        open_store(Location.model_validate({"s3": s3}))


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "0xa9fea9fe"])
def test_a_metadata_service_is_no_object_store(host):
    s3 = {"bucket": "lake", "endpoint": f"http://{host}/", "anonymous": True}
    with pytest.raises(AccessError) as refused:
        open_store(Location.model_validate({"s3": s3}))
    assert refused.value.reason == "AddressNotAllowed"
