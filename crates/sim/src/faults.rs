//! What goes wrong, and how.

use ferrite_wal::fs::Fs;

use crate::plan::Fault;
use crate::world::{Event, World};

/// What the disk says when it fails to read.
const READ_FAILURE: &str = "injected failure to read";

impl World {
    pub(crate) fn fault(&mut self) {
        if self.calm_since.is_some() {
            return;
        }
        let next = self.rng.range(1_000, self.plan.fault_every_us * 2);
        self.after(next, Event::Fault);
        let members = self.members.len();
        let place = self.rng.below(members);
        let running = self.members[place].running.is_some();
        match self.plan.fault(&mut self.rng) {
            Fault::Kill if running => self.crash_as(place, false),
            Fault::PowerCut if running => self.crash_as(place, true),
            Fault::CrashAtEffect if running => {
                let effects = self.rng.range(1, 60);
                self.members[place].armed.effects = Some(effects);
                self.stats.count("crashes at an effect, armed");
            }
            Fault::CrashAtWrite if running => {
                let operations = self.rng.range(0, 60);
                self.members[place].disk.fail_after(Some(operations));
                self.members[place].armed.writes = true;
                self.stats.count("I/O errors armed");
            }
            Fault::Blackout => {
                self.stats.count("blackouts");
                for place in 0..members {
                    if self.members[place].running.is_some() {
                        self.crash_as(place, true);
                    }
                }
            }
            Fault::Partition => self.partition(),
            Fault::OneWay if members > 1 => {
                self.stats.count("one-way cuts");
                let other = (place + 1 + self.rng.below(members - 1)) % members;
                self.cut[place][other] = true;
            }
            Fault::Partial if members > 1 => {
                self.stats.count("partial partitions");
                for one in 0..members {
                    for other in 0..one {
                        if self.rng.per_mille(350) {
                            self.cut[one][other] = true;
                            self.cut[other][one] = true;
                        }
                    }
                }
            }
            Fault::SlowLink if members > 1 => {
                self.stats.count("slow links");
                let other = (place + 1 + self.rng.below(members - 1)) % members;
                self.slow[place][other] = self.rng.range(5, 60);
            }
            Fault::Heal => {
                self.cut = Default::default();
                self.slow = [[1; crate::world::MEMBERS_MAX]; crate::world::MEMBERS_MAX];
            }
            Fault::Pause if running => {
                self.stats.count("pauses");
                self.members[place].paused_until = self.now + self.rng.range(100_000, 4_000_000);
            }
            Fault::Jump if running && self.plan.drift > 0 => {
                self.stats.count("clocks that leapt");
                let (now, us) = (self.now, self.rng.range(50_000, 4_000_000));
                self.members[place].clock.leap(now, us);
            }
            Fault::FullDisk if running => {
                self.stats.count("full disks");
                let room = self.rng.range(0, 40_000);
                self.members[place].disk.leave_room(Some(room));
                self.members[place].full = true;
                let lasts = self.rng.range(300_000, 4_000_000);
                self.after(lasts, Event::Room(place));
            }
            Fault::BadReads if running => {
                self.stats.count("read errors armed");
                self.fail_reads(place, 300);
            }
            Fault::FlipLog if running => self.flip(place, true),
            Fault::FlipDatabase if running => self.flip(place, false),
            _ => {}
        }
    }

    /// A member's disk fails to read a few times, after up to so many reads that it does.
    pub(crate) fn fail_reads(&mut self, place: usize, after_max: u64) {
        let (after, fail) = (self.rng.range(0, after_max), self.rng.range(1, 4));
        self.members[place].disk.fail_reads(Some((after, fail)));
        self.members[place].armed.reads = true;
    }

    /// Whether this is what came of it: that the disk could not be read is told as it is, and passes for nothing else.
    pub(crate) fn is_read_failure(&self, place: usize, reason: &str) -> bool {
        self.members[place].armed.reads && reason.contains(READ_FAILURE)
    }

    /// The network falls in two.
    fn partition(&mut self) {
        self.stats.count("partitions");
        let members = self.members.len();
        let mut side: Vec<bool> = (0..members).map(|_| self.rng.per_mille(400)).collect();
        let one = self.rng.below(members);
        side[one] = true;
        for from in 0..members {
            for to in 0..members {
                self.cut[from][to] |= side[from] != side[to];
            }
        }
    }

    /// A member is killed, and a bit flips on its disk: in the content of a record of its log, or in the newest
    /// header of its database. Both have checksums; pages of the database have none, in the format that is etcd's.
    fn flip(&mut self, place: usize, log: bool) {
        // It may cost the member its data: the others must be able to go on without it, and nobody else is
        // taken from them meanwhile.
        let voters = self.model.members().values().filter(|learner| !**learner);
        let lost = self.members.iter().any(|member| {
            member.flipped || (member.gone && self.model.members().contains_key(&member.id))
        });
        if self.plan.reconfigures || voters.count() < 3 || lost || self.members[place].armed.writes
        {
            return;
        }
        self.crash_as(place, false);
        let member = &mut self.members[place];
        let done = if log {
            let folder = member.config.wal_dir();
            let names = member.disk.list(&folder).unwrap_or_default();
            let segments: Vec<&String> =
                names.iter().filter(|name| name.ends_with(".wal")).collect();
            let Some(name) = segments.get(self.rng.below(segments.len().max(1))) else {
                return;
            };
            let path = folder.join(name);
            let content = member.disk.content(&path).unwrap_or_default();
            let records = payloads(&content);
            let Some((at, len)) = records.get(self.rng.below(records.len().max(1))) else {
                return;
            };
            let offset = at + self.rng.range(0, *len);
            let bit = self.rng.range(0, 8) as u8;
            member.disk.flip(&path, offset, bit)
        } else {
            let path = member.config.database();
            let page = self.rng.range(0, 2) * 4096;
            let offset = page + 16 + self.rng.range(0, 64);
            let bit = self.rng.range(0, 8) as u8;
            member.disk.flip(&path, offset, bit)
        };
        if done {
            self.members[place].flipped = true;
            self.stats.count(if log {
                "bits flipped in a log"
            } else {
                "bits flipped in a database header"
            });
        }
    }
}

/// Where the checksummed content of each record of a segment lies, and how long it is: the second half of a
/// record is all content.
fn payloads(segment: &[u8]) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(Ok(field)) = segment.get(at..at + 8).map(<[u8; 8]>::try_from) {
        let field = u64::from_le_bytes(field);
        let len = field & 0x00ff_ffff_ffff_ffff;
        let padding = match field >> 63 {
            1 => (field >> 56) & 7,
            _ => 0,
        };
        if field == 0 || at as u64 + 8 + len + padding > segment.len() as u64 {
            break;
        }
        if len >= 40 {
            found.push((at as u64 + 8 + len - len / 2, len / 2));
        }
        at += 8 + (len + padding) as usize;
    }
    found
}
