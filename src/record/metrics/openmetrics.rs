//! OpenMetrics 1.0 text of what a registry gathered: the `prometheus` crate has no encoder of it.
//!
//! Counters' families go without `_total`, their samples with it; every family is whole and in one
//! place; `# EOF` ends it. No exemplars, no `_created`: the crate keeps neither. Pure.

use std::fmt::Write;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

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
        // Nobody makes these here.
        MetricType::SUMMARY | MetricType::UNTYPED => (family.name(), "unknown"),
    };
    // Writing to a String can't fail.
    let _ = writeln!(out, "# TYPE {name} {kind}");
    let _ = writeln!(out, "# HELP {name} {}", escaped(family.help()));
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::COUNTER => {
                sample(out, (name, "_total"), (metric.get_label(), None), number(metric.get_counter().get_value()));
            }
            MetricType::HISTOGRAM => encode_histogram(out, name, metric),
            _ => sample(out, (name, ""), (metric.get_label(), None), number(metric.get_gauge().get_value())),
        }
    }
}

fn encode_histogram(out: &mut String, name: &str, metric: &Metric) {
    let histogram = metric.get_histogram();
    let labels = metric.get_label();
    let count = histogram.get_sample_count();
    for bucket in histogram.get_bucket() {
        let bound = number(bucket.upper_bound());
        let within = bucket.cumulative_count().min(count);
        if bound != "+Inf" {
            sample(out, (name, "_bucket"), (labels, Some(&bound)), within.to_string());
        }
    }
    sample(out, (name, "_bucket"), (labels, Some("+Inf")), count.to_string());
    sample(out, (name, "_count"), (labels, None), count.to_string());
    sample(out, (name, "_sum"), (labels, None), number(histogram.get_sample_sum()));
}

fn sample(out: &mut String, name: (&str, &str), labels: (&[LabelPair], Option<&str>), value: String) {
    out.push_str(name.0);
    out.push_str(name.1);
    let mut separator = '{';
    for label in labels.0 {
        let _ = write!(out, "{separator}{}=\"{}\"", label.name(), escaped(label.value()));
        separator = ',';
    }
    if let Some(bound) = labels.1 {
        let _ = write!(out, "{separator}le=\"{bound}\"");
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

/// Canonical number: whole ones with `.0`, as the format asks of `le`.
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
