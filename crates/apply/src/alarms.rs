//! Alarms: which member raised what.

use std::collections::BTreeSet;

use ferrite_mvcc::schema::Bucket;
use ferrite_mvcc::{Backend, ReadError};
use ferrite_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, alarm_request::AlarmAction,
};
use prost::Message;

/// One raised alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberAlarm {
    /// The kind, by its number.
    pub kind: i32,
    /// Who raised it.
    pub member: u64,
}

impl MemberAlarm {
    fn to_proto(self) -> AlarmMember {
        AlarmMember {
            member_id: self.member,
            alarm: self.kind,
        }
    }
}

/// The set of raised alarms, kept equal to the `alarm` bucket.
#[derive(Debug, Default, Clone)]
pub struct Alarms {
    raised: BTreeSet<MemberAlarm>,
}

impl Alarms {
    /// Reads the bucket. Keys that are no alarm are passed over, as the original does.
    ///
    /// # Errors
    /// A damaged database file.
    pub fn load(backend: &Backend) -> Result<Self, ReadError> {
        let mut raised = BTreeSet::new();
        backend
            .view()
            .scan(Bucket::Alarm, &[], None, &mut |key, _| {
                if let Ok(alarm) = AlarmMember::decode(key) {
                    raised.insert(MemberAlarm {
                        kind: alarm.alarm,
                        member: alarm.member_id,
                    });
                }
                std::ops::ControlFlow::Continue(())
            })?;
        Ok(Alarms { raised })
    }

    /// Whether any member raised an alarm of this kind.
    pub fn is_raised(&self, kind: AlarmType) -> bool {
        self.raised.iter().any(|alarm| alarm.kind == kind as i32)
    }

    /// The alarms of one kind; of all kinds for `None`.
    pub fn list(&self, kind: AlarmType) -> Vec<AlarmMember> {
        self.raised
            .iter()
            .filter(|alarm| kind == AlarmType::None || alarm.kind == kind as i32)
            .map(|alarm| alarm.to_proto())
            .collect()
    }

    /// Applies an alarm request and returns the alarms it answers with.
    pub fn apply(&mut self, request: &AlarmRequest, backend: &Backend) -> Vec<AlarmMember> {
        let alarm = MemberAlarm {
            kind: request.alarm,
            member: request.member_id,
        };
        match request.action() {
            AlarmAction::Get => self.list(request.alarm()),
            AlarmAction::Activate => {
                if request.alarm() == AlarmType::None {
                    return Vec::new();
                }
                if self.raised.insert(alarm) {
                    backend.put(Bucket::Alarm, &alarm.to_proto().encode_to_vec(), &[]);
                }
                vec![alarm.to_proto()]
            }
            AlarmAction::Deactivate => {
                if !self.raised.remove(&alarm) {
                    return Vec::new();
                }
                backend.delete(Bucket::Alarm, &alarm.to_proto().encode_to_vec());
                vec![alarm.to_proto()]
            }
        }
    }
}
