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
pub(super) fn parse(kind: Option<&str>, names: &[String]) -> Result<Selection, Failure> {
    let Some(kind) = kind else {
        return Err(Failure::usage(format!("which kind? {}", known())));
    };
    let words = || std::iter::once(kind).chain(names.iter().map(String::as_str));
    if words().any(|word| word.contains('/')) {
        return words().map(named).collect::<Result<_, _>>().map(Selection::Named);
    }
    let kinds = parse_kinds(kind)?;
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
    use super::Selection;
    use crate::{cli::output::Failure, resource::Kind};

    fn parse(text: &str) -> Result<Selection, Failure> {
        let mut words = text.split_whitespace();
        let kind = words.next();
        super::parse(kind, &words.map(str::to_owned).collect::<Vec<_>>())
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
            assert_eq!(parse(text).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_kind_is_wrong_usage_with_the_nearest() {
        for text in ["", "pods", "gr/a b", "gr/", "gr/a/b", "svc,"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let failure = format!("{:?}", parse("servcies").expect_err("misspelt"));
        assert!(failure.contains("Some(\"services\")"), "{failure}");
    }
}
