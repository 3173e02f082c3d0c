//! What may be done with a call of a method: sent again, buffered, timed.

/// How a method's messages flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// One request, one response.
    Unary,
    /// One request, many responses.
    ServerStream,
    /// Many of both.
    Bidi,
}

/// What the channel needs to know of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// How messages flow.
    pub flow: Flow,
    /// Changes nothing, so that sending it twice does no harm.
    pub read: bool,
}

/// Looks a path up. An unknown method counts as a unary write: the careful choice.
pub(crate) fn of(path: &str) -> Method {
    let (flow, read) = match path {
        "/etcdserverpb.Watch/Watch" | "/etcdserverpb.Lease/LeaseKeepAlive" => (Flow::Bidi, true),
        "/etcdserverpb.KV/RangeStream"
        | "/etcdserverpb.Maintenance/Snapshot"
        | "/v3electionpb.Election/Observe"
        | "/grpc.health.v1.Health/Watch" => (Flow::ServerStream, true),
        "/etcdserverpb.KV/Range"
        | "/etcdserverpb.Lease/LeaseTimeToLive"
        | "/etcdserverpb.Lease/LeaseLeases"
        | "/etcdserverpb.Cluster/MemberList"
        | "/etcdserverpb.Maintenance/Status"
        | "/etcdserverpb.Maintenance/Hash"
        | "/etcdserverpb.Maintenance/HashKV"
        | "/etcdserverpb.Auth/AuthStatus"
        | "/etcdserverpb.Auth/Authenticate"
        | "/etcdserverpb.Auth/UserGet"
        | "/etcdserverpb.Auth/UserList"
        | "/etcdserverpb.Auth/RoleGet"
        | "/etcdserverpb.Auth/RoleList"
        | "/v3electionpb.Election/Leader"
        | "/grpc.health.v1.Health/Check" => (Flow::Unary, true),
        _ => (Flow::Unary, false),
    };
    Method { flow, read }
}
