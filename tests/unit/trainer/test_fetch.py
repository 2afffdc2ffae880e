"""Outbound requests: which addresses may be reached, and what follows a redirect."""

import socket

import pytest

from finetune_trainer.errors import AccessError, ExternalServiceError
from finetune_trainer.fetch import Web, checked_address, opened
from local_web import Reply, local_web


def got(url, allowed):
    """Return what an address answers."""
    with opened(url, Web(allowed)) as stream:
        return stream.read()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1",
     "fe80::1", "fd00::1", "::ffff:10.0.0.1", "2002:a00:1::", "2130706433", "0x7f.1", "224.0.0.1"],
)  # fmt: skip
def test_no_spelling_of_an_inner_address_is_public(host):
    with pytest.raises(AccessError, match="is not a public address"):
        checked_address(host, 80, ())


def test_a_name_with_one_inner_address_among_public_ones_is_refused(monkeypatch):
    found = [(socket.AF_INET, 1, 6, "", (host, 80)) for host in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(AccessError, match=r"10\.0\.0\.1"):
        checked_address("rebind.example", 80, ())
    assert checked_address("rebind.example", 80, ["rebind.example:80"]) == "93.184.216.34"


def test_a_name_is_resolved_once_so_it_cannot_change_between_check_and_use(monkeypatch):
    plain, asked = socket.getaddrinfo, []

    def noted(host, *rest, **more):
        asked.append(host)
        return plain(host, *rest, **more)

    with local_web(lambda _: Reply(body=b"x")) as web:
        monkeypatch.setattr(socket, "getaddrinfo", noted)
        got(web.url("/a.csv"), [web.host])
    assert asked.count("localhost") == 1


def test_a_body_that_breaks_off_is_no_whole_file():
    half = Reply(body=b"half", headers={"Content-Length": "8", "Connection": "close"})
    with local_web(lambda _: half) as web, pytest.raises(ExternalServiceError, match="broke"):
        got(web.url("/a.csv"), [web.host])


def test_a_redirect_to_another_host_is_refused():
    answer = Reply(302, headers={"Location": "http://example.org/a.csv"})
    with local_web(lambda asked: answer) as web, pytest.raises(AccessError) as refused:
        got(web.url("/a.csv"), [web.host])
    assert "redirects to example.org" in str(refused.value)


def test_a_redirect_on_the_same_host_is_followed():
    def answer(asked):
        if asked.path == "/a.csv":
            return Reply(302, headers={"Location": "/real/a.csv"})
        return Reply(body=b"here")

    with local_web(answer) as web:
        assert got(web.url("/a.csv"), [web.host]) == b"here"


def test_a_redirect_of_a_hub_may_leave_it_but_never_with_its_token():
    with local_web(lambda asked: Reply(body=b"content")) as storage:
        away = Reply(302, headers={"Location": storage.url("/blob")})
        with local_web(lambda asked: away) as hub:
            allowed = [hub.host, storage.host]
            web = Web(allowed, {"Authorization": "Bearer hub-token"}, other_hosts=True)
            with opened(hub.url("/file"), web) as stream:
                assert stream.read() == b"content"
    assert "authorization" in hub.asked[0].headers
    assert "authorization" not in storage.asked[0].headers


def test_a_redirect_into_the_network_is_refused_even_for_a_hub():
    away = Reply(302, headers={"Location": "http://169.254.169.254/latest/meta-data"})
    with local_web(lambda asked: away) as hub, pytest.raises(AccessError) as refused:
        opened(hub.url("/file"), Web([hub.host], other_hosts=True)).__enter__()
    assert refused.value.reason == "AddressNotAllowed"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://localhost/x", "http://a:b@localhost/"]
)
def test_other_schemes_and_user_names_are_refused(url):
    with pytest.raises(AccessError, match="only http and https"), opened(url, Web(["localhost"])):
        pass
