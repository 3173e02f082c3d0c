//! Versions, and a cluster-wide downgrade under way.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A version `major.minor.patch`. A pre-release or build part is accepted and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Incompatible generations.
    pub major: u64,
    /// Feature releases; a cluster's version has no more than these two.
    pub minor: u64,
    /// Fixes.
    pub patch: u64,
}

impl Version {
    /// A version.
    pub const fn new(major: u64, minor: u64, patch: u64) -> Version {
        Version {
            major,
            minor,
            patch,
        }
    }

    /// The version with patch 0, as a cluster's version is.
    pub const fn without_patch(self) -> Version {
        Version { patch: 0, ..self }
    }

    /// The one version below to which a cluster of this version may be downgraded.
    pub const fn downgrade_target(self) -> Option<Version> {
        match self.minor.checked_sub(1) {
            Some(minor) => Some(Version {
                major: self.major,
                minor,
                patch: 0,
            }),
            None => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Version, Error> {
        let bad = || Error::BadVersion(text.to_owned());
        let core = text.split(['-', '+']).next().unwrap_or_default();
        let mut numbers = core.split('.').map(|part| {
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(bad());
            }
            part.parse::<u64>().map_err(|_| bad())
        });
        let mut next = || numbers.next().unwrap_or_else(|| Err(bad()));
        let version = Version {
            major: next()?,
            minor: next()?,
            patch: next()?,
        };
        if numbers.next().is_some() {
            Err(bad())
        } else {
            Ok(version)
        }
    }
}

/// Whether the cluster is being taken down to an older version, and to which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DowngradeInfo {
    /// The target; empty when none is under way.
    #[serde(rename = "target-version", default)]
    pub target_version: String,
    /// Whether a downgrade is under way.
    #[serde(default)]
    pub enabled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_parse_and_print() {
        let parse = |text: &str| text.parse::<Version>();
        assert_eq!(parse("3.7.1"), Ok(Version::new(3, 7, 1)));
        assert_eq!(parse("3.5.0-alpha.0+git"), Ok(Version::new(3, 5, 0)));
        assert_eq!(Version::new(3, 10, 0).to_string(), "3.10.0");
        assert!(Version::new(3, 10, 0) > Version::new(3, 9, 7));
        assert_eq!(
            Version::new(3, 7, 1).downgrade_target(),
            Some(Version::new(3, 6, 0))
        );
        for bad in [
            "", "3", "3.7", "3.7.x", "3.7.1.0", "v3.7.1", "3..1", "-1.0.0",
        ] {
            assert_eq!(parse(bad), Err(Error::BadVersion(bad.into())), "{bad}");
        }
    }
}
