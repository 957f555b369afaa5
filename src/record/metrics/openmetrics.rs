//! The OpenMetrics 1.0 text format, for which the `prometheus` crate has no encoder.
//!
//! A counter's family is named without `_total`, its samples with it; the samples of a family are
//! contiguous; `# EOF` ends the text. Exemplars and `_created` are missing, because the crate does not
//! keep them. Pure; never fails.

use std::fmt::Write;

use prometheus::proto::{Metric, MetricFamily, MetricType};

/// `Content-Type` of this format.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn encode(families: &[MetricFamily]) -> String {
    let mut out = String::with_capacity(16 * 1024);
    for family in families {
        encode_family(&mut out, family);
    }
    out.push_str("# EOF\n");
    out
}

fn encode_family(out: &mut String, family: &MetricFamily) {
    let (name, kind) = match family.get_field_type() {
        MetricType::COUNTER => (family.name().strip_suffix("_total").unwrap_or(family.name()), "counter"),
        MetricType::HISTOGRAM => (family.name(), "histogram"),
        MetricType::GAUGE => (family.name(), "gauge"),
        // The gateway has none of these.
        MetricType::SUMMARY | MetricType::UNTYPED => (family.name(), "unknown"),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# TYPE {name} {kind}");
    let _ = writeln!(out, "# HELP {name} {}", escaped(family.help()));
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::COUNTER => {
                let value = number(metric.get_counter().get_value());
                sample(out, &SampleName { name, suffix: "_total", metric, bound: None }, &value);
            }
            MetricType::HISTOGRAM => encode_histogram(out, name, metric),
            _ => {
                let value = number(metric.get_gauge().get_value());
                sample(out, &SampleName { name, suffix: "", metric, bound: None }, &value);
            }
        }
    }
}

fn encode_histogram(out: &mut String, name: &str, metric: &Metric) {
    let histogram = metric.get_histogram();
    let sample_name = |suffix| SampleName { name, suffix, metric, bound: None };
    let count = histogram.get_sample_count();
    for bucket in histogram.get_bucket() {
        let bound = number(bucket.upper_bound());
        let within = bucket.cumulative_count().min(count);
        if bound != "+Inf" {
            let bucket = SampleName { bound: Some(&bound), ..sample_name("_bucket") };
            sample(out, &bucket, &within.to_string());
        }
    }
    sample(out, &SampleName { bound: Some("+Inf"), ..sample_name("_bucket") }, &count.to_string());
    sample(out, &sample_name("_count"), &count.to_string());
    sample(out, &sample_name("_sum"), &number(histogram.get_sample_sum()));
}

/// Name and labels of a sample.
struct SampleName<'a> {
    name: &'a str,
    suffix: &'static str,
    metric: &'a Metric,
    /// The label `le` of a bucket.
    bound: Option<&'a str>,
}

fn sample(out: &mut String, sample: &SampleName<'_>, value: &str) {
    out.push_str(sample.name);
    out.push_str(sample.suffix);
    let mut separator = '{';
    for label in sample.metric.get_label() {
        let _ = write!(out, "{separator}{}=\"{}\"", label.name(), escaped(label.value()));
        separator = ',';
    }
    if let Some(bound) = sample.bound {
        let _ = write!(out, "{separator}le=\"{bound}\"");
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

/// A canonical number: integers have `.0`, as the format requires for `le`.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".into() } else { "-Inf".into() }
    } else {
        format!("{value:?}")
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}
