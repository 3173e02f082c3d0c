//! Distributed tracing: what is wanted of it.

use crate::flags::Values;

/// Rates are given in spans of a million.
const MILLION: i64 = 1_000_000;

/// Where spans go, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` of the collector.
    pub address: String,
    /// Name of the service.
    pub service: String,
    /// Name of this member; empty for none.
    pub instance: String,
    /// Of a million requests that nobody has decided about, how many are traced.
    pub rate_per_million: u32,
}

impl Settings {
    /// Reads the flags; `None` where tracing is off.
    ///
    /// # Errors
    /// In the original's words, its spelling included.
    pub fn read(values: &Values) -> Result<Option<Self>, String> {
        if !values.bool("enable-distributed-tracing") {
            return Ok(None);
        }
        let invalid =
            |why: &str| format!("distributed tracing configurition is not valid: ({why})");
        let rate = values.signed("distributed-tracing-sampling-rate");
        if rate < 0 {
            return Err(invalid("tracing sampling rate must be positive"));
        }
        if rate > MILLION {
            return Err(invalid("tracing sampling rate must be less than 1000000"));
        }
        Ok(Some(Settings {
            address: values.text("distributed-tracing-address").to_owned(),
            service: values.text("distributed-tracing-service-name").to_owned(),
            instance: values.text("distributed-tracing-instance-id").to_owned(),
            rate_per_million: u32::try_from(rate).unwrap_or(0),
        }))
    }
}
