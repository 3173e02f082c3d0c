//! The binary form of a page: `io.prometheus.client.MetricFamily`, each after its length.

use prost::Message;

use crate::page::{Kind, Page, Sample, Value};

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

/// A counter or a gauge: they look the same on the wire.
#[derive(Clone, Copy, PartialEq, Message)]
struct Number {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Quantile {
    #[prost(double, optional, tag = "1")]
    quantile: Option<f64>,
    #[prost(double, optional, tag = "2")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    quantile: Vec<Quantile>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Number>,
    #[prost(message, optional, tag = "4")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

fn metric(kind: Kind, sample: &Sample) -> Metric {
    let label = sample.labels.iter().map(|(name, value)| LabelPair {
        name: Some((*name).to_owned()),
        value: Some(value.clone()),
    });
    let mut metric = Metric {
        label: label.collect(),
        ..Metric::default()
    };
    match &sample.value {
        Value::Number(value) => {
            let number = Some(Number {
                value: Some(*value),
            });
            match kind {
                Kind::Counter => metric.counter = number,
                _ => metric.gauge = number,
            }
        }
        Value::Histogram(seen) => {
            let bucket = seen.buckets.iter().map(|(bound, count)| Bucket {
                cumulative_count: Some(*count),
                upper_bound: Some(*bound),
            });
            metric.histogram = Some(Histogram {
                sample_count: Some(seen.count),
                sample_sum: Some(seen.sum),
                bucket: bucket.collect(),
            });
        }
        Value::Summary(quantiles, sum, count) => {
            let quantile = quantiles.iter().map(|(quantile, value)| Quantile {
                quantile: Some(*quantile),
                value: Some(*value),
            });
            metric.summary = Some(Summary {
                sample_count: Some(*count),
                sample_sum: Some(*sum),
                quantile: quantile.collect(),
            });
        }
    }
    metric
}

/// All families, by name.
pub(crate) fn encode(page: &Page) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 << 10);
    for (family, samples) in page.sorted() {
        let message = MetricFamily {
            name: Some(family.name.to_owned()),
            help: Some(family.help.to_owned()),
            kind: Some(match family.kind {
                Kind::Counter => 0,
                Kind::Gauge => 1,
                Kind::Summary => 2,
                Kind::Histogram => 4,
            }),
            metric: samples
                .into_iter()
                .map(|sample| metric(family.kind, sample))
                .collect(),
        };
        out.extend(message.encode_length_delimited_to_vec());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells;
    use crate::page::Family;

    #[test]
    fn a_family_is_a_message_after_its_length() {
        let family = Family {
            name: "n",
            help: "h",
            kind: Kind::Gauge,
        };
        let mut page = Page::new();
        page.number(&family, &[("l", "v".into())], 2.0);
        let bytes = page.protobuf();
        let expected = [
            29, // the length
            10, 1, b'n', 18, 1, b'h', 24, 1, // name, help, a gauge
            34, 19, // a metric
            10, 6, 10, 1, b'l', 18, 1, b'v', // its label
            18, 9, 9, 0, 0, 0, 0, 0, 0, 0, 64, // 2.0
        ];
        assert_eq!(bytes[..20], expected[..20]);
        let back = MetricFamily::decode_length_delimited(&bytes[..]).expect("it decodes");
        assert_eq!(
            back.metric[0].gauge,
            Some(Number { value: Some(2.0) }),
            "{back:?}"
        );
        let histogram = cells::Histogram::numbers(1, 2);
        histogram.observe_number(3);
        let mut page = Page::new();
        let kind = Kind::Histogram;
        page.histogram(&Family { kind, ..family }, &[], &histogram);
        let back = MetricFamily::decode_length_delimited(&page.protobuf()[..]).expect("it decodes");
        let found = back.metric[0].histogram.clone().expect("a histogram");
        assert_eq!((found.sample_count, found.sample_sum), (Some(1), Some(3.0)));
        assert_eq!(found.bucket.len(), 2);
    }
}
