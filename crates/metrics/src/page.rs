//! What was counted, gathered at one moment, and the two forms in which Prometheus takes it.
//!
//! The text is byte for byte what the original's library makes of the same figures: families by name, samples by
//! their labels' values, numbers as Go prints them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cells::{Histogram, Rare, Snapshot};

/// What a figure does in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets.
    Histogram,
    /// Quantiles of what passed.
    Summary,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
        }
    }
}

/// A name and what is said about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// One line about it.
    pub help: &'static str,
    /// What it is.
    pub kind: Kind,
}

/// A label's name and its value.
pub type Label<'a> = (&'static str, Cow<'a, str>);

/// A figure, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Number(f64),
    Histogram(Snapshot),
    /// Quantile and value, the sum, the count.
    Summary(Vec<(f64, f64)>, f64, u64),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// By name.
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) value: Value,
}

/// All figures at one moment.
#[derive(Debug, Default)]
pub struct Page {
    pub(crate) families: BTreeMap<&'static str, (Family, Vec<Sample>)>,
}

impl Page {
    /// Nothing yet.
    pub fn new() -> Self {
        Page::default()
    }

    fn add(&mut self, family: &Family, labels: &[Label<'_>], value: Value) {
        let mut labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| (*name, value.clone().into_owned()))
            .collect();
        labels.sort_unstable_by_key(|(name, _)| *name);
        self.families
            .entry(family.name)
            .or_insert_with(|| (*family, Vec::new()))
            .1
            .push(Sample { labels, value });
    }

    /// A counter or gauge.
    pub fn number(&mut self, family: &Family, labels: &[Label<'_>], number: f64) {
        self.add(family, labels, Value::Number(number));
    }

    /// A histogram.
    pub fn histogram(&mut self, family: &Family, labels: &[Label<'_>], histogram: &Histogram) {
        self.snapshot(family, labels, histogram.snapshot());
    }

    /// A histogram that somebody else has kept.
    pub fn snapshot(&mut self, family: &Family, labels: &[Label<'_>], seen: Snapshot) {
        self.add(family, labels, Value::Histogram(seen));
    }

    /// A summary: quantiles, sum and count.
    pub fn summary(&mut self, family: &Family, quantiles: &[(f64, f64)], sum: f64, count: u64) {
        let value = Value::Summary(quantiles.to_vec(), sum, count);
        self.add(family, &[], value);
    }

    /// All samples of what happens seldom.
    pub fn rare(&mut self, family: &Family, names: &[&'static str], rare: &Rare) {
        for (values, sample) in rare.samples() {
            let labels: Vec<Label<'_>> = names
                .iter()
                .copied()
                .zip(values.into_iter().map(Cow::from))
                .collect();
            self.number(family, &labels, sample as f64);
        }
    }

    /// Families by name, samples by their labels' values.
    pub(crate) fn sorted(&self) -> impl Iterator<Item = (&Family, Vec<&Sample>)> {
        self.families.values().map(|(family, samples)| {
            let mut samples: Vec<&Sample> = samples.iter().collect();
            samples.sort_by(|a, b| {
                let values = |sample: &Sample| -> Vec<String> {
                    sample
                        .labels
                        .iter()
                        .map(|(_, value)| value.clone())
                        .collect()
                };
                (a.labels.len(), values(a)).cmp(&(b.labels.len(), values(b)))
            });
            (family, samples)
        })
    }

    /// The text form, version 0.0.4.
    pub fn text(&self) -> String {
        let mut out = String::with_capacity(256 << 10);
        for (family, samples) in self.sorted() {
            let name = family.name;
            out.push_str("# HELP ");
            out.push_str(name);
            out.push(' ');
            escape(&mut out, family.help, false);
            out.push_str("\n# TYPE ");
            out.push_str(name);
            out.push(' ');
            out.push_str(family.kind.name());
            out.push('\n');
            for sample in samples {
                let labels = &sample.labels;
                match &sample.value {
                    Value::Number(number) => line(&mut out, name, "", labels, None, *number),
                    Value::Histogram(seen) => {
                        for (bound, count) in &seen.buckets {
                            let le = Some(("le", *bound));
                            line(&mut out, name, "_bucket", labels, le, *count as f64);
                        }
                        let count = seen.count as f64;
                        let le = Some(("le", f64::INFINITY));
                        line(&mut out, name, "_bucket", labels, le, count);
                        line(&mut out, name, "_sum", labels, None, seen.sum);
                        line(&mut out, name, "_count", labels, None, count);
                    }
                    Value::Summary(quantiles, sum, count) => {
                        for (quantile, value) in quantiles {
                            let at = Some(("quantile", *quantile));
                            line(&mut out, name, "", labels, at, *value);
                        }
                        line(&mut out, name, "_sum", labels, None, *sum);
                        line(&mut out, name, "_count", labels, None, *count as f64);
                    }
                }
            }
        }
        out
    }

    /// The binary form: messages, each after its length.
    pub fn protobuf(&self) -> Vec<u8> {
        crate::proto::encode(self)
    }
}

fn line(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[(&'static str, String)],
    last: Option<(&str, f64)>,
    value: f64,
) {
    out.push_str(name);
    out.push_str(suffix);
    let mut before = '{';
    for (label, value) in labels {
        out.push(before);
        out.push_str(label);
        out.push_str("=\"");
        escape(out, value, true);
        out.push('"');
        before = ',';
    }
    if let Some((label, value)) = last {
        out.push(before);
        out.push_str(label);
        out.push_str("=\"");
        number(out, value);
        out.push('"');
        before = ',';
    }
    if before == ',' {
        out.push('}');
    }
    out.push(' ');
    number(out, value);
    out.push('\n');
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

/// As Go prints the shortest form: powers of ten from a million up and below a ten-thousandth.
pub(crate) fn number(out: &mut String, value: f64) {
    if value.is_nan() {
        out.push_str("NaN");
        return;
    }
    if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
        return;
    }
    let shortest = format!("{value:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    // Writing to a string cannot fail.
    let _written = if (-4..6).contains(&exponent) {
        write!(out, "{value}")
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "{digits}e{sign}{:02}", exponent.abs())
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn numbers_are_printed_as_go_prints_them() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00005, "5e-05"),
            (6.386900000000001e-05, "6.386900000000001e-05"),
            (0.0073477049999999995, "0.0073477049999999995"),
            (123456.0, "123456"),
            (999999.5, "999999.5"),
            (1e6, "1e+06"),
            (2147483648.0, "2.147483648e+09"),
            (1.8446744073709552e19, "1.8446744073709552e+19"),
            (1e-10, "1e-10"),
            (1e100, "1e+100"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            let mut out = String::new();
            number(&mut out, value);
            assert_eq!(out, text);
        }
    }

    const CALLS: Family = Family {
        name: "calls_total",
        help: "Calls, by \\ and\nname.",
        kind: Kind::Counter,
    };
    const TOOK: Family = Family {
        name: "took_seconds",
        help: "How long.",
        kind: Kind::Histogram,
    };

    #[test]
    fn families_come_by_name_and_samples_by_their_labels() {
        let mut page = Page::new();
        let histogram = Histogram::seconds(1_000, 2);
        histogram.observe(Duration::from_micros(1_500));
        page.histogram(&TOOK, &[("b", "x".into())], &histogram);
        page.number(&CALLS, &[("z", "2".into()), ("a", "1\"\\\n".into())], 7.0);
        page.number(&CALLS, &[("z", "1".into()), ("a", "1".into())], 1e6);
        assert_eq!(
            page.text(),
            "# HELP calls_total Calls, by \\\\ and\\nname.\n\
             # TYPE calls_total counter\n\
             calls_total{a=\"1\",z=\"1\"} 1e+06\n\
             calls_total{a=\"1\\\"\\\\\\n\",z=\"2\"} 7\n\
             # HELP took_seconds How long.\n\
             # TYPE took_seconds histogram\n\
             took_seconds_bucket{b=\"x\",le=\"0.001\"} 0\n\
             took_seconds_bucket{b=\"x\",le=\"0.002\"} 1\n\
             took_seconds_bucket{b=\"x\",le=\"+Inf\"} 1\n\
             took_seconds_sum{b=\"x\"} 0.0015\n\
             took_seconds_count{b=\"x\"} 1\n"
        );
    }
}
