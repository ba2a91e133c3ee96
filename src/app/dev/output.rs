//! What the children print, line by line with the name of who said it: to the terminal, to a file
//! of each child, or both. A line without end is cut, so that no child can fill the memory.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// Longer lines are cut into several.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// Colours that can be told apart on dark and light ground.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Where the children's lines go.
#[derive(Debug, Clone)]
pub struct Output {
    /// To stderr of this process; coloured or not.
    pub terminal: Option<bool>,
    /// A directory that gets a file for each child.
    pub directory: Option<PathBuf>,
}

impl Output {
    /// The file with what that child said, if there is one.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(format!("{name}.log")))
    }

    /// `width` is that of the longest name, for aligned prefixes; `number` chooses the colour.
    pub(super) fn of(&self, name: &str, width: usize, number: usize) -> io::Result<Arc<Voice>> {
        let file = match self.file(name) {
            Some(path) => Some(append(&path)?),
            None => None,
        };
        let prefix = self.terminal.map(|coloured| {
            let colour = COLOURS[number % COLOURS.len()];
            if coloured {
                format!("\x1b[{colour}m{name:width$} |\x1b[0m ")
            } else {
                format!("{name:width$} | ")
            }
        });
        Ok(Arc::new(Voice { prefix, file: file.map(Mutex::new) }))
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// One child's way to be heard.
#[derive(Debug)]
pub(super) struct Voice {
    prefix: Option<String>,
    file: Option<Mutex<File>>,
}

impl Voice {
    /// Says one line; that nobody hears it any more is no failure.
    pub(super) fn say(&self, line: &[u8]) {
        if let Some(prefix) = &self.prefix {
            let mut text = Vec::with_capacity(prefix.len() + line.len() + 1);
            text.extend_from_slice(prefix.as_bytes());
            text.extend_from_slice(line);
            text.push(b'\n');
            let _unheard = io::stderr().lock().write_all(&text);
        }
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let _full = file.write_all(line).and_then(|()| file.write_all(b"\n"));
        }
    }

    /// Says all lines of a stream until its end.
    pub(super) async fn follow(self: Arc<Self>, stream: impl AsyncRead + Unpin) {
        let mut stream = BufReader::with_capacity(LINE_BYTES_MAX, stream);
        let mut line = Vec::new();
        while let Ok(chunk) = stream.fill_buf().await {
            if chunk.is_empty() {
                break;
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let room = LINE_BYTES_MAX - line.len();
            let taken = end.unwrap_or(chunk.len()).min(room);
            line.extend_from_slice(&chunk[..taken]);
            let whole = end == Some(taken);
            stream.consume(taken + usize::from(whole));
            if whole || line.len() == LINE_BYTES_MAX {
                self.say(&line);
                line.clear();
            }
        }
        if !line.is_empty() {
            self.say(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_BYTES_MAX, Output};

    async fn said(bytes: &[u8]) -> String {
        let root = tempfile::tempdir().expect("a temporary directory");
        let output = Output { terminal: None, directory: Some(root.path().to_owned()) };
        output.of("a", 0, 0).expect("a file").follow(bytes).await;
        std::fs::read_to_string(output.file("a").expect("named")).expect("text")
    }

    #[tokio::test]
    async fn every_line_is_said_once_and_the_last_one_too() {
        assert_eq!(said(b"one\n\ntwo").await, "one\n\ntwo\n");
        assert_eq!(said(b"").await, "");
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut() {
        let long = vec![b'x'; LINE_BYTES_MAX * 2 + 3];
        let lines: Vec<usize> = said(&long).await.lines().map(str::len).collect();
        assert_eq!(lines, [LINE_BYTES_MAX, LINE_BYTES_MAX, 3]);
    }
}
