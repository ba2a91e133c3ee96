//! The table.

use std::fmt;

use clap::ValueEnum as _;

use crate::{
    load::{Sample, Workload},
    memory::Memory,
    pair::Pair,
};

/// What was measured of each pair.
pub(crate) struct Report {
    names: Vec<String>,
    samples: Vec<(Workload, usize, Sample)>,
    memory: Vec<(usize, Memory)>,
}

impl Report {
    pub(crate) fn new(pairs: &[Pair]) -> Self {
        let names = pairs.iter().map(|pair| pair.name.clone()).collect();
        Self { names, samples: Vec::new(), memory: Vec::new() }
    }

    pub(crate) fn add(&mut self, workload: Workload, pair: usize, sample: Sample) {
        self.samples.push((workload, pair, sample));
    }

    pub(crate) fn memory(&mut self, pair: usize, memory: Memory) {
        self.memory.push((pair, memory));
    }

    /// The median, the least and the most CPU time, the median rate, and the most that failed.
    fn cell(&self, workload: Workload, pair: usize) -> Option<Cell> {
        let of = |sample: &&(Workload, usize, Sample)| sample.0 == workload && sample.1 == pair;
        let samples: Vec<Sample> = self.samples.iter().filter(of).map(|sample| sample.2).collect();
        let sorted = |value: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let (micros, rate) = (sorted(|sample| sample.micros), sorted(|sample| sample.rate));
        Some(Cell {
            micros: *micros.get(micros.len() / 2)?,
            range: (*micros.first()?, *micros.last()?),
            rate: rate[rate.len() / 2],
            failed: samples.iter().map(|sample| sample.failed).fold(0.0, f64::max),
        })
    }
}

struct Cell {
    micros: f64,
    range: (f64, f64),
    rate: f64,
    failed: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "CPU µs of both sidecars per request: median (least to most), throughput\n")?;
        row(f, std::iter::once("workload".to_owned()).chain(self.names.iter().cloned()))?;
        row(f, std::iter::repeat_n("---".to_owned(), self.names.len() + 1))?;
        for workload in Workload::value_variants() {
            let cells = (0..self.names.len()).map(|pair| match self.cell(*workload, pair) {
                Some(Cell { micros, range: (least, most), rate, failed }) => {
                    let failed = match failed {
                        0.0 => String::new(),
                        failed => format!(", {:.1}% failed", failed * 100.0),
                    };
                    format!("{micros:.1} ({least:.1} to {most:.1}), {rate:.0}/s{failed}")
                }
                None => "–".to_owned(),
            });
            row(f, std::iter::once(workload.name().to_owned()).chain(cells))?;
        }
        writeln!(f, "\nRatios of the medians\n")?;
        self.ratios(f)?;
        self.write_memory(f)
    }
}

impl Report {
    /// Each pair against each one before it.
    fn ratios(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let against: Vec<(usize, usize)> = (0..self.names.len())
            .flat_map(|pair| (0..pair).map(move |other| (pair, other)))
            .collect();
        let titles = against
            .iter()
            .map(|(pair, other)| format!("{} / {}", self.names[*pair], self.names[*other]));
        row(f, std::iter::once("workload".to_owned()).chain(titles))?;
        row(f, std::iter::repeat_n("---".to_owned(), against.len() + 1))?;
        for workload in Workload::value_variants() {
            let cells = against.iter().map(|(pair, other)| {
                match (self.cell(*workload, *pair), self.cell(*workload, *other)) {
                    (Some(one), Some(other)) => format!("{:.2}", one.micros / other.micros),
                    _ => "–".to_owned(),
                }
            });
            row(f, std::iter::once(workload.name().to_owned()).chain(cells))?;
        }
        Ok(())
    }

    fn write_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.memory.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nResident memory (caller's sidecar, server's sidecar)\n")?;
        let titles =
            ["", "fresh, MB", "KB per idle mTLS connection", "MB left after 10,000 streams"];
        row(f, titles.map(str::to_owned).into_iter())?;
        row(f, std::iter::repeat_n("---".to_owned(), titles.len()))?;
        for (pair, Memory { fresh, connection, left }) in &self.memory {
            let both = |[caller, server]: [f64; 2]| format!("{caller:.1}, {server:.1}");
            let cells = [both(*fresh), format!("{connection:.1}"), both(*left)];
            row(f, std::iter::once(self.names[*pair].clone()).chain(cells))?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, cells: impl Iterator<Item = String>) -> fmt::Result {
    let cells: Vec<String> = cells.collect();
    writeln!(f, "| {} |", cells.join(" | "))
}
