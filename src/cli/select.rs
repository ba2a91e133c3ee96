//! Which resources a command line means: `svc,gr`, `all`, `grpcroute orders web`, or
//! `gr/orders tp/inventory`.

use super::output::Failure;
use crate::resource::{Kind, nearest};

/// What `all` means.
const ALL: &str = "all";

/// The resources that are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    /// Every one of these kinds.
    Kinds(Vec<Kind>),
    /// These.
    Named(Vec<(Kind, String)>),
}

/// Reads what stands after `get`, `delete` or `describe`.
pub(super) fn parse(words: &[String]) -> Result<Selection, Failure> {
    if words.iter().any(|word| word.contains('/')) {
        return words
            .iter()
            .map(|word| named(word))
            .collect::<Result<_, _>>()
            .map(Selection::Named);
    }
    let Some((kinds, names)) = words.split_first() else {
        return Err(Failure::usage(format!("which kind? {}", known())));
    };
    let kinds = parse_kinds(kinds)?;
    if names.is_empty() {
        return Ok(Selection::Kinds(kinds));
    }
    let pairs = names.iter().flat_map(|name| kinds.iter().map(move |kind| (*kind, name.clone())));
    Ok(Selection::Named(pairs.collect()))
}

fn named(word: &str) -> Result<(Kind, String), Failure> {
    match word.split_once('/') {
        Some((kind, name)) if !name.is_empty() && !name.contains('/') => {
            Ok((parse_kind(kind)?, name.to_owned()))
        }
        _ => Err(Failure::usage(format!("{word:?} is no KIND/NAME"))),
    }
}

fn parse_kinds(words: &str) -> Result<Vec<Kind>, Failure> {
    if words.eq_ignore_ascii_case(ALL) {
        return Ok(Kind::ALL.to_vec());
    }
    let mut kinds = Vec::new();
    for word in words.split(',') {
        let kind = parse_kind(word)?;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

fn parse_kind(word: &str) -> Result<Kind, Failure> {
    Kind::from_word(word).ok_or_else(|| {
        let words = Kind::ALL.iter().flat_map(|kind| [kind.plural(), kind.name()]);
        let failure = Failure::usage(format!("no kind {word:?}; {}", known()));
        match nearest(word, words) {
            Some(meant) => failure.with_hint(meant.to_lowercase()),
            None => failure,
        }
    })
}

/// `kinds are services (svc), workloads (wl), …, all`
fn known() -> String {
    let one = |kind: &Kind| match kind.short_name() {
        "" => kind.plural().to_owned(),
        short => format!("{} ({short})", kind.plural()),
    };
    let names: Vec<_> = Kind::ALL.iter().map(one).collect();
    format!("kinds are {}, {ALL}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::{Selection, parse};
    use crate::resource::Kind;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn kinds_and_names_are_understood_as_kubectl_does() {
        let named = |pairs: &[(Kind, &str)]| {
            Selection::Named(pairs.iter().map(|(kind, name)| (*kind, (*name).to_owned())).collect())
        };
        for (text, expected) in [
            ("svc", Selection::Kinds(vec![Kind::Service])),
            ("gr,HTTPRoutes,gr", Selection::Kinds(vec![Kind::GrpcRoute, Kind::HttpRoute])),
            ("all", Selection::Kinds(Kind::ALL.to_vec())),
            ("tp a b", named(&[(Kind::TrafficPolicy, "a"), (Kind::TrafficPolicy, "b")])),
            ("gr/a service/b", named(&[(Kind::GrpcRoute, "a"), (Kind::Service, "b")])),
            ("gr,hr a", named(&[(Kind::GrpcRoute, "a"), (Kind::HttpRoute, "a")])),
        ] {
            assert_eq!(parse(&words(text)).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_kind_is_wrong_usage_with_the_nearest() {
        for text in ["", "pods", "gr/a b", "gr/", "gr/a/b", "svc,"] {
            assert!(parse(&words(text)).is_err(), "{text}");
        }
        let failure = format!("{:?}", parse(&words("servcies")).expect_err("misspelt"));
        assert!(failure.contains("Some(\"services\")"), "{failure}");
    }
}
