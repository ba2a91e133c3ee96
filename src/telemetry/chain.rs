//! An error with its causes as one line, for logs and for people.

use std::error::Error;

/// The error, then each of its sources behind a colon. One that repeats what was said before it is
/// left out.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let link = cause.to_string();
        if !text.ends_with(&link) {
            text.push_str(": ");
            text.push_str(&link);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::chain;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Outer(&'static str, #[source] io::Error);

    #[test]
    fn causes_are_told_once() {
        let told = |text| chain(&Outer(text, io::Error::other("disk full")));
        assert_eq!(told("can not write"), "can not write: disk full");
        assert_eq!(told("can not write: disk full"), "can not write: disk full");
    }
}
