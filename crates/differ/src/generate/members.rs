//! Changes of the membership that leave one voter: learners that never start, and what is refused.

use ferrite_client::pb;

use super::Maker;
use crate::step::{Call, INVENTED, Step, Whom};

impl Maker {
    pub(super) fn membership(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..self.rng.between(5, 14) {
            let call = match self.rng.weighted(&[70, 15, 15]) {
                0 => self.change_of_members(),
                1 => self.about_the_member(),
                _ => self.kv(),
            };
            steps.push(self.by_anyone(call));
        }
        // At most one learner is allowed, so what is left over would be in the way.
        for url in std::mem::take(&mut self.urls) {
            steps.push(self.by_anyone(Call::MemberRemove(Whom::At(url))));
        }
        let list = Call::Members(pb::MemberListRequest { linearizable: true });
        steps.push(self.by_anyone(list));
        self.tidy(&mut steps);
        steps
    }

    pub(super) fn change_of_members(&mut self) -> Call {
        match self.rng.weighted(&[32, 10, 14, 12, 14, 6, 3]) {
            0 => {
                let mut peer_urls = vec![self.new_url()];
                if self.rng.percent(25) {
                    peer_urls.insert(self.rng.below(2), self.new_url());
                }
                if self.rng.percent(25) {
                    // A new one beside it makes another ID of it whatever the second.
                    peer_urls.push(self.old_url());
                }
                Call::MemberAdd(pb::MemberAddRequest {
                    peer_urls,
                    is_learner: true,
                })
            }
            1 => {
                let texts = [
                    "",
                    "nonsense",
                    "http://127.0.0.1",
                    "http://127.0.0.1:9/path",
                    "ftp://127.0.0.1:9",
                    "http://127.0.0.1:x",
                    "127.0.0.1:9",
                    "http://:9",
                    "http:///",
                    " http://127.0.0.1:9",
                ];
                let bad = self.rng.pick(&texts).to_owned();
                Call::MemberAdd(pb::MemberAddRequest {
                    peer_urls: match self.rng.below(4) {
                        0 => Vec::new(),
                        1 => vec![self.new_url(), bad],
                        _ => vec![bad],
                    },
                    is_learner: true,
                })
            }
            2 => Call::MemberRemove(self.whom()),
            3 => {
                // A learner that is updated counts as a voter in 3.5.1's list from then on (CL-06).
                let whom = match self.whom() {
                    Whom::At(_) => Whom::Own,
                    other => other,
                };
                let peer_urls = match &whom {
                    // A known member with URLs that are none ends 3.5.1.
                    Whom::Id(_) if self.rng.percent(50) => {
                        vec![self.rng.pick(&["nonsense", ""]).to_owned()]
                    }
                    _ if self.rng.percent(30) => vec![self.old_url()],
                    _ => vec![self.new_url()],
                };
                Call::MemberUpdate { whom, peer_urls }
            }
            4 => Call::MemberPromote(self.whom()),
            5 => Call::MoveLeader(self.whom()),
            _ => Call::Defragment,
        }
    }

    fn whom(&mut self) -> Whom {
        match self.rng.weighted(&[60, 20, 20]) {
            0 => Whom::At(self.old_url()),
            1 => Whom::Own,
            _ => Whom::Id(self.rng.pick(&[0, 404, u64::MAX])),
        }
    }

    /// A URL that no member has had.
    fn new_url(&mut self) -> String {
        let number = self.sequence * 64 + self.invented;
        self.invented = (self.invented + 1) % 64;
        let [_, _, _, _, _, a, b, c] = number.to_be_bytes();
        let url = format!("http://127.{}.{b}.{c}{INVENTED}", 100 + a % 100);
        self.urls.push(url.clone());
        url
    }

    /// One that a member may have.
    fn old_url(&mut self) -> String {
        let urls = self.urls.clone();
        match urls.is_empty() {
            true => self.new_url(),
            false => self.rng.pick(&urls),
        }
    }
}
