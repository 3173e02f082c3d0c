"""The client library `etcd3gw`, which speaks JSON to the gateway, against a cluster; see conversation.py."""

import time

import etcd3gw
from etcd3gw.exceptions import Etcd3Exception, WatchTimedOut

from conversation import AREAS, PATIENCE, Deadline, endpoints, expect, say


def connect(index=0):
    host, port = endpoints()[index]
    return etcd3gw.client(host=host, port=port, timeout=PATIENCE)


def refused(call, text):
    """The call fails, and the answer says why."""
    try:
        call()
    except Etcd3Exception as error:
        assert text in error.detail_text, error.detail_text
    else:
        raise AssertionError("not refused: " + text)


def kv():
    client = connect()
    expect(client.put("kv/a", "1"), True)
    client.put("kv/a", b"\x00\xff")
    expect(client.get("kv/a"), [b"\x00\xff"])
    client.put("kv/b", "3")
    found = client.get_prefix("kv/", sort_order="descend", sort_target="key")
    expect([(meta["key"], value) for value, meta in found], [(b"kv/b", b"3"), (b"kv/a", b"\x00\xff")])
    expect(found[1][1]["version"], "2")
    found = client.get("kv/a", range_end="kv/c", limit=1, serializable=True)
    expect(len(found), 1)
    expect(client.get("kv/a", range_end="kv/c", count_only=True), [])
    expect(client.get("kv/none"), [])
    assert (b"3", "kv/b") in [(value, meta["key"].decode()) for value, meta in client.get_all()]
    expect(client.delete("kv/a"), True)
    expect(client.delete("kv/a"), False)
    expect(client.delete_prefix("kv/"), True)
    big = b"x" * 1_000_000
    client.put("kv/big", big)
    expect(client.get("kv/big"), [big])
    refused(lambda: client.put("", "no key"), "etcdserver: key is not provided")


def txn():
    client = connect(1)
    expect(client.create("txn/a", "1"), True)
    expect(client.create("txn/a", "2"), False)
    expect(client.replace("txn/a", "0", "3"), False)
    expect(client.replace("txn/a", "1", "3"), True)
    expect(client.get("txn/a"), [b"3"])


def watch():
    client = connect()
    events, cancel = client.watch_prefix("watch/")
    other = connect(2)
    # A watch begins when its request has arrived, and this library does not wait for that.
    deadline = Deadline("the watch has begun")
    while not client.get("watch/first"):
        other.put("watch/first", "1")
        deadline.check()
    for value in ("1", "2", "3"):
        other.put("watch/a", value)
    other.delete("watch/a")
    seen = []
    while len(seen) < 4:
        event = next(events)
        if event["kv"]["key"] == b"watch/a":
            seen.append((event.get("type", "PUT"), event["kv"].get("value")))
    expect(seen, [("PUT", b"1"), ("PUT", b"2"), ("PUT", b"3"), ("DELETE", None)])
    cancel()
    revision = int(client.get("watch/first", metadata=True)[0][1]["mod_revision"])
    event = client.watch_once("watch/first", timeout=PATIENCE, start_revision=revision)
    expect(event["kv"]["value"], b"1")
    try:
        client.watch_once("watch/none", timeout=1)
    except WatchTimedOut:
        pass
    else:
        raise AssertionError("an event out of nothing")


def lease():
    client = connect()
    held = client.lease(ttl=100)
    client.put("lease/a", "1", lease=held)
    expect(held.keys(), [b"lease/a"])
    assert 90 < held.ttl() <= 100
    expect(held.refresh(), 100)
    expect(held.revoke(), True)
    expect(client.get("lease/a"), [])
    refused(held.revoke, "etcdserver: requested lease not found")
    short = client.lease(ttl=1)
    client.put("lease/b", "1", lease=short)
    deadline = Deadline("the lease ends")
    while client.get("lease/b"):
        deadline.check()
        time.sleep(0.1)


def lock():
    one, other = connect().lock("l", ttl=60), connect(1).lock("l", ttl=60)
    expect(one.acquire(), True)
    expect(other.acquire(), False)
    expect((one.is_acquired(), other.is_acquired()), (True, False))
    expect(one.refresh(), 60)
    expect(one.release(), True)
    expect(other.acquire(), True)
    expect(other.release(), True)


def maintenance():
    client = connect()
    status = client.status()
    assert int(status["dbSize"]) > 0 and int(status["leader"]) > 0, status
    members = client.members()
    expect(sorted(member["name"] for member in members), ["m0", "m1", "m2"])
    assert all(member["clientURLs"] for member in members), members


def auth():
    client = connect()

    def ask(path, **request):
        return client.post(client.get_url("/auth/" + path), json=request)

    ask("user/add", name="root", password="p")
    ask("role/add", name="root")
    ask("user/grant", user="root", role="root")
    ask("enable")
    refused(lambda: client.get("a"), "etcdserver: user name is empty")
    refused(lambda: ask("authenticate", name="root", password="q"), "invalid user ID or password")
    client.session.headers["Authorization"] = ask("authenticate", name="root", password="p")["token"]
    client.put("auth/a", "1")
    expect(client.get("auth/a"), [b"1"])
    ask("disable")
    expect(connect().get("auth/a"), [b"1"])


for area in AREAS:
    globals()[area]()
    say("ok " + area)
