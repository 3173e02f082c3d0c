"""An `etcdctl` that the distribution ships, named by ETCDCTL, against a cluster; see conversation.py."""

import json
import os
import queue
import subprocess
import threading
import time

from conversation import AREAS, PATIENCE, Deadline, ask, endpoints, expect, say, snapshot_file

ALL = ["http://{}:{}".format(*part) for part in endpoints()]
# The same, as a 3.4 client needs them where it speaks to one member by name and a server is strict: it sends
# the endpoint as it stands as the request's authority.
HOSTS = ["{}:{}".format(*part) for part in endpoints()]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ETCDCTL")}
ENVIRONMENT["ETCDCTL_API"] = "3"


class Failed(Exception):
    pass


def command(words, at):
    return [os.environ["ETCDCTL"], "--endpoints=" + ",".join(at or ALL), *words]


def ctl(*words, at=None, stdin=""):
    """What the command prints; an exception if it does not end well."""
    done = subprocess.run(
        command(words, at), input=stdin, text=True, capture_output=True, timeout=PATIENCE, env=ENVIRONMENT
    )
    if done.returncode != 0:
        raise Failed("{}: {}{}".format(" ".join(words), done.stdout, done.stderr))
    return done.stdout


def lines(*words, **options):
    return ctl(*words, **options).splitlines()


def answer(*words, **options):
    return json.loads(ctl(*words, "-w", "json", **options))


def revision(key):
    return answer("get", key)["kvs"][0]["mod_revision"]


def refused(words, text, **options):
    try:
        ctl(*words, **options)
    except Failed as error:
        assert text in str(error), error
    else:
        raise AssertionError("not refused with {}: {}".format(text, words))


def eventually(what, probe):
    """Repeats until something true comes back; a command that fails counts as not yet."""
    deadline = Deadline(what)
    last = None
    while True:
        try:
            last = probe()
            if last:
                return last
        except (Failed, subprocess.TimeoutExpired) as error:
            last = error
        deadline.check(last)
        time.sleep(0.1)


class Running:
    """A command that goes on until it is stopped, and the lines it prints."""

    def __init__(self, *words, at=None):
        self.child = subprocess.Popen(
            command(words, at), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        self.queue = queue.Queue()
        self.seen = []
        threading.Thread(target=self.gather, daemon=True).start()

    def gather(self):
        for line in self.child.stdout:
            self.seen.append(line.rstrip("\n"))
            self.queue.put(line.rstrip("\n"))

    def next(self, count):
        return [self.queue.get(timeout=PATIENCE) for _ in range(count)]

    def stop(self):
        self.child.terminate()
        self.child.wait(timeout=PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()


def kv():
    expect(lines("put", "kv/a", "1"), ["OK"])
    expect(lines("put", "kv/a", "2", "--prev-kv"), ["OK", "kv/a", "1"])
    ctl("put", "kv/b", "3")
    expect(lines("get", "kv/", "--prefix", "--order=DESCEND"), ["kv/b", "3", "kv/a", "2"])
    expect(lines("get", "kv/a", "--print-value-only"), ["2"])
    expect(lines("get", "kv/", "--prefix", "--keys-only"), ["kv/a", "", "kv/b", ""])
    expect(lines("get", "kv/a", "kv/b", "--limit=1"), ["kv/a", "2"])
    expect(answer("get", "kv/", "--prefix", "--limit=1")["count"], 2)
    expect(lines("get", "kv/a", "--rev={}".format(revision("kv/b") - 2)), ["kv/a", "1"])
    expect(lines("get", "kv/a", "--consistency=s", "--print-value-only"), ["2"])
    expect(lines("del", "kv/", "--prefix", "--prev-kv"), ["2", "kv/a", "2", "kv/b", "3"])
    expect(lines("del", "kv/a"), ["0"])
    refused(["put", "", "no key"], "etcdserver: key is not provided")


def txn():
    ctl("put", "txn/a", "1")
    text = 'value("txn/a") = "1"\nversion("txn/a") < "2"\n\nput txn/a 2\nget txn/a\n\ndel txn/a\n\n'
    expect(lines("txn", stdin=text), ["SUCCESS", "", "OK", "", "txn/a", "2"])
    text = 'mod("txn/a") > "1000000"\n\nput txn/a 3\n\ndel txn/a\n\n'
    expect(lines("txn", stdin=text), ["FAILURE", "", "1"])
    expect(ctl("get", "txn/a"), "")


def watch():
    ctl("put", "watch/k", "1")
    first = revision("watch/k")
    ctl("put", "watch/k", "2")
    ctl("del", "watch/k")
    with Running("watch", "watch/k", "--rev={}".format(first), "--prev-kv") as old:
        put = ["PUT", "watch/k", "1", "PUT", "watch/k", "1", "watch/k", "2"]
        expect(old.next(8), put)
        expect(old.next(5), ["DELETE", "watch/k", "2", "watch/k", ""])
        ctl("put", "watch/k", "3")
        expect(old.next(3), ["PUT", "watch/k", "3"])
        old.stop()
    ctl("put", "watch/k", "4")


def lease():
    def grant(seconds):
        # lease 694d... granted with TTL(60s)
        words = ctl("lease", "grant", str(seconds)).split()
        expect(words[2:], ["granted", "with", "TTL({}s)".format(seconds)])
        return words[1]

    kept, short = grant(60), grant(4)
    with Running("lease", "keep-alive", short) as keeper:
        ctl("put", "lease/kept", "v", "--lease=" + kept)
        ctl("put", "lease/short", "v", "--lease=" + short)
        kept_alive = "lease {} keepalived with TTL(4)".format(short)
        began = time.monotonic()
        while time.monotonic() < began + 5:
            expect(keeper.next(1), [kept_alive])
        expect(lines("get", "lease/short", "--print-value-only"), ["v"])
        keeper.stop()
    eventually("the lease expires", lambda: ctl("get", "lease/short") == "")
    expect(lines("lease", "timetolive", short), ["lease {} already expired".format(short)])
    [left] = lines("lease", "timetolive", kept, "--keys")
    assert left.startswith("lease {} granted with TTL(60s), remaining(".format(kept)), left
    assert left.endswith("attached keys([lease/kept])"), left
    assert kept in lines("lease", "list"), kept
    expect(lines("lease", "keep-alive", "--once", kept), ["lease {} keepalived with TTL(60)".format(kept)])
    expect(lines("lease", "revoke", kept), ["lease {} revoked".format(kept)])
    expect(ctl("get", "lease/kept"), "")
    refused(["lease", "revoke", kept], "etcdserver: requested lease not found")


def lock():
    with Running("lock", "mutex") as held:
        [key] = held.next(1)
        assert key.startswith("mutex/"), key
        with Running("lock", "mutex") as rival:
            eventually("the rival waits", lambda: answer("get", "mutex/", "--prefix").get("count") == 2)
            expect(rival.seen, [])
            held.stop()
            [other] = rival.next(1)
            assert other != key, other
            rival.stop()
    expect(lines("lock", "mutex", "echo", "held"), ["held"])


def election():
    with Running("elect", "votes", "a") as first:
        key, value = first.next(2)
        assert key.startswith("votes/"), key
        expect(value, "a")
        with Running("elect", "--listen", "votes") as listener, Running("elect", "votes", "b") as second:
            expect(listener.next(2), [key, "a"])
            eventually("the second waits", lambda: answer("get", "votes/", "--prefix").get("count") == 2)
            first.stop()
            expect(second.next(2)[1], "b")
            expect(listener.next(2)[1], "b")
            second.stop()


def each_member(at):
    status = eventually(
        "all members know the leader",
        lambda: (found := answer("endpoint", "status", at=at)) and all(one["Status"].get("leader") for one in found) and found,
    )
    expect(len({one["Status"]["leader"] for one in status}), 1)
    assert all(one["Status"]["version"].startswith("3.") for one in status), status
    assert all(one["Status"]["dbSize"] > 0 for one in status), status
    expect(all(one["health"] for one in answer("endpoint", "health", at=at)), True)

    def equal():
        hashes = [one["HashKV"] for one in answer("endpoint", "hashkv", at=at)]
        revisions = {one["header"]["revision"] for one in hashes}
        return len(revisions) == 1 and hashes

    expect(len({one["hash"] for one in eventually("members have caught up", equal)}), 1)

    # Elections may come between the question and the order.
    def moved():
        status = [one["Status"] for one in answer("endpoint", "status", at=at)]
        leader = status[0]["leader"]
        other = next(id for id in (one["header"]["member_id"] for one in status) if id != leader)
        words = ctl("move-leader", "{:x}".format(other), at=at)
        return words.startswith("Leadership transferred from {:x} to {:x}".format(leader, other))

    eventually("leadership moves", moved)


def by_url():
    each_member(ALL)


def maintenance():
    each_member(HOSTS)
    expect(ctl("alarm", "list"), "")
    ctl("put", "maintenance/k", "in the snapshot")
    path = snapshot_file("etcdctl.db")
    ctl("snapshot", "save", path, at=ALL[:1])
    assert answer("snapshot", "status", path)["totalKey"] > 0
    say("snapshot " + path)


def defragment():
    expect(len(lines("defrag", at=HOSTS)), len(ALL))
    for one in ALL:
        ctl("put", "defragment", "v", at=[one])
        expect(lines("get", "defragment", "--print-value-only", at=[one]), ["v"])


def compaction():
    revisions = []
    for n in range(5):
        ctl("put", "compaction/k", str(n))
        revisions.append(revision("compaction/k"))
    expect(lines("compaction", str(revisions[3]), "--physical"), ["compacted revision {}".format(revisions[3])])
    compacted = "etcdserver: mvcc: required revision has been compacted"
    refused(["get", "compaction/k", "--rev={}".format(revisions[0])], compacted)
    refused(["compaction", str(revisions[0])], compacted)
    refused(["watch", "compaction/k", "--rev={}".format(revisions[0])], "watch was canceled")
    with Running("watch", "compaction/k", "--rev={}".format(revisions[3])) as left:
        expect(left.next(6), ["PUT", "compaction/k", "3", "PUT", "compaction/k", "4"])


def failover():
    granted = ctl("lease", "grant", "30").split()[1]
    ctl("put", "failover/leased", "v", "--lease=" + granted)
    # One of all members each, in the order that makes another the first.
    orders = [ALL[n:] + ALL[:n] for n in range(len(ALL))]
    watches = [Running("watch", "failover/k", at=order) for order in orders]
    try:
        first = iter(range(1_000_000))

        def watched():
            ctl("put", "failover/k", str(next(first)))
            return all(watch.seen for watch in watches)

        eventually("all watch", watched)
        ask("kill")
        put = ["put", "failover/k", "after the kill", "--command-timeout=2s"]
        eventually("a put is accepted without the killed member", lambda: lines(*put) == ["OK"])
        eventually(
            "every watch goes on", lambda: all("after the kill" in watch.seen for watch in watches)
        )
        kept = "lease {} keepalived with TTL(30)".format(granted)
        eventually("the lease goes on", lambda: lines("lease", "keep-alive", "--once", granted) == [kept])
        expect(lines("get", "failover/leased", "--print-value-only"), ["v"])
    finally:
        for watch in watches:
            watch.child.kill()
            watch.child.wait()
    ask("restart")
    for one in ALL:
        value = ["get", "failover/k", "--print-value-only"]
        eventually("every member serves", lambda: lines(*value, at=[one]) == ["after the kill"])


def members():
    listed = answer("member", "list")["members"]
    expect(sorted(member["name"] for member in listed), ["m0", "m1", "m2"])
    # A cluster that has just come up, or lost a member, refuses for some seconds. And a change that the leader
    # drops, since it has not applied the one before, is never answered: each is tried until it is seen.
    old, new = "http://127.0.0.1:1", "http://127.0.0.1:2"

    def at(url):
        found = [member for member in answer("member", "list")["members"] if member["peerURLs"] == [url]]
        return found[0] if found else None

    for learner in [[], ["--learner"]]:
        add = ["member", "add", "new", "--peer-urls=" + old, *learner]
        added = eventually("a member is added", lambda: at(old) or (ctl(*add) and None))
        id = "{:x}".format(added["ID"])
        expect(len(answer("member", "list")["members"]), 4)
        url = old
        if learner:
            early = "can only promote a learner member which is in sync with leader"

            def too_early():
                try:
                    ctl("member", "promote", id)
                except Failed as error:
                    return early in str(error)

            eventually("it may not be promoted", too_early)
        else:
            url = new
            update = ["member", "update", id, "--peer-urls=" + new]
            eventually("its URL changes", lambda: at(new) or (ctl(*update) and None))
        [line] = [line for line in lines("member", "list") if line.startswith(id)]
        expect(line, "{}, unstarted, , {}, , {}".format(id, url, str(bool(learner)).lower()))
        eventually("it is removed", lambda: not at(url) or (ctl("member", "remove", id) and None))
        expect(len(answer("member", "list")["members"]), 3)
    refused(["member", "remove", "1"], "etcdserver: member not found")


def auth():
    ctl("user", "add", "root:secret")
    ctl("role", "add", "root")
    ctl("user", "grant-role", "root", "root")
    ctl("user", "add", "ann:first")
    ctl("user", "passwd", "ann", "--interactive=false", stdin="pass\n")
    ctl("role", "add", "reader")
    ctl("role", "grant-permission", "reader", "read", "auth/", "--prefix")
    ctl("user", "grant-role", "ann", "reader")
    expect(lines("user", "list"), ["ann", "root"])
    expect(lines("role", "list"), ["reader", "root"])
    expect(lines("user", "get", "ann"), ["User: ann", "Roles: reader"])
    assert "auth/" in ctl("role", "get", "reader")
    expect(lines("auth", "enable"), ["Authentication Enabled"])
    root, ann = "--user=root:secret", "--user=ann:pass"
    try:
        # A member that has not applied the change yet refuses all logins.
        for one in ALL:
            eventually("root logs in", lambda: ctl(root, "put", "auth/k", "v", at=[one]))
        ctl(root, "put", "private", "v")
        expect(lines(ann, "get", "auth/k", "--print-value-only"), ["v"])
        with Running(ann, "watch", "auth/", "--prefix", "--rev={}".format(answer(ann, "get", "auth/k")["kvs"][0]["mod_revision"])) as seen:
            expect(seen.next(3), ["PUT", "auth/k", "v"])
            ctl(root, "put", "auth/k", "w")
            expect(seen.next(3), ["PUT", "auth/k", "w"])
        refused([ann, "put", "auth/k", "no"], "etcdserver: permission denied")
        refused([ann, "get", "private"], "etcdserver: permission denied")
        refused(["get", "auth/k"], "etcdserver: user name is empty")
        wrong = "etcdserver: authentication failed, invalid user ID or password"
        refused(["--user=ann:wrong", "get", "auth/k"], wrong)
    finally:
        expect(lines(root, "auth", "disable"), ["Authentication Disabled"])
    eventually("all may read", lambda: lines("get", "private", "--print-value-only") == ["v"])
    ctl("role", "revoke-permission", "reader", "auth/", "--prefix")
    ctl("user", "revoke-role", "ann", "reader")
    ctl("role", "delete", "reader")
    ctl("user", "delete", "ann")
    ctl("user", "delete", "root")
    ctl("role", "delete", "root")


for area in AREAS:
    globals()[area]()
    say("ok " + area)
