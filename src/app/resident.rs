//! The part of the program that only its start needs. Reading the command line, configuration and
//! certificates runs through much of the code once, and the system keeps in the process what was ever
//! touched, and 64 KiB around it: most of what a sidecar without traffic would show as its memory. It
//! is let go after the start; what is needed again comes back from the page cache by itself.

use std::{fs, io, ops::Range, time::Duration};

use rustix::mm::{Advice, madvise};

/// How long after the start what it needed is let go.
const AFTER: Duration = Duration::from_secs(2);

/// Waits until the start is over, and lets go of what only it needed.
pub async fn let_go() {
    tokio::time::sleep(AFTER).await;
    match let_go_now() {
        Ok(bytes) => tracing::debug!(bytes, "the code of the start may leave memory"),
        Err(error) => tracing::debug!(%error, "the code of the start stays in memory"),
    }
}

/// Takes the pages of the program's own code and constants out of the process. Returns how many bytes
/// of address space that was.
///
/// # Errors
/// When the system does not say what is mapped where, or refuses.
pub fn let_go_now() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let mapped = fs::read_to_string("/proc/self/smaps")?;
    let mut bytes = 0;
    for Range { start, end } in unchanged(&mapped, &program.to_string_lossy()) {
        let length = end.saturating_sub(start);
        let address = std::ptr::with_exposed_provenance_mut(start);
        #[allow(unsafe_code, reason = "there is no other way to say that pages may go")]
        // SAFETY: the range is a read-only private mapping of the program's file none of whose pages
        // differs from the file, which can not be written while it runs: each page that is dropped
        // reads the same when it is next touched.
        unsafe { madvise(address, length, Advice::LinuxDontNeed) }?;
        bytes += length;
    }
    Ok(bytes)
}

/// The parts of `program` in `/proc/self/smaps` that can not be written and do not differ from the
/// file: not those that were relocated at the start and then made read-only.
fn unchanged(smaps: &str, program: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut part = None;
    for line in smaps.lines() {
        if let Some(amount) = line.strip_prefix("Anonymous:") {
            if amount.trim() == "0 kB" {
                found.extend(part.take());
            }
            part = None;
            continue;
        }
        if let Some((range, rest)) = header(line) {
            let ours = rest.split_once(program).is_some_and(|(_, after)| after.is_empty());
            let read_only = matches!(rest.get(..4), Some("r--p" | "r-xp"));
            part = (ours && read_only).then_some(range);
        }
    }
    found
}

/// The first line of a mapping: `start-end perms offset device inode path`.
fn header(line: &str) -> Option<(Range<usize>, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(start)?..number(end)?, rest))
}

#[cfg(test)]
mod tests {
    use super::{let_go_now, unchanged};

    const SMAPS: &str = "\
1000-3000 r--p 00000000 fe:00 5663868                    /bin/outrigger
Rss:                2200 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
3000-9000 r-xp 00648000 fe:00 5663868                    /bin/outrigger
Anonymous:             0 kB
9000-a000 r--p 01a21000 fe:00 5663868                    /bin/outrigger
Anonymous:           684 kB
a000-b000 rw-p 01acd000 fe:00 5663868                    /bin/outrigger
Anonymous:             0 kB
b000-c000 r-xp 00000000 fe:00 5663868                    /bin/outrigger.so
Anonymous:             0 kB
c000-d000 rw-p 00000000 00:00 0                          [heap]
Anonymous:             0 kB
";

    #[test]
    fn only_what_equals_the_file_may_go() {
        assert_eq!(unchanged(SMAPS, "/bin/outrigger"), [0x1000..0x3000, 0x3000..0x9000]);
        assert!(unchanged(SMAPS, "/bin/other").is_empty());
        assert!(unchanged("", "/bin/outrigger").is_empty());
    }

    #[test]
    fn whoever_let_go_runs_on() {
        for _ in 0..3 {
            let bytes = let_go_now().expect("Linux");
            assert!(bytes > 64 * 1024, "{bytes}");
            assert_eq!(format!("{:?}", ["constants", "and code"]), r#"["constants", "and code"]"#);
        }
    }
}
