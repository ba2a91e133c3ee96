//! Label selectors as kubectl has them: `app=shop,tier!=test,canary,!old`.

use std::collections::HashMap;

/// Terms of one selector.
const TERMS_MAX: usize = 64;

/// A parsed selector; all terms must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    Has(String),
    HasNot(String),
}

impl Selector {
    /// Reads a selector; an empty one selects everything. The error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in text.split(',').map(str::trim) {
            if part.is_empty() && text.trim().is_empty() {
                break;
            }
            let key = |text: &str| {
                let text = text.trim();
                let known = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
                if text.is_empty() || !text.bytes().all(known) {
                    return Err(format!("{part:?} is none of KEY=VALUE, KEY!=VALUE, KEY, !KEY"));
                }
                Ok(text.to_owned())
            };
            terms.push(if let Some((name, value)) = part.split_once("!=") {
                Term::IsNot(key(name)?, value.trim().to_owned())
            } else if let Some((name, value)) = part.split_once('=') {
                let value = value.strip_prefix('=').unwrap_or(value);
                Term::Is(key(name)?, value.trim().to_owned())
            } else if let Some(name) = part.strip_prefix('!') {
                Term::HasNot(key(name)?)
            } else {
                Term::Has(key(part)?)
            });
        }
        if terms.len() > TERMS_MAX {
            return Err(format!("has more than {TERMS_MAX} terms"));
        }
        Ok(Self { terms })
    }

    /// Whether these labels are selected.
    pub(crate) fn selects(&self, labels: &HashMap<String, String>) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Is(name, value) => labels.get(name) == Some(value),
            Term::IsNot(name, value) => labels.get(name) != Some(value),
            Term::Has(name) => labels.contains_key(name),
            Term::HasNot(name) => !labels.contains_key(name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Selector;
    use crate::control::sample::labels;

    #[test]
    fn all_terms_must_hold() {
        for (text, selected) in [
            ("", true),
            (" ", true),
            ("app=shop", true),
            ("app==shop", true),
            ("app = shop , tier != test", true),
            ("app!=shop", false),
            ("missing!=x", true),
            ("app", true),
            ("!app", false),
            ("app,!missing", true),
            ("app=shop,tier=test", false),
        ] {
            let selector = Selector::parse(text).expect(text);
            assert_eq!(selector.selects(&labels("app=shop,tier=prod")), selected, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in [",", "a,,b", "=b", "a b=c", "!", "a in (b)"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }
}
