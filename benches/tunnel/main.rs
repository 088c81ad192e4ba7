//! The tunnel beside plain loopback and those of its peers that are installed, measured in one run (Linux only).
//!
//! `cargo bench --bench tunnel -- [FILTER] [--quick] [--verbose] [--write]`, or `make bench`, which builds the module.
//! `make bench-peers` installs the peers that Debian does not have ready, `make bench-before` builds this project as it
//! was at another commit.
//!
//! Clients and services are threads of this process; every contestant carries the same load, one after the other within
//! each round, so that what disturbs the machine disturbs all of them. A sink discards what it receives in the kernel
//! (`MSG_TRUNC`) and a source sends one buffer again and again: the load leaves the processors to the contestants, and
//! plain loopback is faster than any program that looks at its bytes.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is for a terminal")]

mod bore;
mod case;
mod contestant;
#[path = "../../tests/common/line/mod.rs"]
mod fifo;
mod fleet;
mod haproxy;
mod line;
mod links;
mod load;
mod ours;
mod plot;
mod process;
mod proxy;
mod rathole;
mod report;
mod service;
mod socat;
mod ssh;
mod syscalls;
mod table;
mod target;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::case::{Case, Effort};
use crate::contestant::{Contestant, Plain, Tunnel};
use crate::haproxy::Haproxy;
use crate::ours::{Ours, Variant};
use crate::rathole::Rathole;
use crate::report::{Column, Report};
use crate::service::Service;

/// Above the 256 clients that a link carries at once.
const WORKERS: usize = 272;

/// Measures the tunnel beside plain loopback, haproxy, socat, rathole, bore and ssh -R.
#[derive(Parser)]
struct Options {
    /// Measure only the cases whose name contains this text
    filter: Option<String>,
    /// Two short rounds, for a first look, below four minutes; on the long line they show little but the start
    #[arg(long)]
    quick: bool,
    /// Show the least and the greatest value of all rounds beside each median
    #[arg(long)]
    verbose: bool,
    /// Write tables and a picture to docs/bench as well: tunnel.md, tunnel.svg, encrypted.md and, of slow lines,
    /// slow-line.md
    #[arg(long)]
    write: bool,
    /// Given by cargo bench; without it nothing is measured
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.bench {
        println!("nothing measured: run this with cargo bench --bench tunnel");
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and reports; true when no contestant failed.
fn run(options: &Options) -> io::Result<bool> {
    process::end_all_on_signal_or_overrun()?;
    let effort = if options.quick { Effort::QUICK } else { Effort::FULL };
    let filter = options.filter.as_deref().unwrap_or_default();
    let mut cases: Vec<Case> = Case::ALL.into_iter().filter(|case| case.to_string().contains(filter)).collect();
    if cases.is_empty() {
        let names: Vec<String> = Case::ALL.iter().map(Case::to_string).collect();
        return Err(io::Error::other(format!("no case contains '{filter}'; there are: {}", names.join("; "))));
    }

    let service = Service::start(WORKERS)?;
    let mut report = Report::new(effort);
    cases.retain(|&case| match case.missing() {
        Some(hint) => {
            report.leave_out(case, hint);
            false
        }
        None => true,
    });
    let mut entrants = enter(&mut report, &service, &cases);
    for (word, explanation) in report.header(&cases) {
        println!("{word:<15} {explanation}");
    }
    let (once, every_round): (Vec<Case>, Vec<Case>) = cases.iter().partition(|case| case.is_measured_once());
    for round in 1..=effort.rounds {
        eprintln!("round {round} of {}", effort.rounds);
        for &case in &every_round {
            for entrant in &mut entrants {
                entrant.measure(case, effort, &service, &mut report);
            }
        }
        // So that none comes after the same one each time.
        entrants.reverse();
    }
    for &case in &once {
        eprintln!("{case}");
        for entrant in &mut entrants {
            entrant.measure(case, effort, &service, &mut report);
        }
    }

    for cases in by_table(&cases).iter().filter(|cases| !cases.is_empty()) {
        println!("\n{}", table::figures(&report, cases, options.verbose).aligned());
        println!("{}", table::targets(&report, cases).aligned());
    }
    for failure in report.failures() {
        println!("failed: {failure}");
    }
    if options.write {
        write(&report, &cases)?;
    }
    Ok(report.failures().is_empty())
}

/// Writes tables and picture for readers of the sources. What was not measured stays as it is written.
fn write(report: &Report, cases: &[Case]) -> io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bench");
    fs::create_dir_all(&directory)?;
    let [others, encrypted, slow] = by_table(cases);
    if !others.is_empty() {
        let picture = "![The tunnel beside its peers](tunnel.svg)\n\n";
        write_tables(report, &others, "The tunnel beside its peers", picture, &directory.join("tunnel.md"))?;
        fs::write(directory.join("tunnel.svg"), plot::svg(report, &others))?;
    }
    if !encrypted.is_empty() {
        write_tables(report, &encrypted, "The tunnel in TLS beside its peers", "", &directory.join("encrypted.md"))?;
    }
    if !slow.is_empty() {
        write_tables(report, &slow, "The tunnel beside its peers on a slow line", "", &directory.join("slow-line.md"))?;
    }
    println!("written to {}", directory.display());
    Ok(())
}

/// Those that share a table: without encryption, with it, on slow lines.
fn by_table(cases: &[Case]) -> [Vec<Case>; 3] {
    let those = |wanted: fn(Case) -> bool| cases.iter().copied().filter(|&case| wanted(case)).collect();
    [those(|case| !case.is_encrypted() && !case.is_slow_line()), those(Case::is_encrypted), those(Case::is_slow_line)]
}

fn write_tables(report: &Report, cases: &[Case], title: &str, picture: &str, path: &Path) -> io::Result<()> {
    let header = report.header(cases).iter().map(|(word, text)| format!("- {word}: {text}\n")).collect::<String>();
    let (figures, targets) =
        (table::figures(report, cases, false).markdown(), table::targets(report, cases).markdown());
    let text =
        format!("# {title}\n\nWritten by `make bench`.\n\n{picture}{header}\n{figures}\n## Targets\n\n{targets}");
    fs::write(path, text)
}

/// Starts each contestant that can be measured here in any of these cases.
fn enter(report: &mut Report, service: &Service, cases: &[Case]) -> Vec<Entrant> {
    let mut entrants = Vec::new();
    for contestant in contestants() {
        if !cases.iter().any(|&case| contestant.takes(case)) {
            continue;
        }
        let column = report.add(contestant.as_ref(), cases);
        match contestant.missing() {
            Some(hint) => report.skip(column, hint),
            None => match contestant.start(service.address()) {
                Ok(tunnel) => entrants.push(Entrant { column, contestant, tunnel }),
                Err(error) => report.fail(column, format!("it did not start: {error}")),
            },
        }
    }
    entrants
}

/// A contestant that is being measured.
struct Entrant {
    column: Column,
    contestant: Box<dyn Contestant>,
    tunnel: Tunnel,
}

impl Entrant {
    fn measure(&mut self, case: Case, effort: Effort, service: &Service, report: &mut Report) {
        if !self.contestant.takes(case) || report.has_failed(self.column, case) {
            return;
        }
        match case.measure(self.contestant.as_ref(), &self.tunnel, service, effort) {
            Ok(values) => report.record(self.column, case, values),
            Err(error) => {
                report.fail_case(self.column, case, &error);
                // What state its processes are in is not known, so the other cases get new ones.
                match self.contestant.start(service.address()) {
                    Ok(tunnel) => self.tunnel = tunnel,
                    Err(error) => report.fail(self.column, format!("it did not start again: {error}")),
                }
            }
        }
    }
}

/// All contestants, in the order of the table's columns.
fn contestants() -> Vec<Box<dyn Contestant>> {
    vec![
        Box::new(Plain),
        Box::new(Haproxy::Plain),
        Box::new(Haproxy::Tls),
        Box::new(socat::Socat),
        Box::new(Rathole::Plain),
        Box::new(Rathole::Noise),
        Box::new(bore::Bore),
        Box::new(ssh::Ssh),
        Box::new(Ours::find(Variant::VersionOne)),
        Box::new(Ours::find(Variant::Before)),
        Box::new(Ours::find(Variant::Newest)),
        Box::new(Ours::find(Variant::BeforeTls)),
        Box::new(Ours::find(Variant::Tls)),
    ]
}
