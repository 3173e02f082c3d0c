"""The client library `etcd3` against a cluster; see conversation.py."""

import queue
import threading
import time

import etcd3
import grpc
from etcd3 import etcdrpc, exceptions

from conversation import AREAS, PATIENCE, Deadline, ask, endpoints, expect, say, snapshot_file


def connect(index=0, **options):
    host, port = endpoints()[index]
    return etcd3.client(host=host, port=port, timeout=PATIENCE, **options)


def eventually(what, probe):
    """Repeats until something true comes back; errors of the cluster count as not yet."""
    deadline = Deadline(what)
    last = None
    while True:
        try:
            last = probe()
            if last:
                return last
        except (exceptions.Etcd3Exception, grpc.RpcError) as error:
            last = error
        deadline.check(last)
        time.sleep(0.05)


class Events:
    """The events of a watch, gathered by a thread so that waiting for one can end."""

    def __init__(self, watch):
        iterator, self.cancel = watch
        self.queue = queue.Queue()
        threading.Thread(target=self.gather, args=(iterator,), daemon=True).start()

    def gather(self, iterator):
        try:
            for event in iterator:
                self.queue.put(event)
        except Exception as error:
            self.queue.put(error)
        self.queue.put(None)

    def next(self, timeout=PATIENCE):
        return self.queue.get(timeout=timeout)

    def values(self, count):
        return [self.next().value for _ in range(count)]


def kv():
    client = connect()
    client.put("kv/a", "1")
    before = client.put("kv/a", "2", prev_kv=True)
    expect(before.prev_kv.value, b"1")
    value, meta = client.get("kv/a")
    expect((value, meta.version), (b"2", 2))
    assert meta.mod_revision > meta.create_revision
    client.put("kv/b", "3")
    found = list(client.get_prefix("kv/", sort_order="descend", sort_target="key"))
    expect([(meta.key, value) for value, meta in found], [(b"kv/b", b"3"), (b"kv/a", b"2")])
    found = list(client.get_range("kv/a", "kv/b"))
    expect([value for value, _ in found], [b"2"])
    expect(client.get("kv/a", serializable=True)[0] in (b"2", b"1"), True)
    expect(client.get("kv/none"), (None, None))
    expect(client.delete("kv/a"), True)
    expect(client.delete("kv/a"), False)
    expect(client.delete_prefix("kv/").deleted, 1)
    big = b"x" * 1_000_000
    client.put("kv/big", big)
    expect(client.get("kv/big")[0], big)
    try:
        client.put("", "no key")
    except grpc.RpcError as error:
        expect(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
        expect(error.details(), "etcdserver: key is not provided")
    else:
        raise AssertionError("a put without a key was accepted")


def txn():
    client = connect()
    of = client.transactions
    client.put("txn/a", "1")
    done, answers = client.transaction(
        compare=[of.value("txn/a") == "1", of.version("txn/a") == 1, of.create("txn/none") == 0],
        success=[of.put("txn/a", "2"), of.get("txn/a"), of.put("txn/b", "3")],
        failure=[of.delete("txn/a")],
    )
    expect(done, True)
    expect(answers[1][0][0], b"2")
    done, answers = client.transaction(
        compare=[of.mod("txn/a") > 1_000_000],
        success=[of.put("txn/a", "never")],
        failure=[of.txn(compare=[], success=[of.get("txn/b")], failure=[]), of.delete("txn/a")],
    )
    expect(done, False)
    expect(client.get("txn/a"), (None, None))
    expect(client.put_if_not_exists("txn/b", "4"), False)
    expect(client.replace("txn/b", "3", "5"), True)
    expect(client.replace("txn/b", "3", "6"), False)
    expect(client.get("txn/b")[0], b"5")


def watch():
    client = connect()
    client.put("watch/k", "1")
    first = client.get("watch/k")[1].mod_revision
    client.put("watch/k", "2")
    client.delete("watch/k")
    old = Events(client.watch("watch/k", start_revision=first, prev_kv=True))
    new = Events(client.watch_prefix("watch/"))
    expect(old.values(2), [b"1", b"2"])
    gone = old.next()
    expect(type(gone), etcd3.events.DeleteEvent)
    expect(gone.prev_value, b"2")
    client.put("watch/other", "3")
    expect(new.next().value, b"3")
    new.cancel()
    expect(new.next(), None)
    client.put("watch/k", "4")
    expect(old.next().value, b"4")
    old.cancel()
    seen = []
    callback = client.add_watch_callback("watch/c", lambda answer: seen.extend(answer.events))
    client.put("watch/c", "5")
    eventually("the callback is called", lambda: len(seen) == 1)
    client.cancel_watch(callback)
    try:
        client.watch_once("watch/silent", timeout=0.2)
    except exceptions.WatchTimedOut:
        pass
    else:
        raise AssertionError("an event of a key that nobody changed")


def lease():
    client = connect()
    short = client.lease(4)
    kept = client.lease(60)
    client.put("lease/short", "v", lease=short)
    client.put("lease/kept", "v", lease=kept)
    expect(kept.granted_ttl, 60)
    assert 50 <= kept.remaining_ttl <= 60, kept.remaining_ttl
    expect(list(kept.keys), [b"lease/kept"])
    expect([answer.TTL for answer in kept.refresh()], [60])
    began = time.monotonic()
    while time.monotonic() < began + 5:
        [answer] = short.refresh()
        expect(answer.TTL, short.ttl)
        time.sleep(0.3)
    expect(client.get("lease/short")[0], b"v")
    expiry = Events(client.watch("lease/short"))
    expect(type(expiry.next()), etcd3.events.DeleteEvent)
    expect(client.get("lease/short"), (None, None))
    expect([answer.TTL for answer in client.refresh_lease(short.id)], [0])
    expect(client.get_lease_info(short.id).TTL, -1)
    kept.revoke()
    expect(client.get("lease/kept"), (None, None))


def lock():
    client, rival = connect(0), connect(1)
    held = client.lock("mutex", ttl=10)
    expect(held.acquire(timeout=PATIENCE), True)
    expect(held.is_acquired(), True)
    other = rival.lock("mutex", ttl=10)
    expect(other.acquire(timeout=0.5), False)
    held.refresh()
    expect(held.release(), True)
    # Not while it waits: the library misses a release between its attempt and its watch.
    expect(other.acquire(timeout=PATIENCE), True)
    expect((other.is_acquired(), held.is_acquired()), (True, False))
    expect(other.release(), True)


def maintenance():
    client = connect()
    status = eventually("a status with a leader", lambda: client.status().leader and client.status())
    assert status.version.startswith("3."), status.version
    assert status.db_size > 0 and status.raft_index > 0 and status.raft_term > 0
    assert status.leader.name in ("m0", "m1", "m2"), status.leader
    assert client.hash() > 0
    expect(list(client.list_alarms()), [])
    path = snapshot_file("etcd3.db")
    client.put("maintenance/k", "in the snapshot")
    with open(path, "wb") as out:
        client.snapshot(out)
    say("snapshot " + path)


def defragment():
    for index in range(len(endpoints())):
        client = connect(index)
        client.defragment()
        client.put("defragment/{}".format(index), "v")
        expect(client.get("defragment/{}".format(index))[0], b"v")


def compaction():
    client = connect()
    revisions = []
    for n in range(5):
        client.put("compaction/k", str(n))
        revisions.append(client.get("compaction/k")[1].mod_revision)
    client.compact(revisions[3], physical=True)
    left = Events(client.watch("compaction/k", start_revision=revisions[3]))
    expect(left.values(2), [b"3", b"4"])
    gone = Events(client.watch("compaction/k", start_revision=revisions[0]))
    error = gone.next()
    expect(type(error), exceptions.RevisionCompactedError)
    expect(error.compacted_revision, revisions[3])
    try:
        client.compact(revisions[0])
    except grpc.RpcError as error:
        expect(error.code(), grpc.StatusCode.OUT_OF_RANGE)
    else:
        raise AssertionError("compacted twice")


def failover():
    clients = [connect(index) for index in range(len(endpoints()))]
    watches = [Events(client.watch_prefix("failover/")) for client in clients]
    granted = clients[0].lease(30)
    clients[1].put("failover/leased", "v", lease=granted)
    for watch in watches:
        expect(watch.next().value, b"v")
    ask("kill")

    def put(value):
        for client in clients:
            try:
                client.timeout = 2
                client.put("failover/k", value)
                return client
            except (exceptions.Etcd3Exception, grpc.RpcError):
                pass
        return None

    alive = eventually("a put is accepted without the killed member", lambda: put("after the kill"))

    # A put that was given up may have been made all the same, and then comes twice.
    def delivered():
        return sum(
            any(getattr(event, "value", None) == b"after the kill" for event in list(watch.queue.queue))
            for watch in watches
        )

    eventually("both watches on members that live go on", lambda: delivered() >= 2)
    [answer] = eventually("the lease goes on", lambda: list(alive.refresh_lease(granted.id)))
    expect(answer.TTL, 30)
    expect(alive.get("failover/leased")[0], b"v")
    ask("restart")
    for client in clients:
        eventually("every member serves", lambda: client.get("failover/k")[0] == b"after the kill")


def members():
    client = connect()
    listed = list(client.members)
    expect(sorted(member.name for member in listed), ["m0", "m1", "m2"])
    expect(all(member.client_urls and member.peer_urls for member in listed), True)
    # A cluster that has just come up, or lost a member, refuses for some seconds. And a change that the leader
    # drops, since it has not applied the one before, is never answered: each is tried until it is seen.
    client.timeout = 5

    def at(url):
        return next((member for member in client.members if list(member.peer_urls) == [url]), None)

    old, new = "http://127.0.0.1:1", "http://127.0.0.1:2"
    added = eventually("a member is added", lambda: at(old) or client.add_member([old]))
    expect((added.name, list(added.peer_urls)), ("", [old]))
    expect(len(list(client.members)), 4)
    eventually("its URL changes", lambda: at(new) or client.update_member(added.id, [new]))
    expect(at(new).id, added.id)
    eventually("it is removed", lambda: not at(new) or client.remove_member(added.id))
    expect(len(list(client.members)), 3)
    client.put("members/k", "v")


def auth():
    # The library logs in, but leaves the administration to its stubs.
    plain = connect()
    admin = etcdrpc.AuthStub(plain.channel)
    admin.UserAdd(etcdrpc.AuthUserAddRequest(name="root", password="secret"))
    admin.RoleAdd(etcdrpc.AuthRoleAddRequest(name="root"))
    admin.UserGrantRole(etcdrpc.AuthUserGrantRoleRequest(user="root", role="root"))
    admin.UserAdd(etcdrpc.AuthUserAddRequest(name="ann", password="pass"))
    admin.RoleAdd(etcdrpc.AuthRoleAddRequest(name="reader"))
    grant = etcdrpc.AuthRoleGrantPermissionRequest(name="reader")
    grant.perm.permType = grant.perm.READ
    grant.perm.key = b"auth/"
    grant.perm.range_end = b"auth0"
    admin.RoleGrantPermission(grant)
    admin.UserGrantRole(etcdrpc.AuthUserGrantRoleRequest(user="ann", role="reader"))
    expect(list(admin.UserGet(etcdrpc.AuthUserGetRequest(name="ann")).roles), ["reader"])
    expect(sorted(admin.UserList(etcdrpc.AuthUserListRequest()).users), ["ann", "root"])
    expect(sorted(admin.RoleList(etcdrpc.AuthRoleListRequest()).roles), ["reader", "root"])
    admin.AuthEnable(etcdrpc.AuthEnableRequest())
    try:
        # A token in metadata is what the server sees; the library's own call credentials ask for TLS.
        def login(index, user, password):
            client = connect(index, user=user, password=password)
            client.call_credentials = None
            client.watcher._credentials = None
            return client

        # A member that has not applied the change yet refuses all logins.
        root = eventually("root logs in", lambda: login(1, "root", "secret"))
        root.put("auth/k", "v")
        root.put("private", "v")
        ann = eventually("ann logs in", lambda: login(2, "ann", "pass"))
        expect(ann.get("auth/k")[0], b"v")
        seen = Events(ann.watch_prefix("auth/"))
        root.put("auth/k", "w")
        expect(seen.next().value, b"w")
        refused(lambda: ann.put("auth/k", "no"), grpc.StatusCode.PERMISSION_DENIED)
        refused(lambda: ann.get("private"), grpc.StatusCode.PERMISSION_DENIED)
        refused(lambda: plain.get("auth/k"), grpc.StatusCode.INVALID_ARGUMENT)
        refused(lambda: login(0, "ann", "wrong"), grpc.StatusCode.INVALID_ARGUMENT)
        metadata = root.metadata
    finally:
        token = admin.Authenticate(etcdrpc.AuthenticateRequest(name="root", password="secret")).token
        metadata = (("token", token),)
        admin.AuthDisable(etcdrpc.AuthDisableRequest(), metadata=metadata)
    expect(eventually("all may read", lambda: plain.get("private")[0]), b"v")
    admin.UserRevokeRole(etcdrpc.AuthUserRevokeRoleRequest(name="ann", role="reader"))
    admin.RoleDelete(etcdrpc.AuthRoleDeleteRequest(role="reader"))
    admin.UserDelete(etcdrpc.AuthUserDeleteRequest(name="ann"))
    admin.UserDelete(etcdrpc.AuthUserDeleteRequest(name="root"))
    admin.RoleDelete(etcdrpc.AuthRoleDeleteRequest(role="root"))


def refused(call, code):
    try:
        call()
    except grpc.RpcError as error:
        expect(error.code(), code)
    else:
        raise AssertionError("not refused with {}".format(code))


for area in AREAS:
    globals()[area]()
    say("ok " + area)
