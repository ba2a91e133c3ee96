//! Whether a process was left behind: every descendant of this process is noted while the demo
//! runs, and looked for when it has ended. A process is known by its number and its start, because
//! numbers are used again.

use std::{collections::BTreeSet, fs};

/// One process: its number, and when it started, in the kernel's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    id: u32,
    started: u64,
}

/// Processes that the demo has started, directly or not.
#[derive(Debug, Default)]
pub(super) struct Descendants(BTreeSet<Process>);

impl Descendants {
    /// Notes those that are there now.
    pub(super) fn note(&mut self) {
        let all = processes();
        let mut parents = BTreeSet::from([std::process::id()]);
        loop {
            let before = parents.len();
            for (process, parent) in &all {
                if parents.contains(parent) && parents.insert(process.id) {
                    self.0.insert(*process);
                }
            }
            if parents.len() == before {
                return;
            }
        }
    }

    /// Those that are still there.
    pub(super) fn left(&self) -> Vec<u32> {
        let all = processes();
        let there = |known: &&Process| all.iter().any(|(process, _)| process == *known);
        self.0.iter().filter(there).map(|process| process.id).collect()
    }
}

/// Every process of the machine with its parent's number. A zombie is none: it has ended.
fn processes() -> Vec<(Process, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (parent, started) = parent_and_start(&stat)?;
            Some((Process { id, started }, parent))
        })
        .collect()
}

/// From `/proc/<id>/stat`: the name in parentheses may hold anything, so what counts follows the
/// last one: the state, the parent and, as the twentieth, the start.
fn parent_and_start(stat: &str) -> Option<(u32, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some((parent, started))
}

#[cfg(test)]
mod tests {
    use super::{Descendants, parent_and_start};

    #[test]
    fn the_name_of_a_process_may_hold_anything() {
        let rest = "S 17 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9876 1000 2000";
        assert_eq!(parent_and_start(&format!("42 (a) b) {rest}")), Some((17, 9876)));
        let zombie = rest.replacen('S', "Z", 1);
        assert_eq!(parent_and_start(&format!("42 (a) {zombie}")), None);
        assert_eq!(parent_and_start("42 (a) S 1"), None);
    }

    #[tokio::test]
    async fn a_child_and_its_child_are_noted_and_missed_once_they_ended() {
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", "sleep 600 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        let mut said = tokio::io::BufReader::new(child.stdout.take().expect("piped"));
        tokio::io::AsyncBufReadExt::read_line(&mut said, &mut String::new()).await.expect("a line");

        let mut descendants = Descendants::default();
        descendants.note();
        let id = child.id().expect("it runs");
        assert!(descendants.left().contains(&id));
        assert!(descendants.left().len() >= 2, "{:?}", descendants.left());

        let group = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw);
        let group = group.expect("a process group");
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).expect("killed");
        child.wait().await.expect("waited for");
        assert!(!descendants.left().contains(&id));
    }
}
