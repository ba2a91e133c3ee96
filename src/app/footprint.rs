//! What a start leaves in memory. Most of the program that a sidecar ever runs it runs once: command
//! line, YAML, descriptors, keys. The kernel maps that text in pieces of 64 KiB as it is run, and it
//! stays part of the resident memory of each sidecar of a machine, though nobody needs it again. So it
//! is let go once the role serves, as the kernel does with its own `__init` text. What does run again is
//! mapped again from the page cache, which costs a microsecond for 64 KiB, once.

use std::{ffi::c_void, fs, io, ops::Range, path::Path, ptr, time::Duration};

use rustix::mm::{Advice, madvise};

/// After so long a start has settled.
const SETTLED: Duration = Duration::from_secs(2);

/// Waits until `serving` and for a while longer, and then lets go of what only the start needed.
pub async fn let_go_of_start(serving: impl Future<Output = ()>) {
    serving.await;
    tokio::time::sleep(SETTLED).await;
    match let_go_of_program() {
        Ok(kib) => tracing::debug!(kib, "let go of what the start had mapped of the program"),
        Err(error) => tracing::debug!(%error, "what the start has mapped stays in memory"),
    }
}

/// Lets go of the program's file as far as it is unchanged in memory. Returns how many KiB of it were
/// resident.
fn let_go_of_program() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let found = unchanged(&fs::read_to_string("/proc/self/smaps")?, &program);
    for Mapping { range, .. } in &found {
        let start = ptr::with_exposed_provenance_mut::<c_void>(range.start);
        // SAFETY: the range is a private mapping of the program's own file, which nobody ever unmaps; it
        // can not be written to, and none of its pages differs from the file. Whoever touches it next
        // finds the same bytes there.
        #[allow(unsafe_code, reason = "there is no other way to give pages back; see SAFETY")]
        unsafe {
            madvise(start, range.len(), Advice::LinuxDontNeed)?;
        }
    }
    Ok(found.iter().map(|mapping| mapping.resident_kib).sum())
}

/// A part of the address space.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    range: Range<usize>,
    /// Whether it is of the program's file, for reading or running alone.
    is_constant: bool,
    resident_kib: usize,
    /// Of that, what differs from the file: relocated pointers, for instance.
    changed_kib: usize,
}

/// Those of `program` that are as in its file and stay so, from a text like `/proc/PID/smaps` (proc(5)).
fn unchanged(smaps: &str, program: &Path) -> Vec<Mapping> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        match (words.as_slice(), all.last_mut()) {
            (["Rss:", kib, ..], Some(last)) => last.resident_kib = kib.parse().unwrap_or(0),
            // What can not be read is as if it had changed.
            (["Anonymous:", kib, ..], Some(last)) => {
                last.changed_kib = kib.parse().unwrap_or(usize::MAX);
            }
            ([range, flags, _, _, _, path @ ..], _) if !range.ends_with(':') => {
                let is_ours = path.len() == 1 && path.iter().all(|path| Path::new(path) == program);
                all.push(Mapping {
                    range: read_range(range).unwrap_or(0..0),
                    is_constant: is_ours && matches!(*flags, "r--p" | "r-xp"),
                    resident_kib: 0,
                    changed_kib: usize::MAX,
                });
            }
            _ => {}
        }
    }
    all.retain(|one| one.is_constant && one.changed_kib == 0 && !one.range.is_empty());
    all
}

/// `559f9b1c0000-559f9b5ea000`
fn read_range(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once('-')?;
    let read = |text| usize::from_str_radix(text, 16).ok();
    Some(read(start)?..read(end)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{let_go_of_program, unchanged};

    const SMAPS: &str = "\
559f9b1c0000-559f9b5ea000 r--p 00000000 fd:01 1234 /usr/bin/outrigger
Size:               4264 kB
Rss:                1796 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
559f9b5ea000-559f9c53e000 r-xp 00429000 fd:01 1234 /usr/bin/outrigger
Rss:                6800 kB
Anonymous:             0 kB
559f9c53e000-559f9c5a8000 r--p 0137c000 fd:01 1234 /usr/bin/outrigger
Rss:                 416 kB
Anonymous:           416 kB
559f9c5a8000-559f9c5af000 rw-p 013e5000 fd:01 1234 /usr/bin/outrigger
Rss:                  28 kB
Anonymous:             0 kB
7f0000000000-7f0000100000 r-xp 00000000 fd:01 1235 /lib/x86_64-linux-gnu/libc.so.6
Rss:                1020 kB
Anonymous:             0 kB
7f0000100000-7f0000200000 r-xp 00000000 fd:01 1236 /usr/bin/outrigger (deleted)
Rss:                1020 kB
Anonymous:             0 kB
7f0000200000-7f0000400000 rw-p 00000000 00:00 0
Rss:                1020 kB
Anonymous:          1020 kB
7f0000400000-7f0000500000 r-xp 00000000 fd:01 1234 /usr/bin/outrigger
Rss:                  12 kB
";

    #[test]
    fn only_what_can_be_read_again_from_the_program_s_file_is_let_go() {
        let found = unchanged(SMAPS, Path::new("/usr/bin/outrigger"));
        let found: Vec<_> = found.iter().map(|one| (one.range.start, one.resident_kib)).collect();
        assert_eq!(found, [(0x559f_9b1c_0000, 1796), (0x559f_9b5e_a000, 6800)]);
        assert_eq!(unchanged("", Path::new("/usr/bin/outrigger")), []);
        assert_eq!(unchanged("Rss: 12 kB\nnonsense\n- r-xp 0 0 0 /x\n", Path::new("/x")), []);
    }

    #[test]
    fn the_program_runs_on_without_its_start() {
        assert!(let_go_of_program().expect("this system has smaps") > 0);
        assert!(let_go_of_program().expect("still") > 0, "this function is mapped again");
    }
}
