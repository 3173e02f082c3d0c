//! Users, roles, permissions, and requests by clients who have them or not.

use ferrite_client::pb;
use ferrite_client::pb::request_op::Request;
use ferrite_proto::authpb::{Permission, UserAddOptions};

use super::Maker;
use super::watch::STREAMS;
use crate::step::{CLIENTS, Call, ROOT, ROOT_PASSWORD, Step, Token};

const USERS: [&str; 4] = ["alice", "bob", "carol", "nobody"];
const ROLES: [&str; 4] = ["r1", "r2", "r3", "none"];

/// Root, alice and bob ask for their tokens.
fn logins() -> impl Iterator<Item = Step> {
    [(ROOT, "root"), (0, "alice"), (1, "bob")]
        .into_iter()
        .map(|(client, name)| {
            let password = match client {
                ROOT => ROOT_PASSWORD,
                _ => name,
            };
            Step {
                client,
                call: Call::Authenticate(pb::AuthenticateRequest {
                    name: name.to_owned(),
                    password: password.to_owned(),
                }),
            }
        })
}

impl Maker {
    /// Some administration with authentication off, then on, then whatever the clients try.
    pub(super) fn auth(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..self.rng.between(2, 8) {
            let call = self.administration();
            steps.push(self.by_anyone(call));
        }
        let named = |name: &str| name.to_owned();
        let mut all = vec![
            Call::UserAdd(pb::AuthUserAddRequest {
                name: named("root"),
                password: named(ROOT_PASSWORD),
                ..Default::default()
            }),
            Call::UserGrantRole(pb::AuthUserGrantRoleRequest {
                user: named("root"),
                role: named("root"),
            }),
        ];
        for (user, role) in [("alice", "r1"), ("bob", "r2")] {
            all.push(Call::UserAdd(pb::AuthUserAddRequest {
                name: named(user),
                password: named(user),
                ..Default::default()
            }));
            all.push(Call::RoleAdd(pb::AuthRoleAddRequest { name: named(role) }));
            for _ in 0..self.rng.between(0, 2) {
                all.push(Call::RoleGrantPermission(
                    pb::AuthRoleGrantPermissionRequest {
                        name: named(role),
                        perm: Some(self.permission()),
                    },
                ));
            }
            all.push(Call::UserGrantRole(pb::AuthUserGrantRoleRequest {
                user: named(user),
                role: named(role),
            }));
        }
        all.push(Call::AuthEnable);
        steps.extend(all.into_iter().map(|call| Step { client: ROOT, call }));
        steps.extend(logins());
        for _ in 0..self.rng.between(8, 24) {
            let client = self.rng.below(CLIENTS);
            let call = match self
                .rng
                .weighted(&[44, 12, 18, 8, 6, 4, 6, 3, 2, 1, 1, 1, 2])
            {
                0 => self.flat_kv(),
                1 => self.lease(),
                2 => self.administration(),
                // Root stays root, so that what follows can rely on it.
                3 if client != ROOT => Call::Token(self.token()),
                4 if client != ROOT => self.login(),
                5 => self.about_the_member(),
                6 => self.permitted_watch(),
                7 => self.compact(),
                8 => Call::HashKv(pb::HashKvRequest { revision: 0 }),
                9 if client != ROOT => self.change_of_members(),
                10 => Call::FromTheFuture(self.range()),
                11 => {
                    self.interlude(&mut steps);
                    continue;
                }
                _ => Call::AuthStatus,
            };
            let mut call = call;
            forwards(&mut call);
            // 3.5.1 lets strangers grant and revoke, 3.7 does not, and leases would differ (LE-12).
            // And it lets them compact (KV-26).
            let client = match call {
                Call::Grant(_) | Call::GrantForAMoment(_) | Call::Revoke(_) | Call::Compact(_) => {
                    ROOT
                }
                _ => client,
            };
            steps.push(Step { client, call });
        }
        for id in std::mem::take(&mut self.leases) {
            steps.push(Step {
                client: ROOT,
                call: Call::Revoke(pb::LeaseRevokeRequest { id }),
            });
        }
        steps
    }

    /// Authentication goes off and on again. 3.5.1 refuses what carries a token that is no longer good
    /// even then (AU-14), so tokens go too, and streams that were opened with one.
    fn interlude(&mut self, steps: &mut Vec<Step>) {
        let mut by_root = vec![Call::AuthDisable];
        by_root.extend((0..STREAMS).map(|stream| Call::CloseStream { stream }));
        steps.extend(by_root.into_iter().map(|call| Step { client: ROOT, call }));
        let without = |client| Step {
            client,
            call: Call::Token(Token::None),
        };
        steps.extend((0..CLIENTS).map(without));
        for _ in 0..self.rng.between(0, 4) {
            let call = match self.rng.percent(50) {
                true => self.flat_kv(),
                // Root stays root, or authentication would stay off.
                false => loop {
                    let call = self.administration();
                    if !format!("{call:?}").contains("\"root\"") {
                        break call;
                    }
                },
            };
            steps.push(self.by_anyone(call));
        }
        steps.push(Step {
            client: ROOT,
            call: Call::AuthEnable,
        });
        steps.extend(logins());
    }

    /// Not up to the open end, for which 3.5.1 takes any permission that begins there (KB-17).
    fn permitted_watch(&mut self) -> Call {
        let mut call = self.watch();
        if let Call::Watch { create, .. } = &mut call
            && create.range_end[..] == [0]
        {
            create.range_end.clear();
        }
        call
    }

    fn token(&mut self) -> Token {
        match self.rng.below(5) {
            0 => Token::None,
            1 | 2 => Token::Own,
            3 => Token::Of(self.rng.below(CLIENTS)),
            // Indexes that the servers have long reached: with later ones they wait.
            _ => Token::Text(
                self.rng
                    .pick(&["nonsense", "a.b.c", "", "abcdefghijklmnop.1", ".", "x.-1"])
                    .to_owned(),
            ),
        }
    }

    fn login(&mut self) -> Call {
        let name = self.user();
        let password = match self.rng.percent(75) {
            true => name.clone(),
            false => self.rng.pick(&["wrong", ""]).to_owned(),
        };
        Call::Authenticate(pb::AuthenticateRequest { name, password })
    }

    fn user(&mut self) -> String {
        match self.rng.percent(3) {
            true => String::new(),
            false => self.rng.pick(&USERS).to_owned(),
        }
    }

    fn user_or_root(&mut self) -> String {
        match self.rng.percent(10) {
            true => "root".to_owned(),
            false => self.user(),
        }
    }

    fn role(&mut self) -> String {
        match self.rng.weighted(&[3, 7, 90]) {
            0 => String::new(),
            1 => "root".to_owned(),
            _ => self.rng.pick(&ROLES).to_owned(),
        }
    }

    fn permission(&mut self) -> Permission {
        // 3.5.1 takes ranges that 3.7 refuses, and would go on with them (AU-08).
        let (key, range_end) = loop {
            let (key, end) = self.range_of_keys();
            if !key.is_empty() && (end.is_empty() || end[..] == [0] || end > key) {
                break (key, end);
            }
        };
        Permission {
            perm_type: self.rng.pick(&[0, 1, 2, 2]),
            key,
            range_end,
        }
    }

    fn administration(&mut self) -> Call {
        match self
            .rng
            .weighted(&[8, 10, 8, 10, 6, 5, 5, 8, 6, 7, 5, 12, 6, 2, 2])
        {
            0 => {
                let name = self.user();
                Call::UserAdd(pb::AuthUserAddRequest {
                    password: match self.rng.percent(90) {
                        true => name.clone(),
                        false => String::new(),
                    },
                    name,
                    options: self.rng.percent(15).then(|| UserAddOptions {
                        no_password: self.rng.percent(70),
                    }),
                    ..Default::default()
                })
            }
            1 => Call::UserGet(pb::AuthUserGetRequest {
                name: self.user_or_root(),
            }),
            2 => {
                // Root keeps its password: the way back is through it.
                let name = self.user();
                Call::UserChangePassword(pb::AuthUserChangePasswordRequest {
                    password: name.clone(),
                    name,
                    ..Default::default()
                })
            }
            3 => Call::UserGrantRole(pb::AuthUserGrantRoleRequest {
                user: self.user_or_root(),
                role: self.role(),
            }),
            4 => Call::UserRevokeRole(pb::AuthUserRevokeRoleRequest {
                name: self.user_or_root(),
                role: self.role(),
            }),
            5 => Call::UserList,
            6 => Call::RoleList,
            7 => Call::RoleAdd(pb::AuthRoleAddRequest { name: self.role() }),
            8 => Call::RoleGet(pb::AuthRoleGetRequest { role: self.role() }),
            9 => Call::UserDelete(pb::AuthUserDeleteRequest {
                name: self.user_or_root(),
            }),
            10 => Call::RoleDelete(pb::AuthRoleDeleteRequest { role: self.role() }),
            11 => Call::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest {
                name: self.role(),
                perm: match self.rng.percent(95) {
                    true => Some(self.permission()),
                    false => None,
                },
            }),
            12 => {
                let (key, range_end) = self.range_of_keys();
                Call::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest {
                    role: self.role(),
                    key,
                    range_end,
                })
            }
            13 => Call::AuthStatus,
            _ => Call::AuthEnable,
        }
    }
}

/// Ranges that end before they begin name no key. Whether etcd permits one depends on how its tree of
/// grants happens to stand (AU-20), so they become single keys here.
fn forwards(call: &mut Call) {
    match call {
        Call::Range(range) | Call::Streamed(range) | Call::FromTheFuture(range) => {
            forward(&range.key, &mut range.range_end);
        }
        Call::DeleteRange(delete) => forward(&delete.key, &mut delete.range_end),
        Call::Watch { create, .. } => forward(&create.key, &mut create.range_end),
        Call::Txn(txn) => {
            for compare in &mut txn.compare {
                forward(&compare.key, &mut compare.range_end);
            }
            for op in txn.success.iter_mut().chain(&mut txn.failure) {
                match &mut op.request {
                    Some(Request::RequestRange(range)) => {
                        forward(&range.key, &mut range.range_end);
                    }
                    Some(Request::RequestDeleteRange(delete)) => {
                        forward(&delete.key, &mut delete.range_end);
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn forward(key: &[u8], range_end: &mut bytes::Bytes) {
    if range_end[..] != [0] && range_end[..] <= *key {
        range_end.clear();
    }
}
