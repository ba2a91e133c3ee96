//! The program's own log: to stderr or a file, filtered by a level or by directives, which an
//! operator may change while the program runs. The access log is another one (telemetry).

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tracing_subscriber::{
    EnvFilter, Registry, fmt::writer::BoxMakeWriter, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

/// What is logged when nobody says.
pub const FILTER_DEFAULT: &str = "info";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is none.
    #[error("{filter:?} is no log filter: {why}; such as info, debug or outrigger=debug,h2=warn")]
    Filter {
        /// As written.
        filter: String,
        /// What is wrong.
        why: String,
    },
    /// The file can not be written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The running log.
pub struct Logging {
    handle: reload::Handle<EnvFilter, Registry>,
    filter: Mutex<String>,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logging").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl Logging {
    /// Starts it for the whole process, once; a second one logs nothing. Without `file` it goes to
    /// stderr.
    ///
    /// # Errors
    /// When the filter is none, or the file can not be written.
    pub fn start(filter: &str, file: Option<&Path>) -> Result<Self, LoggingError> {
        let parsed = parse(filter)?;
        let (writer, colours) = match file {
            None => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
            Some(path) => {
                let opened = OpenOptions::new().create(true).append(true).open(path);
                let failed = |source| LoggingError::File { path: path.to_owned(), source };
                (BoxMakeWriter::new(Mutex::new(opened.map_err(failed)?)), false)
            }
        };
        let (parsed, handle) = reload::Layer::new(parsed);
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(writer)
            .with_ansi(colours)
            .with_target(false);
        // Another one is there in a process with several roles; both say the same.
        let _already = tracing_subscriber::registry().with(parsed).with(lines).try_init();
        Ok(Self { handle, filter: Mutex::new(filter.to_owned()) })
    }

    /// The filter of now.
    pub fn filter(&self) -> String {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Filters so from now on.
    ///
    /// # Errors
    /// When it is no filter; the last one stays.
    pub fn set(&self, filter: &str) -> Result<(), LoggingError> {
        let parsed = parse(filter)?;
        let refused = |why: reload::Error| LoggingError::Filter {
            filter: filter.into(),
            why: why.to_string(),
        };
        self.handle.reload(parsed).map_err(refused)?;
        filter.clone_into(&mut *self.filter.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

/// Whether it is a filter.
///
/// # Errors
/// When it is none.
pub fn check(filter: &str) -> Result<(), LoggingError> {
    parse(filter).map(|_| ())
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    let wrong = |why: String| LoggingError::Filter { filter: filter.to_owned(), why };
    if filter.trim().is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    // Any word is a valid directive, the name of a module; a level that is misspelt is not meant so.
    let levels = ["trace", "debug", "info", "warn", "error", "off"];
    for word in filter.split(',').map(str::trim) {
        let module = word.contains(['=', '[']) || word.contains("::") || word == "outrigger";
        if word.ends_with('=') {
            return Err(wrong(format!("{word} names no level")));
        }
        if !module && !levels.contains(&word.to_ascii_lowercase().as_str()) {
            return Err(wrong(format!("{word} is none of {}", levels.join(", "))));
        }
    }
    EnvFilter::try_new(filter).map_err(|why| wrong(why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_misspelt_level_is_refused() {
        for filter in ["info", "DEBUG", "off", "outrigger=debug,h2=warn", "outrigger::proxy=trace"]
        {
            assert!(parse(filter).is_ok(), "{filter}");
        }
        for filter in ["", " ", "inof", "debug,loud", "h2=loud", "h2="] {
            let error = parse(filter).expect_err(filter).to_string();
            assert!(error.contains("is no log filter"), "{error}");
        }
    }
}
