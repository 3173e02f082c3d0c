//! Streams, authentication and unix sockets, against a member of etcd's own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ferrite_client::pb::{self, watch_request::RequestUnion};
use ferrite_client::{Client, Config, describe};
use ferrite_proto::grpc_health_v1::HealthCheckRequest;

struct Member {
    child: Child,
    _data: tempfile::TempDir,
    endpoint: String,
    unix: String,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts a member, or says why not.
fn start() -> Option<Member> {
    let Some(dir) = std::env::var_os("ETCD_ORACLE_DIR").map(PathBuf::from) else {
        assert!(
            std::env::var_os("CI").is_none(),
            "ETCD_ORACLE_DIR must name the folder of etcd 3.5.1"
        );
        eprintln!("SKIPPED: ETCD_ORACLE_DIR is not set");
        return None;
    };
    let data = tempfile::tempdir().unwrap();
    let (client, peer) = (free_port(), free_port());
    let url = format!("http://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");
    // etcd reads a unix URL's host and port as a file name in its working directory.
    let unix = format!("localhost:{}", free_port());
    let child = Command::new(dir.join("etcd"))
        .current_dir(data.path())
        .arg(format!("--data-dir={}", data.path().join("d").display()))
        .arg(format!("--listen-client-urls={url},unix://{unix}"))
        .arg(format!("--advertise-client-urls={url}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=default={peer}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Some(Member {
        child,
        unix: format!("unix://{}", data.path().join(unix).display()),
        _data: data,
        endpoint: url,
    })
}

fn client(endpoint: &str) -> Client {
    let mut config = Config::new([endpoint]);
    config.call_timeout = Some(Duration::from_secs(30));
    Client::new(config).unwrap()
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn streams_and_users() {
    let Some(member) = start() else { return };
    let client = client(&member.endpoint);
    // Waits for the member to come up.
    client.kv().put(put("a", "1")).await.unwrap();

    // Watch.
    let create = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: "a".into(),
            ..Default::default()
        })),
    };
    let (requests, receiver) = tokio::sync::mpsc::channel(4);
    requests.send(create).await.unwrap();
    let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut events = client.watch().watch(receiver).await.unwrap().into_inner();
    assert!(events.message().await.unwrap().unwrap().created);
    client.kv().put(put("a", "2")).await.unwrap();
    let response = events.message().await.unwrap().unwrap();
    assert_eq!(&response.events[0].kv.as_ref().unwrap().value[..], b"2");

    // Leases.
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 7 };
    client.lease().lease_grant(grant).await.unwrap();
    let beats = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: 7 }]);
    let mut alive = client
        .lease()
        .lease_keep_alive(beats)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(alive.message().await.unwrap().unwrap().ttl, 60);

    // A database snapshot, in pieces.
    let mut pieces = client
        .maintenance()
        .snapshot(pb::SnapshotRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut size = 0;
    while let Some(piece) = pieces.message().await.unwrap() {
        size += piece.blob.len();
    }
    assert_eq!(size % 512, 32);

    // Health.
    let check = client.health().check(HealthCheckRequest::default()).await;
    assert_eq!(check.unwrap().into_inner().status, 1);

    // The unix socket.
    let local = self::client(&member.unix);
    let range = pb::RangeRequest {
        key: "a".into(),
        ..Default::default()
    };
    let read = local.kv().range(range.clone()).await.unwrap().into_inner();
    assert_eq!(&read.kvs[0].value[..], b"2");

    // Users: errors keep their words, a token opens the door.
    let error = client.authenticate("root", "pw").await.unwrap_err();
    assert_eq!(
        describe(&error),
        "etcdserver: authentication is not enabled"
    );
    let mut auth = client.auth();
    let user = pb::AuthUserAddRequest {
        name: "root".into(),
        password: "pw".into(),
        ..Default::default()
    };
    auth.user_add(user).await.unwrap();
    let role = pb::AuthRoleAddRequest {
        name: "root".into(),
    };
    auth.role_add(role).await.unwrap();
    let grant = pb::AuthUserGrantRoleRequest {
        user: "root".into(),
        role: "root".into(),
    };
    auth.user_grant_role(grant).await.unwrap();
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    let error = client.kv().range(range.clone()).await.unwrap_err();
    assert_eq!(describe(&error), "etcdserver: user name is empty");
    let error = client.authenticate("root", "no").await.unwrap_err();
    assert_eq!(
        describe(&error),
        "etcdserver: authentication failed, invalid user ID or password"
    );
    client.authenticate("root", "pw").await.unwrap();
    client.kv().range(range.clone()).await.unwrap();
    // A client for one endpoint inherits the token.
    let same = client.at(&member.endpoint).unwrap();
    same.kv().range(range).await.unwrap();
}
