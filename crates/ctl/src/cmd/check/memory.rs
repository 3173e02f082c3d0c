//! A member's memory, from its `/metrics`.

use crate::metrics;

const METRIC: &str = "process_resident_memory_bytes";

/// The memory of the process behind an endpoint, in bytes.
///
/// # Errors
/// What went wrong, in a line for the user.
pub async fn resident_bytes(endpoint: &str) -> Result<f64, String> {
    find(&metrics::page(endpoint).await?)
}

fn find(page: &str) -> Result<f64, String> {
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(METRIC))
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| format!("could not find: {METRIC}"))?;
    value
        .parse()
        .map_err(|_| format!("parse error: {value:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn the_metric_among_others() {
        let page = "# HELP process_resident_memory_bytes Resident memory\n\
                    process_open_fds 7\nprocess_resident_memory_bytes 2.5e+07\n";
        assert_eq!(find(page), Ok(2.5e7));
        assert!(find("x 1\n").is_err());
        assert!(find("process_resident_memory_bytes many\n").is_err());
    }
}
