"""The client library `aetcd` against a cluster; see conversation.py."""

import asyncio

import aetcd
from aetcd import exceptions, rpc

from conversation import AREAS, PATIENCE, Deadline, ask, endpoints, expect, say, snapshot_file

PUT, DELETE = aetcd.rtypes.EventKind.PUT, aetcd.rtypes.EventKind.DELETE


def connect(index=0, **options):
    host, port = endpoints()[index]
    return aetcd.Client(host=host, port=port, timeout=PATIENCE, **options)


async def eventually(what, probe):
    """Repeats until something true comes back; errors of the cluster count as not yet."""
    deadline = Deadline(what)
    last = None
    while True:
        try:
            last = await probe()
            if last:
                return last
        except (exceptions.ClientError, rpc.AioRpcError) as error:
            last = error
        deadline.check(last)
        await asyncio.sleep(0.05)


class Events:
    """The events of a watch, gathered by a task so that waiting for one can end."""

    def __init__(self, watch):
        self.watch = watch
        self.queue = asyncio.Queue()
        self.seen = []
        self.task = asyncio.create_task(self.gather())

    async def gather(self):
        try:
            async for event in self.watch:
                self.seen.append(event)
                await self.queue.put(event)
        except Exception as error:
            await self.queue.put(error)
        await self.queue.put(None)

    async def next(self):
        return await asyncio.wait_for(self.queue.get(), PATIENCE)

    async def values(self, count):
        return [(await self.next()).kv.value for _ in range(count)]


async def refused(call, error_type, text):
    try:
        await call
    except error_type as error:
        assert text in str(error), repr(error)
    else:
        raise AssertionError("not refused with {}".format(text))


async def kv():
    async with connect() as client:
        await client.put(b"kv/a", b"1")
        put = await client.put(b"kv/a", b"2", prev_kv=True)
        expect(put.prev_kv.value, b"1")
        got = await client.get(b"kv/a")
        expect((got.value, got.version), (b"2", 2))
        assert got.mod_revision > got.create_revision
        expect(got.header.revision, put.header.revision)
        await client.put(b"kv/b", b"3")
        found = await client.get_prefix(b"kv/", sort_order="descend", sort_target="key")
        expect([(kv.key, kv.value) for kv in found], [(b"kv/b", b"3"), (b"kv/a", b"2")])
        found = await client.get_range(b"kv/a", b"kv/b")
        expect([kv.value for kv in found], [b"2"])
        expect(await client.get(b"kv/none"), None)
        expect((await client.delete(b"kv/a", prev_kv=True)).prev_kv.value, b"2")
        expect(await client.delete(b"kv/a"), None)
        expect((await client.delete_prefix(b"kv/")).deleted, 1)
        big = b"x" * 1_000_000
        await client.put(b"kv/big", big)
        expect((await client.get(b"kv/big")).value, big)
        await refused(
            client.put(b"", b"no key"),
            exceptions.InvalidArgumentError,
            "etcdserver: key is not provided",
        )


async def txn():
    async with connect() as client:
        of = client.transactions
        await client.put(b"txn/a", b"1")
        done, answers = await client.transaction(
            compare=[of.value(b"txn/a") == b"1", of.version(b"txn/a") == 1],
            success=[of.put(b"txn/a", b"2"), of.get(b"txn/a")],
            failure=[of.delete(b"txn/a")],
        )
        expect(done, True)
        expect(answers[1][0][0], b"2")
        done, answers = await client.transaction(
            compare=[of.mod(b"txn/a") > 1_000_000],
            success=[],
            failure=[of.txn(compare=[], success=[of.get(b"txn/a")], failure=[]), of.delete(b"txn/a")],
        )
        expect(done, False)
        expect(await client.get(b"txn/a"), None)
        await client.put(b"txn/b", b"3")
        expect(await client.replace(b"txn/b", b"3", b"5"), True)
        expect(await client.replace(b"txn/b", b"3", b"6"), False)
        expect((await client.get(b"txn/b")).value, b"5")


async def watch():
    async with connect() as client:
        first = (await client.put(b"watch/k", b"1")).header.revision
        await client.put(b"watch/k", b"2")
        await client.delete(b"watch/k")
        old = Events(await client.watch(b"watch/k", start_revision=first, prev_kv=True))
        new = Events(await client.watch_prefix(b"watch/"))
        expect(await old.values(2), [b"1", b"2"])
        gone = await old.next()
        expect((gone.kind, gone.prev_kv.value), (DELETE, b"2"))
        await client.put(b"watch/other", b"3")
        expect((await new.next()).kv.value, b"3")
        await new.watch.cancel()
        expect(await new.next(), None)
        await client.put(b"watch/k", b"4")
        expect((await old.next()).kv.value, b"4")
        await old.watch.cancel()
        only = Events(await client.watch(b"watch/f", kind=DELETE))
        await client.put(b"watch/f", b"5")
        await client.delete(b"watch/f")
        expect((await only.next()).kind, DELETE)
        await only.watch.cancel()
        await refused(
            client.watch_once(b"watch/silent", timeout=0.2), exceptions.WatchTimeoutError, ""
        )


async def lease():
    async with connect() as client:
        short = await client.lease(4)
        kept = await client.lease(60)
        await client.put(b"lease/short", b"v", lease=short)
        await client.put(b"lease/kept", b"v", lease=kept)
        expect(await kept.granted_ttl(), 60)
        assert 50 <= await kept.remaining_ttl() <= 60
        expect(list(await kept.keys()), [b"lease/kept"])
        expect((await kept.refresh()).TTL, 60)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() < began + 5:
            expect((await short.refresh()).TTL, short.ttl)
            await asyncio.sleep(0.3)
        expect((await client.get(b"lease/short")).value, b"v")
        expiry = Events(await client.watch(b"lease/short"))
        expect((await expiry.next()).kind, DELETE)
        expect(await client.get(b"lease/short"), None)
        expect((await short.refresh()).TTL, 0)
        expect((await client.get_lease_info(short.id)).TTL, -1)
        await refused(client.lease(60, lease_id=kept.id), exceptions.DuplicateLeaseError, "")
        await kept.revoke()
        expect(await client.get(b"lease/kept"), None)


async def lock():
    async with connect(0) as client, connect(1) as rival:
        held = client.lock(b"mutex", ttl=10)
        expect(await held.acquire(timeout=PATIENCE), True)
        expect(await held.is_acquired(), True)
        other = rival.lock(b"mutex", ttl=10)
        expect(await other.acquire(timeout=0.5), False)
        waiting = asyncio.create_task(other.acquire(timeout=PATIENCE))
        await held.refresh()
        expect(await held.release(), True)
        expect(await waiting, True)
        expect((await other.is_acquired(), await held.is_acquired()), (True, False))
        expect(await other.release(), True)


async def maintenance():
    async with connect() as client:

        async def led():
            status = await client.status()
            return status.leader and status

        status = await eventually("a status with a leader", led)
        assert status.version.startswith("3."), status.version
        assert status.db_size > 0 and status.raft_index > 0 and status.raft_term > 0
        assert status.leader.name in ("m0", "m1", "m2"), status.leader
        assert await client.hash() > 0
        expect([alarm async for alarm in client.list_alarms()], [])
        path = snapshot_file("aetcd.db")
        await client.put(b"maintenance/k", b"in the snapshot")
        with open(path, "wb") as out:
            await client.snapshot(out)
        say("snapshot " + path)


async def defragment():
    for index in range(len(endpoints())):
        async with connect(index) as client:
            await client.defragment()
            await client.put(b"defragment", b"v")
            expect((await client.get(b"defragment")).value, b"v")


async def compaction():
    async with connect() as client:
        revisions = []
        for n in range(5):
            put = await client.put(b"compaction/k", str(n).encode())
            revisions.append(put.header.revision)
        await client.compact(revisions[3], physical=True)
        left = Events(await client.watch(b"compaction/k", start_revision=revisions[3]))
        expect(await left.values(2), [b"3", b"4"])
        gone = Events(await client.watch(b"compaction/k", start_revision=revisions[0]))
        error = await gone.next()
        expect(type(error), exceptions.RevisionCompactedError)
        expect(error.compacted_revision, revisions[3])
        await refused(
            client.compact(revisions[0]),
            exceptions.ClientError,
            "etcdserver: mvcc: required revision has been compacted",
        )


async def failover():
    clients = [connect(index) for index in range(len(endpoints()))]
    watches = [Events(await client.watch_prefix(b"failover/")) for client in clients]
    granted = await clients[0].lease(30)
    await clients[1].put(b"failover/leased", b"v", lease=granted)
    for watch in watches:
        expect((await watch.next()).kv.value, b"v")
    await asyncio.to_thread(ask, "kill")

    async def put():
        for client in clients:
            try:
                call = client.put(b"failover/k", b"after the kill")
                await asyncio.wait_for(call, 2)
                return client
            except (exceptions.ClientError, rpc.AioRpcError, asyncio.TimeoutError):
                pass
        return None

    alive = await eventually("a put is accepted without the killed member", put)

    # A put that was given up may have been made all the same, and then comes twice.
    async def delivered():
        values = [[event.kv.value for event in watch.seen] for watch in watches]
        return sum(b"after the kill" in of_one for of_one in values) >= 2

    await eventually("both watches on members that live go on", delivered)
    answer = await eventually("the lease goes on", lambda: alive.refresh_lease(granted.id))
    expect(answer.TTL, 30)
    expect((await alive.get(b"failover/leased")).value, b"v")
    await asyncio.to_thread(ask, "restart")
    for client in clients:

        async def serves(client=client):
            return (await client.get(b"failover/k")).value == b"after the kill"

        await eventually("every member serves", serves)
        await client.close()


async def listed(client):
    return [member async for member in client.members()]


async def members():
    async with connect() as client:
        client._timeout = 5
        found = await listed(client)
        expect(sorted(member.name for member in found), ["m0", "m1", "m2"])
        expect(all(member.client_urls and member.peer_urls for member in found), True)
        # A cluster that has just come up, or lost a member, refuses for some seconds. And a change that the leader
        # drops, since it has not applied the one before, is never answered: each is tried until it is seen.
        old, new = "http://127.0.0.1:1", "http://127.0.0.1:2"

        async def at(url):
            found = [member for member in await listed(client) if list(member.peer_urls) == [url]]
            return found[0] if found else None

        async def add():
            return await at(old) or await client.add_member([old])

        async def update():
            return await at(new) or await client.update_member(added.id, [new])

        async def remove():
            return not await at(new) or await client.remove_member(added.id)

        added = await eventually("a member is added", add)
        expect((added.name, list(added.peer_urls)), ("", [old]))
        expect(len(await listed(client)), 4)
        await eventually("its URL changes", update)
        expect((await at(new)).id, added.id)
        await eventually("it is removed", remove)
        expect(len(await listed(client)), 3)
        await client.put(b"members/k", b"v")


async def auth():
    # The library logs in, but leaves the administration to its stubs.
    async with connect() as plain:
        admin = rpc.AuthStub(plain.channel)
        await admin.UserAdd(rpc.AuthUserAddRequest(name="root", password="secret"))
        await admin.RoleAdd(rpc.AuthRoleAddRequest(name="root"))
        await admin.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"))
        await admin.UserAdd(rpc.AuthUserAddRequest(name="ann", password="pass"))
        await admin.RoleAdd(rpc.AuthRoleAddRequest(name="reader"))
        grant = rpc.AuthRoleGrantPermissionRequest(name="reader")
        grant.perm.permType = grant.perm.READ
        grant.perm.key = b"auth/"
        grant.perm.range_end = b"auth0"
        await admin.RoleGrantPermission(grant)
        await admin.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="ann", role="reader"))
        role = await admin.RoleGet(rpc.AuthRoleGetRequest(role="reader"))
        expect([(perm.key, perm.range_end) for perm in role.perm], [(b"auth/", b"auth0")])
        await admin.AuthEnable(rpc.AuthEnableRequest())
        try:
            # A member that has not applied the change yet refuses all logins.
            async def login(index, name, password):
                client = connect(index, username=name, password=password)
                await client.connect()
                return client

            root = await eventually("root logs in", lambda: login(1, "root", "secret"))
            ann = await eventually("ann logs in", lambda: login(2, "ann", "pass"))
            async with root, ann:
                await root.put(b"auth/k", b"v")
                await root.put(b"private", b"v")
                expect((await ann.get(b"auth/k")).value, b"v")
                seen = Events(await ann.watch_prefix(b"auth/"))
                await root.put(b"auth/k", b"w")
                expect((await seen.next()).kv.value, b"w")
                denied = (exceptions.ClientError, "etcdserver: permission denied")
                await refused(ann.put(b"auth/k", b"no"), *denied)
                await refused(ann.get(b"private"), *denied)
                await refused(
                    plain.get(b"auth/k"),
                    exceptions.InvalidArgumentError,
                    "etcdserver: user name is empty",
                )
                await refused(
                    connect(0, username="ann", password="wrong").connect(),
                    exceptions.InvalidArgumentError,
                    "etcdserver: authentication failed, invalid user ID or password",
                )
        finally:
            login = rpc.AuthenticateRequest(name="root", password="secret")
            token = (await admin.Authenticate(login)).token
            await admin.AuthDisable(rpc.AuthDisableRequest(), metadata=(("token", token),))
        got = await eventually("all may read", lambda: plain.get(b"private"))
        expect(got.value, b"v")
        await admin.RoleDelete(rpc.AuthRoleDeleteRequest(role="reader"))
        await admin.UserDelete(rpc.AuthUserDeleteRequest(name="ann"))
        await admin.UserDelete(rpc.AuthUserDeleteRequest(name="root"))
        await admin.RoleDelete(rpc.AuthRoleDeleteRequest(role="root"))


async def main():
    for area in AREAS:
        await globals()[area]()
        say("ok " + area)


asyncio.run(main())
