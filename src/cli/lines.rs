//! Two texts line by line, as `diff -u` shows them.

use std::fmt::Write as _;

use super::output::printable;

/// Lines shown before and after each difference.
const CONTEXT: usize = 3;
/// Pairs of lines that are compared; larger texts are shown as replaced between their common ends.
const PAIRS_MAX: usize = 4_000_000;

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
    Comes,
}

/// The differences with three lines around each, under the names of both sides; empty when there are
/// none.
pub(super) fn unified(before: &str, after: &str, names: &[String; 2], coloured: bool) -> String {
    let [old, new]: [Vec<&str>; 2] = [before, after].map(|text| text.lines().collect());
    let script = script(&old, &new);
    if script.iter().all(|(fate, _)| *fate == Fate::Stays) {
        return String::new();
    }
    let paint = |code: &str, line: &str| {
        let line = printable(line);
        if coloured { format!("\u{1b}[{code}m{line}\u{1b}[0m\n") } else { format!("{line}\n") }
    };
    let mut text = paint("1", &format!("--- {}", names[0]));
    text.push_str(&paint("1", &format!("+++ {}", names[1])));
    for (start, end) in hunks(&script) {
        let counted =
            |part: &[(Fate, &str)], not: Fate| part.iter().filter(|(fate, _)| *fate != not).count();
        let (ahead, hunk) = (&script[..start], &script[start..end]);
        let range = |not: Fate| {
            let (from, count) = (counted(ahead, not), counted(hunk, not));
            // A side without lines is said to begin behind the line before.
            format!("{},{count}", if count == 0 { from } else { from + 1 })
        };
        let head = format!("@@ -{} +{} @@", range(Fate::Comes), range(Fate::Goes));
        text.push_str(&paint("36", &head));
        for (fate, line) in hunk {
            match fate {
                Fate::Stays => {
                    let _ = writeln!(text, " {}", printable(line));
                }
                Fate::Goes => text.push_str(&paint("31", &format!("-{line}"))),
                Fate::Comes => text.push_str(&paint("32", &format!("+{line}"))),
            }
        }
    }
    text
}

/// Runs of the script around differences that are not far apart.
fn hunks(script: &[(Fate, &str)]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (i, _) in script.iter().enumerate().filter(|(_, (fate, _))| *fate != Fate::Stays) {
        let (start, end) = (i.saturating_sub(CONTEXT), (i + 1 + CONTEXT).min(script.len()));
        match found.last_mut() {
            Some(last) if start <= last.1 => last.1 = end,
            _ => found.push((start, end)),
        }
    }
    found
}

/// Every line of both with its fate, in order: the longest common sequence stays.
fn script<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(Fate, &'a str)> {
    let same = |(a, b): &(&&str, &&str)| a == b;
    let head = old.iter().zip(new).take_while(same).count();
    let rest = (&old[head..], &new[head..]);
    let tail = rest.0.iter().rev().zip(rest.1.iter().rev()).take_while(same).count();
    let (from, to) = (&rest.0[..rest.0.len() - tail], &rest.1[..rest.1.len() - tail]);
    let mut script: Vec<_> = old[..head].iter().map(|line| (Fate::Stays, *line)).collect();
    if from.len().saturating_mul(to.len()) > PAIRS_MAX {
        script.extend(from.iter().map(|line| (Fate::Goes, *line)));
        script.extend(to.iter().map(|line| (Fate::Comes, *line)));
    } else {
        middle(from, to, &mut script);
    }
    script.extend(old[old.len() - tail..].iter().map(|line| (Fate::Stays, *line)));
    script
}

fn middle<'a>(old: &[&'a str], new: &[&'a str], script: &mut Vec<(Fate, &'a str)>) {
    // The length of the longest common sequence of what is left from each pair of lines on.
    let mut longest = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i][j] = if old[i] == new[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        let both = i < old.len() && j < new.len();
        if both && old[i] == new[j] {
            script.push((Fate::Stays, old[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < old.len() && (!both || longest[i + 1][j] >= longest[i][j + 1]) {
            script.push((Fate::Goes, old[i]));
            i += 1;
        } else {
            script.push((Fate::Comes, new[j]));
            j += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::unified;

    fn names() -> [String; 2] {
        ["old".to_owned(), "new".to_owned()]
    }

    #[test]
    fn differences_have_three_lines_around_them() {
        let lines = |skip: &str, add: &str| {
            let mut text = String::new();
            for i in 1..=20 {
                let line = format!("line {i}");
                if line == skip {
                    text.push_str(add);
                } else {
                    text.push_str(&line);
                    text.push('\n');
                }
            }
            text
        };
        let expected = "\
--- old
+++ new
@@ -2,7 +2,6 @@
 line 2
 line 3
 line 4
-line 5
 line 6
 line 7
 line 8
";
        assert_eq!(unified(&lines("", ""), &lines("line 5", ""), &names(), false), expected);
        let text = unified(&lines("", ""), &lines("line 1", "x\ny\n"), &names(), false);
        assert!(text.contains("@@ -1,4 +1,5 @@\n-line 1\n+x\n+y\n line 2\n"), "{text}");
        assert_eq!(unified("a\n", "a\n", &names(), false), "");
        assert_eq!(unified("", "a\n", &names(), false), "--- old\n+++ new\n@@ -0,0 +1,1 @@\n+a\n");
    }

    #[test]
    fn far_apart_are_two_hunks_and_colours_go_to_terminals_only() {
        let text: String = (0..30).map(|i| format!("{i}\n")).collect();
        let changed = text.replace("\n4\n", "\nfour\n").replace("\n25\n", "\nxxv\n");
        let shown = unified(&text, &changed, &names(), true);
        assert_eq!(shown.matches("@@ -").count(), 2, "{shown}");
        assert!(shown.contains("\u{1b}[31m-4\u{1b}[0m\n\u{1b}[32m+four\u{1b}[0m\n"), "{shown}");
        let steering = unified("a\n", "a\u{1b}[2J\n", &names(), false);
        assert!(!steering.contains('\u{1b}'), "{steering}");
    }
}
