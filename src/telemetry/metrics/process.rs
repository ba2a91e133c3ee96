//! `process_*`: what the system knows about this process, read from `/proc/self` when metrics are
//! read. Where there is no `/proc`, these families are left out.

use std::{fmt, fs, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
};

use super::names::{Family, Shape};

/// Units of the times in `/proc/self/stat` (`USER_HZ`, 100 on every Linux that we run on).
const TICKS_PER_SECOND: f64 = 100.0;

/// The families `process_*`, for any registry.
#[derive(Debug)]
pub struct Process {
    /// Does not change, so it is read once.
    started: Option<Duration>,
}

impl Process {
    /// Of the process that calls.
    pub fn new() -> Self {
        Self { started: started() }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let started = self.started.map(|at| (Family::ProcessStart, at.as_secs_f64()));
        for (family, value) in read().into_iter().chain(started) {
            let shape = family.shape();
            let mut encoder = encoder.encode_descriptor(
                family.name(),
                family.help(),
                None,
                shape.metric_type(),
            )?;
            if shape == Shape::Counter {
                encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
            } else {
                encoder.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

/// What was read, by family; a family that could not be read is not among them.
fn read() -> Vec<(Family, f64)> {
    let mut values = Vec::new();
    if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
        values.extend(parse_stat(&stat));
    }
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        values.extend(parse_status(&status));
    }
    if let Ok(limits) = fs::read_to_string("/proc/self/limits") {
        values.extend(parse_limits(&limits));
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // The directory that is being read is one of them.
        let files = files.count().saturating_sub(1);
        values.push((Family::ProcessFiles, files as f64));
    }
    values
}

/// When the process began, since the Unix epoch.
fn started() -> Option<Duration> {
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let ticks: f64 = stat_field(&stat, 22)?;
    Duration::try_from_secs_f64(boot + ticks / TICKS_PER_SECOND).ok()
}

fn parse_stat(stat: &str) -> Option<(Family, f64)> {
    let ticks = stat_field(stat, 14)? + stat_field(stat, 15)?;
    Some((Family::ProcessCpu, ticks / TICKS_PER_SECOND))
}

/// A field by its number in proc_pid_stat(5). The second one, the command in parentheses, may hold
/// spaces and parentheses itself.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn parse_status(status: &str) -> impl Iterator<Item = (Family, f64)> {
    status.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        let (family, unit) = match key {
            "VmRSS" => (Family::ProcessResident, 1024.0),
            "VmSize" => (Family::ProcessVirtual, 1024.0),
            "Threads" => (Family::ProcessThreads, 1.0),
            _ => return None,
        };
        let value: f64 = value.split_ascii_whitespace().next()?.parse().ok()?;
        Some((family, value * unit))
    })
}

fn parse_limits(limits: &str) -> Option<(Family, f64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_ascii_whitespace().next()?;
    let soft = if soft == "unlimited" { f64::INFINITY } else { soft.parse().ok()? };
    Some((Family::ProcessFilesMax, soft))
}

#[cfg(test)]
mod tests {
    use super::{Family, parse_limits, parse_stat, parse_status, stat_field};

    #[test]
    fn the_files_of_proc_are_read() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 7 0 1234 8 9";
        assert_eq!(parse_stat(stat), Some((Family::ProcessCpu, 2.0)));
        assert_eq!(stat_field(stat, 22), Some(1234.0));
        assert_eq!(parse_stat("42 (a"), None);
        let status = "Name:\ta\nVmSize:\t   12 kB\nVmRSS:\t   8 kB\nThreads:\t7\n";
        assert_eq!(
            parse_status(status).collect::<Vec<_>>(),
            [
                (Family::ProcessVirtual, 12_288.0),
                (Family::ProcessResident, 8_192.0),
                (Family::ProcessThreads, 7.0),
            ]
        );
        let limits =
            "Max cpu time   unlimited unlimited seconds\nMax open files  1024  4096 files\n";
        assert_eq!(parse_limits(limits), Some((Family::ProcessFilesMax, 1024.0)));
    }
}
