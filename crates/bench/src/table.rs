//! Medians and ratios of a comparison as Markdown, and their place in a document: what stands between
//! two marker lines is replaced, the rest of the document is a person's.

use std::fmt::Write as _;

use crate::error::{Error, Result};
use crate::report::{Latency, Report};

/// Opens the section that a run replaces.
pub const BEGIN: &str = "<!-- compare: begin -->";
/// Closes it.
pub const END: &str = "<!-- compare: end -->";

/// Medians of one program's runs of one cell.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Operations a second.
    pub rate: f64,
    /// CPU of all members, µs an operation.
    pub server_cpu: f64,
    /// CPU of the load generator, µs an operation.
    pub client_cpu: f64,
    /// Latency, µs.
    pub p50: f64,
    /// Latency, µs.
    pub p99: f64,
    /// Resident memory of all members, MiB.
    pub rss: f64,
    /// Failed operations of all runs.
    pub errors: u64,
}

impl Figures {
    fn of(runs: &[Report]) -> Self {
        let over = |figure: &dyn Fn(&Report) -> f64| {
            median(&runs.iter().map(figure).collect::<Vec<f64>>())
        };
        let latency =
            |pick: fn(&Latency) -> f64| over(&|run| run.latency.as_ref().map_or(0.0, pick));
        Self {
            rate: over(&|run| run.ops_per_s),
            server_cpu: over(&|run| run.server_cpu_us_per_op.unwrap_or(0.0)),
            client_cpu: over(&|run| run.client_cpu_us_per_op),
            p50: latency(|l| l.p50_us),
            p99: latency(|l| l.p99_us),
            rss: over(&Report::rss_mib),
            errors: runs.iter().map(|run| run.errors).sum(),
        }
    }
}

/// One row: the same work on both.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was done.
    pub name: String,
    /// Operations in flight.
    pub clients: usize,
    /// etcd's figures.
    pub oracle: Figures,
    /// Ours.
    pub ours: Figures,
}

impl Row {
    /// Medians of the runs.
    pub fn of(name: &str, clients: usize, oracle: &[Report], ours: &[Report]) -> Self {
        Self {
            name: name.to_owned(),
            clients,
            oracle: Figures::of(oracle),
            ours: Figures::of(ours),
        }
    }
}

/// The restart of one member with many keys. etcd's figure first.
#[derive(Debug, Clone)]
pub struct Restart {
    /// Keys of 256 B in its database.
    pub keys: u64,
    /// Until it answers a linearizable read.
    pub seconds: [f64; 2],
    /// Resident memory after the fill.
    pub rss_full: [f64; 2],
    /// Resident memory after the last restart.
    pub rss_restarted: [f64; 2],
}

/// All rows of one cluster size.
#[derive(Debug, Clone)]
pub struct Section {
    /// Members of the cluster.
    pub members: usize,
    /// The rows.
    pub rows: Vec<Row>,
    /// The restart test, where it ran.
    pub restart: Option<Restart>,
}

/// The median; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.get(middle) {
        None => 0.0,
        Some(&upper) if sorted.len() % 2 == 1 => upper,
        Some(&upper) => (sorted[middle - 1] + upper) / 2.0,
    }
}

fn ratio(ours: f64, oracle: f64) -> String {
    if oracle > 0.0 {
        format!("{:.2}", ours / oracle)
    } else {
        "–".to_owned()
    }
}

/// One row in one line, for the terminal.
pub fn brief(row: &Row) -> String {
    let (a, b) = (&row.oracle, &row.ours);
    format!(
        "{} x{}: etcd {:.0}/s {:.1} us p50 {:.0} p99 {:.0} us, ours {:.0}/s {:.1} us p50 {:.0} p99 {:.0} us (rate {} cpu {} p99 {} rss {}; client {:.1}/{:.1}; errors {}/{})",
        row.name,
        row.clients,
        a.rate,
        a.server_cpu,
        a.p50,
        a.p99,
        b.rate,
        b.server_cpu,
        b.p50,
        b.p99,
        ratio(b.rate, a.rate),
        ratio(b.server_cpu, a.server_cpu),
        ratio(b.p99, a.p99),
        ratio(b.rss, a.rss),
        a.client_cpu,
        b.client_cpu,
        a.errors,
        b.errors,
    )
}

/// The restart test in one line, for the terminal.
pub fn brief_restart(restart: &Restart) -> String {
    let [etcd, ours] = restart.seconds;
    format!(
        "restart with {} keys: etcd {etcd:.2} s, ours {ours:.2} s (ratio {}); resident {:.0}/{:.0} MiB full, {:.0}/{:.0} MiB restarted",
        restart.keys,
        ratio(ours, etcd),
        restart.rss_full[0],
        restart.rss_full[1],
        restart.rss_restarted[0],
        restart.rss_restarted[1],
    )
}

/// The tables. `heading` says when and where, `command` how to get them again.
pub fn render(sections: &[Section], heading: &str, command: &str) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{heading}\n\n```\n{command}\n```");
    for section in sections {
        let words = if section.members == 1 {
            "One member".to_owned()
        } else {
            format!("{} members", section.members)
        };
        let _ = writeln!(out, "\n### {words}");
        rows(&mut out, &section.rows);
        if let Some(r) = &section.restart {
            let _ = writeln!(
                out,
                "\n| {} keys of 256 B | etcd | ours | **×** |\n|---|---|---|---|",
                r.keys
            );
            for (what, [a, b]) in [
                ("restart until a linearizable read, s", r.seconds),
                ("RSS MiB after the fill", r.rss_full),
                ("RSS MiB after the restart", r.rss_restarted),
            ] {
                let _ = writeln!(out, "| {what} | {a:.2} | {b:.2} | **{}** |", ratio(b, a));
            }
        }
    }
    out
}

/// One table, and what failed.
pub fn rows(out: &mut String, rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    out.push_str("\n| | clients | ops/s etcd | ours | **rate ×** | server CPU µs/op etcd | ours | **CPU ×** | p99 ms etcd | ours | **p99 ×** | RSS MiB etcd | ours | **RSS ×** | client CPU µs/op |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for row in rows {
        let (a, b) = (&row.oracle, &row.ours);
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {:.0} | {:.0} | **{}** | {:.1} | {:.1} | **{}** | {:.2} | {:.2} | **{}** | {:.0} | {:.0} | **{}** | {:.0} / {:.0} |",
            row.name,
            row.clients,
            a.rate,
            b.rate,
            ratio(b.rate, a.rate),
            a.server_cpu,
            b.server_cpu,
            ratio(b.server_cpu, a.server_cpu),
            a.p99 / 1e3,
            b.p99 / 1e3,
            ratio(b.p99, a.p99),
            a.rss,
            b.rss,
            ratio(b.rss, a.rss),
            a.client_cpu,
            b.client_cpu,
        );
    }
    for row in rows
        .iter()
        .filter(|row| row.oracle.errors + row.ours.errors > 0)
    {
        let _ = writeln!(
            out,
            "\n{}, {} clients: {} operations failed on etcd, {} on ours.",
            row.name, row.clients, row.oracle.errors, row.ours.errors
        );
    }
}

/// Puts the tables between the markers of a document.
///
/// # Errors
/// The document lacks a marker, or has them the wrong way round.
pub fn replace(document: &str, tables: &str) -> Result<String> {
    let missing = |marker: &str| Error::told(format!("the document has no line `{marker}`"));
    let (before, rest) = document.split_once(BEGIN).ok_or_else(|| missing(BEGIN))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| missing(END))?;
    Ok(format!("{before}{BEGIN}\n{tables}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let document = format!("# Title\n{BEGIN}\nold\n{END}\nour words\n");
        let new = replace(&document, "new\n").expect("both markers are there");
        assert_eq!(new, format!("# Title\n{BEGIN}\nnew\n{END}\nour words\n"));
        assert!(replace("no markers", "new").is_err());
        assert!(replace(&format!("{END} {BEGIN}"), "new").is_err());
    }

    #[test]
    fn a_row_shows_both_sides_and_the_ratios() {
        let figures = |rate, server_cpu| Figures {
            rate,
            server_cpu,
            p99: 2000.0,
            rss: 100.0,
            ..Figures::default()
        };
        let section = Section {
            members: 3,
            rows: vec![Row {
                name: "put".to_owned(),
                clients: 64,
                oracle: figures(10_000.0, 80.0),
                ours: figures(20_000.0, 20.0),
            }],
            restart: None,
        };
        let text = render(&[section], "when", "how");
        assert!(
            text.contains("| put | 64 | 10000 | 20000 | **2.00** | 80.0 | 20.0 | **0.25** |"),
            "{text}"
        );
    }
}
