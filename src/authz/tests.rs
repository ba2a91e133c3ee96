//! Tables of who may do what, and random requests that look for a way around.

use proptest::{prop_assert, prop_assert_eq, proptest};

use super::{Decision, decide, decide_connection};
use crate::{
    http::Head,
    reason::Reason,
    snapshot::{
        AccessLogMode, AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Inbound,
        InboundPort, Mesh, MtlsMode, Protocol, Source, Target, Tracing,
    },
    spiffe::SpiffeId,
};

const ORDERS: &str = "spiffe://mesh.local/ns/shop/svc/orders";
const REFUNDS: &str = "spiffe://mesh.local/ns/billing/svc/refunds";
const FOREIGN: &str = "spiffe://other.local/ns/shop/svc/orders";
const WORKSTATION: &str = "spiffe://mesh.local/people/ana";

fn id(text: &str) -> SpiffeId {
    text.parse().expect("a SPIFFE ID")
}

fn mesh(allowed: bool) -> Mesh {
    Mesh {
        trust_domain: "mesh.local".into(),
        authenticated_peers_allowed: allowed,
        egress_allowed: true,
        tracing: Tracing { sampling: 1.0, per_second_max: 1.0, otlp: None },
        access_log: AccessLogMode::Off,
    }
}

fn port(mtls: MtlsMode) -> InboundPort {
    InboundPort { number: 80, local: 8080, protocol: Protocol::Detect, mtls }
}

fn policy(
    name: &str,
    action: AuthorizationAction,
    rules: Vec<AuthorizationRule>,
) -> AuthorizationPolicy {
    AuthorizationPolicy { name: name.into(), action, rules }
}

fn rule(from: Vec<Source>, to: Vec<Target>) -> AuthorizationRule {
    AuthorizationRule { from, to }
}

fn services(services: &[&str]) -> Source {
    Source { services: services.iter().map(|text| id(text)).collect(), ..Source::default() }
}

fn grpc(service: &str, method: Option<&str>) -> Target {
    Target { grpc: vec![(service.into(), method.map(String::from))], ..Target::default() }
}

fn http(methods: &[&str], paths: &[(&str, bool)]) -> Target {
    Target {
        grpc: Vec::new(),
        methods: methods.iter().map(|method| (*method).into()).collect(),
        paths: paths.iter().map(|(path, prefix)| ((*path).into(), *prefix)).collect(),
        http: true,
    }
}

fn inbound(policies: Vec<AuthorizationPolicy>) -> Inbound {
    Inbound { ports: Vec::new(), policies, caller_bulkhead: None }
}

/// A call: who, method, path, content type.
type Call<'a> = (Option<&'a str>, &'a str, &'a str, &'a str);

fn decision<'a>(
    inbound: &'a Inbound,
    call: Call<'_>,
    default: bool,
    mode: MtlsMode,
) -> Decision<'a> {
    let (peer, method, path, content_type) = call;
    let fields: &[(&str, &str)] = &[("content-type", content_type)];
    let head = Head { method, authority: "payments", path, query: "", fields: &fields };
    decide(inbound, &mesh(default), peer.map(id).as_ref(), &head, &port(mode))
}

fn allowed(inbound: &Inbound, call: Call<'_>) -> bool {
    decision(inbound, call, true, MtlsMode::Permissive).allowed
}

const GRPC: &str = "application/grpc";
const CHARGE: &str = "/shop.Payments/Charge";

#[test]
fn without_policies_the_mesh_decides() {
    let none = inbound(Vec::new());
    for (peer, default, mode, reason) in [
        (Some(ORDERS), true, MtlsMode::Strict, None),
        (Some(ORDERS), false, MtlsMode::Strict, Some(Reason::Denied)),
        (None, true, MtlsMode::Permissive, None),
        (None, true, MtlsMode::Disabled, None),
        (None, false, MtlsMode::Permissive, Some(Reason::Unauthenticated)),
        (None, true, MtlsMode::Strict, Some(Reason::Unauthenticated)),
    ] {
        let decision = decision(&none, (peer, "GET", "/", ""), default, mode);
        assert_eq!((decision.reason(), decision.policy), (reason, None), "{peer:?} {mode:?}");
    }
}

#[test]
fn where_an_allow_policy_applies_the_rest_is_denied() {
    let allow = |name: &str, of: &str| {
        policy(name, AuthorizationAction::Allow, vec![rule(vec![services(&[of])], vec![])])
    };
    let inbound = inbound(vec![allow("shop/a", ORDERS), allow("shop/b", REFUNDS)]);
    for (peer, reason, policy) in [
        (Some(ORDERS), None, "shop/a"),
        (Some(REFUNDS), None, "shop/b"),
        (Some(WORKSTATION), Some(Reason::Denied), "shop/a"),
        (Some(FOREIGN), Some(Reason::Denied), "shop/a"),
        (None, Some(Reason::Unauthenticated), "shop/a"),
    ] {
        let decision = decision(&inbound, (peer, "GET", "/", ""), true, MtlsMode::Permissive);
        let found = decision.policy.map(|policy| &**policy);
        assert_eq!((decision.reason(), found), (reason, Some(policy)), "{peer:?}");
    }
}

#[test]
fn deny_beats_allow_and_an_empty_policy_matches_nothing() {
    let all = || vec![rule(vec![], vec![])];
    let deny =
        policy("shop/no", AuthorizationAction::Deny, vec![rule(vec![services(&[ORDERS])], vec![])]);
    let inbound_of_both =
        inbound(vec![policy("shop/yes", AuthorizationAction::Allow, all()), deny]);
    let denied = decision(&inbound_of_both, (Some(ORDERS), "GET", "/", ""), true, MtlsMode::Strict);
    assert_eq!((denied.allowed, denied.policy.map(|policy| &**policy)), (false, Some("shop/no")));
    assert!(allowed(&inbound_of_both, (Some(REFUNDS), "GET", "/", "")));

    let nothing = inbound(vec![policy("shop/empty", AuthorizationAction::Allow, vec![])]);
    assert!(!allowed(&nothing, (Some(ORDERS), "GET", "/", "")));
    let nothing = inbound(vec![policy("shop/empty", AuthorizationAction::Deny, vec![])]);
    assert!(allowed(&nothing, (Some(ORDERS), "GET", "/", "")));
}

#[test]
fn sources_need_all_their_parts() {
    let prefix = |text: &str| Source { identity_prefixes: vec![text.into()], ..Source::default() };
    let namespace = |text: &str| Source { namespaces: vec![text.into()], ..Source::default() };
    let exact = |text: &str| Source { identities: vec![id(text)], ..Source::default() };
    let both = Source { namespaces: vec!["shop".into()], ..services(&[ORDERS, REFUNDS]) };
    let either = Source { identities: vec![id(REFUNDS)], ..prefix("spiffe://mesh.local/ns/shop/") };
    for (source, expected) in [
        (services(&[ORDERS]), [ORDERS].as_slice()),
        (exact(WORKSTATION), &[WORKSTATION]),
        (prefix("spiffe://mesh.local/ns/shop/svc/"), &[ORDERS]),
        (prefix("spiffe://mesh.local/"), &[ORDERS, REFUNDS, WORKSTATION]),
        (namespace("shop"), &[ORDERS]),
        (namespace("billing"), &[REFUNDS]),
        (both, &[ORDERS]),
        (either, &[ORDERS, REFUNDS]),
    ] {
        let name = format!("{source:?}");
        let rules = vec![rule(vec![source], vec![])];
        let inbound = inbound(vec![policy("shop/p", AuthorizationAction::Allow, rules)]);
        let peers = [ORDERS, REFUNDS, FOREIGN, WORKSTATION];
        let may: Vec<&str> = peers
            .into_iter()
            .filter(|peer| allowed(&inbound, (Some(peer), "GET", "/", "")))
            .collect();
        assert_eq!(may, expected, "{name}");
        assert!(!allowed(&inbound, (None, "GET", "/", "")), "{name}: no identity");
    }
}

#[test]
fn allow_targets_match_exactly() {
    let charge = || grpc("shop.Payments", Some("Charge"));
    let service = || grpc("shop.Payments", None);
    let health = || http(&["GET"], &[("/health", false), ("/v1/", true)]);
    for (target, method, path, content_type, expected) in [
        (charge(), "POST", CHARGE, GRPC, true),
        (charge(), "POST", CHARGE, "application/grpc+proto", true),
        (charge(), "POST", CHARGE, "application/grpc-web", false),
        (charge(), "POST", CHARGE, "application/json", false),
        (charge(), "GET", CHARGE, GRPC, false),
        (charge(), "POST", "/shop.Payments/Refund", GRPC, false),
        (charge(), "POST", "/shop.Payments/Charge/", GRPC, false),
        (charge(), "POST", "//shop.Payments/Charge", GRPC, false),
        (charge(), "POST", "shop.Payments/Charge", GRPC, false),
        (charge(), "POST", "/shop.Payments/charge", GRPC, false),
        (charge(), "POST", "/shop.Payments/Charg%65", GRPC, false),
        (service(), "POST", "/shop.Payments/Refund", GRPC, true),
        (service(), "POST", "/shop.Payments/a/b", GRPC, false),
        (service(), "POST", "/shop.Payments/;x", GRPC, false),
        (service(), "POST", "/shop.PaymentsAdmin/Charge", GRPC, false),
        (health(), "GET", "/health", "", true),
        (health(), "GET", "/v1/x", "", true),
        (health(), "GET", "/v1", "", false),
        (health(), "POST", "/health", "", false),
        (health(), "get", "/health", "", false),
        (health(), "GET", "/healthz", "", false),
        (health(), "GET", "/v1/../admin", "", false),
        (health(), "GET", "/v1/%2e%2e/admin", "", false),
        (health(), "GET", "/v1/a//b", "", false),
        (http(&["POST"], &[]), "POST", "/any", "", true),
        (http(&["POST"], &[]), "POST", CHARGE, GRPC, false),
        (http(&[], &[]), "GET", "//any", "", true),
        (http(&[], &[("/", true)]), "GET", "//any", "", false),
    ] {
        let name = format!("{target:?} {method} {path} {content_type}");
        let rules = vec![rule(vec![], vec![target])];
        let inbound = inbound(vec![policy("shop/p", AuthorizationAction::Allow, rules)]);
        assert_eq!(
            allowed(&inbound, (Some(ORDERS), method, path, content_type)),
            expected,
            "{name}"
        );
    }
}

#[test]
fn deny_targets_match_on_doubt() {
    let charge = || grpc("shop.Payments", Some("Charge"));
    let admin = || http(&[], &[("/admin", false), ("/admin/", true)]);
    for (target, method, path, content_type, denied) in [
        (charge(), "POST", CHARGE, GRPC, true),
        (charge(), "POST", CHARGE, "text/plain", true),
        (charge(), "POST", "//shop.Payments/Charge", GRPC, true),
        (charge(), "POST", "/shop.Payments/Charge/", GRPC, true),
        (charge(), "POST", "/shop.Payments/Charg%65", "", true),
        (charge(), "POST", "/shop.Payments/Refund", GRPC, false),
        (charge(), "GET", "/health", "", false),
        (admin(), "GET", "/admin", "", true),
        (admin(), "GET", "/admin/x", "", true),
        (admin(), "POST", "/admin/x", GRPC, true),
        (admin(), "GET", "/x/../admin", "", true),
        (admin(), "GET", "//admin", "", true),
        (admin(), "GET", "/%61dmin", "", true),
        (admin(), "GET", "/x;/admin", "", true),
        (admin(), "GET", "/administrator", "", false),
        (admin(), "GET", "/x", "", false),
        (http(&["DELETE"], &[]), "DELETE", "//x", "", true),
        (http(&["DELETE"], &[]), "GET", "//x", "", false),
    ] {
        let name = format!("{target:?} {method} {path} {content_type}");
        let rules = vec![rule(vec![], vec![target])];
        let inbound = inbound(vec![policy("shop/p", AuthorizationAction::Deny, rules)]);
        for peer in [Some(ORDERS), None] {
            let call = (peer, method, path, content_type);
            assert_eq!(allowed(&inbound, call), !denied, "{name} {peer:?}");
        }
    }
}

#[test]
fn of_an_opaque_connection_only_the_caller_is_known() {
    use AuthorizationAction::{Allow, Audit, Deny};
    let named = || vec![rule(vec![], vec![http(&["GET"], &[])])];
    let from = |who: &str| vec![rule(vec![services(&[who])], vec![])];
    for (action, rules, expected) in [
        (Allow, from(ORDERS), true),
        (Allow, from(REFUNDS), false),
        (Allow, named(), false),
        (Deny, from(ORDERS), false),
        (Deny, from(REFUNDS), true),
        (Deny, named(), false),
        (Deny, vec![rule(vec![], vec![grpc("a.B", None)])], false),
        (Audit, named(), true),
    ] {
        let inbound = inbound(vec![policy("shop/p", action, rules.clone())]);
        let (mesh, port) = (mesh(true), port(MtlsMode::Strict));
        let decision = decide_connection(&inbound, &mesh, Some(&id(ORDERS)), &port);
        assert_eq!(decision.allowed, expected, "{action:?} {rules:?}");
        assert_eq!(decision.audited, action == Audit);
        assert!(!decide_connection(&inbound, &mesh, None, &port).allowed, "a stranger");
    }
}

#[test]
fn entries_of_a_list_are_alternatives() {
    let rules = vec![
        rule(vec![services(&[ORDERS]), services(&[REFUNDS])], vec![http(&["GET"], &[])]),
        rule(vec![services(&[WORKSTATION])], vec![http(&["PUT"], &[]), http(&["POST"], &[])]),
    ];
    let inbound = inbound(vec![policy("shop/p", AuthorizationAction::Allow, rules)]);
    for (peer, method, expected) in [
        (ORDERS, "GET", true),
        (REFUNDS, "GET", true),
        (ORDERS, "PUT", false),
        (WORKSTATION, "PUT", true),
        (WORKSTATION, "POST", true),
        (WORKSTATION, "GET", false),
    ] {
        let call = (Some(peer), method, "/", "");
        assert_eq!(allowed(&inbound, call), expected, "{peer} {method}");
    }
}

#[test]
fn audit_decides_nothing_and_says_what_it_would_not_allow() {
    let rules = vec![rule(vec![services(&[ORDERS])], vec![])];
    let inbound = inbound(vec![policy("shop/p", AuthorizationAction::Audit, rules)]);
    for (peer, audited) in [(ORDERS, false), (REFUNDS, true)] {
        let decision = decision(&inbound, (Some(peer), "GET", "/", ""), true, MtlsMode::Strict);
        assert_eq!((decision.allowed, decision.audited, decision.policy), (true, audited, None));
    }
}

proptest! {
    /// Whatever a path looks like: what is allowed by a rule for one exact path is that path, and
    /// what decodes and resolves to a denied path is denied.
    #[test]
    fn no_spelling_goes_around_a_path_rule(
        path in "/{0,2}(a|%61|%41|A|\\.|\\.\\.|%2e|%2E|;|%3b|#|\\\\|%5c|%2f|/|d|min|%6din|%256d|x|%){0,8}"
    ) {
        let target = || vec![rule(vec![], vec![http(&[], &[("/admin", false)])])];
        let allow = inbound(vec![policy("p", AuthorizationAction::Allow, target())]);
        let deny = inbound(vec![policy("p", AuthorizationAction::Deny, target())]);
        let call = (Some(ORDERS), "GET", path.as_str(), "");
        prop_assert_eq!(allowed(&allow, call), path == "/admin");
        if lenient_reading(&path) == "/admin" {
            prop_assert!(!allowed(&deny, call), "{}", path);
        }
    }
}

/// What the most lenient application could make of a path: decodes twice, cuts parameters and
/// fragments, takes backslashes for slashes, merges slashes and resolves dots.
fn lenient_reading(path: &str) -> String {
    let decode = |text: &str| {
        let mut decoded = text.to_owned();
        for (escape, byte) in [
            ("%61", "a"),
            ("%41", "A"),
            ("%2e", "."),
            ("%2E", "."),
            ("%3b", ";"),
            ("%5c", "\\"),
            ("%2f", "/"),
            ("%6d", "m"),
            ("%25", "%"),
        ] {
            decoded = decoded.replace(escape, byte);
        }
        decoded
    };
    let decoded = decode(&decode(path)).replace('\\', "/");
    let cut = decoded.split('#').next().unwrap_or_default();
    let mut segments: Vec<&str> = Vec::new();
    for segment in cut.split('/').map(|segment| segment.split(';').next().unwrap_or_default()) {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}
