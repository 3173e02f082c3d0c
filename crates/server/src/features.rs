//! `--feature-gates`: the one table of what can be switched, and what of it is on.

use std::collections::BTreeMap;

/// How mature the original holds a feature to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Off unless asked for.
    Alpha,
    /// On unless refused.
    Beta,
}

impl Stage {
    /// As the original writes it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
        }
    }
}

/// A feature that can be switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Every alpha feature that is not named itself.
    AllAlpha,
    /// Every beta feature that is not named itself.
    AllBeta,
    /// The leader compares the hashes that compactions leave.
    CompactHashCheck,
    /// A lease that the leader knows is renewed without waiting for what is committed to be applied.
    FastLeaseKeepAlive,
    /// A restarted member compares its data with the others' before it serves.
    InitialCorruptCheck,
    /// The leader writes down what is left of long leases.
    LeaseCheckpoint,
    /// That is kept in the database whatever the cluster's version.
    LeaseCheckpointPersist,
    /// What makes room is taken under overload.
    PriorityRequest,
    /// Connections to members come from the advertised address.
    SetMemberLocalAddr,
    /// The health service says that nothing is served while the database is defragmented.
    StopGRPCServiceOnDefrag,
    /// A matter of the original's transactions; ours have no such buffer.
    TxnModeWriteWithSharedBuffer,
}

/// One row of the table.
#[derive(Debug)]
pub struct Spec {
    /// Which.
    pub gate: Feature,
    /// As it is given.
    pub name: &'static str,
    /// Whether it is on when nothing is said.
    pub default: bool,
    /// Its maturity.
    pub stage: Stage,
}

const fn spec(gate: Feature, name: &'static str, default: bool, stage: Stage) -> Spec {
    Spec {
        gate,
        name,
        default,
        stage,
    }
}

/// Every gate, by name.
pub const GATES: &[Spec] = &[
    spec(Feature::AllAlpha, "AllAlpha", false, Stage::Alpha),
    spec(Feature::AllBeta, "AllBeta", false, Stage::Beta),
    spec(
        Feature::CompactHashCheck,
        "CompactHashCheck",
        false,
        Stage::Alpha,
    ),
    spec(
        Feature::FastLeaseKeepAlive,
        "FastLeaseKeepAlive",
        true,
        Stage::Beta,
    ),
    spec(
        Feature::InitialCorruptCheck,
        "InitialCorruptCheck",
        false,
        Stage::Alpha,
    ),
    spec(
        Feature::LeaseCheckpoint,
        "LeaseCheckpoint",
        false,
        Stage::Alpha,
    ),
    spec(
        Feature::LeaseCheckpointPersist,
        "LeaseCheckpointPersist",
        false,
        Stage::Alpha,
    ),
    spec(
        Feature::PriorityRequest,
        "PriorityRequest",
        false,
        Stage::Alpha,
    ),
    spec(
        Feature::SetMemberLocalAddr,
        "SetMemberLocalAddr",
        false,
        Stage::Alpha,
    ),
    spec(
        Feature::StopGRPCServiceOnDefrag,
        "StopGRPCServiceOnDefrag",
        false,
        Stage::Alpha,
    ),
    spec(
        Feature::TxnModeWriteWithSharedBuffer,
        "TxnModeWriteWithSharedBuffer",
        true,
        Stage::Beta,
    ),
];

/// What is on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    given: BTreeMap<Feature, bool>,
}

impl Features {
    /// Reads `A=true,B=false`. The last word on a gate counts.
    ///
    /// # Errors
    /// What is wrong, in the original's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut given = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim()),
                None => return Err(format!("missing bool value for {}", part.trim())),
            };
            let on = crate::flags::parse_bool(value).ok_or_else(|| {
                format!(
                    "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
                )
            })?;
            let spec = GATES
                .iter()
                .find(|spec| spec.name == name)
                .ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
            given.insert(spec.gate, on);
        }
        Ok(Features { given })
    }

    /// Whether a gate was named.
    pub fn is_given(&self, gate: Feature) -> bool {
        self.given.contains_key(&gate)
    }

    /// Whether a gate is on: by its own name, or by that of its stage, or by default.
    pub fn enabled(&self, gate: Feature) -> bool {
        let Some(spec) = GATES.iter().find(|spec| spec.gate == gate) else {
            return false;
        };
        let all = match spec.stage {
            Stage::Alpha => Feature::AllAlpha,
            Stage::Beta => Feature::AllBeta,
        };
        [gate, all]
            .iter()
            .find_map(|gate| self.given.get(gate).copied())
            .unwrap_or(spec.default)
    }
}

/// A line of help for each gate.
pub fn known() -> Vec<String> {
    GATES
        .iter()
        .map(|spec| {
            let Spec {
                name,
                default,
                stage,
                ..
            } = spec;
            format!("{name}=true|false ({} - default={default})", stage.name())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(text: &str) -> Vec<&'static str> {
        let features = Features::parse(text).expect("valid");
        GATES
            .iter()
            .filter(|spec| features.enabled(spec.gate))
            .map(|spec| spec.name)
            .collect()
    }

    #[test]
    fn gates_are_on_by_name_by_stage_and_by_default() {
        let beta = ["FastLeaseKeepAlive", "TxnModeWriteWithSharedBuffer"];
        assert_eq!(on(""), beta);
        assert_eq!(on("AllBeta=false"), [""; 0]);
        assert_eq!(on("AllBeta=0,FastLeaseKeepAlive=1"), ["FastLeaseKeepAlive"]);
        assert_eq!(
            on("LeaseCheckpoint=true, TxnModeWriteWithSharedBuffer = f"),
            ["FastLeaseKeepAlive", "LeaseCheckpoint"]
        );
        let all = on("AllAlpha=true,PriorityRequest=false");
        assert_eq!(all.len(), GATES.len() - 2, "{all:?}");
        assert!(!all.contains(&"PriorityRequest"));
    }

    #[test]
    fn mistakes_are_told_in_the_originals_words() {
        let refused = |text| Features::parse(text).expect_err("refused");
        assert_eq!(refused("X=true"), "unrecognized feature gate: X");
        assert_eq!(
            refused("LeaseCheckpoint"),
            "missing bool value for LeaseCheckpoint"
        );
        assert_eq!(
            refused("LeaseCheckpoint=maybe"),
            "invalid value of LeaseCheckpoint=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax"
        );
    }

    #[test]
    fn the_table_is_in_order_and_the_help_is_the_originals() {
        assert!(GATES.is_sorted_by_key(|spec| spec.name));
        assert!(
            known().contains(&"InitialCorruptCheck=true|false (ALPHA - default=false)".to_owned())
        );
    }
}
