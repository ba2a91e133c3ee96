//! Join tokens: making, listing, revoking and using them. What may be done with a token is decided
//! here from what was stored of it, and every use is on disk before it has any effect.

use std::time::{Duration, SystemTime};

use tonic::{Code, Status};

use super::{
    error,
    state::{State, Writer, pb_time},
    store::{Batch, TokenRow},
};
use crate::{
    identity::{JoinToken, secret_matches},
    resource::pb,
    spiffe::sha256,
    units::ServiceName,
};

/// How long a token lasts when nobody says.
const TTL_DEFAULT: Duration = Duration::from_hours(1);
/// How long a token lasts at most.
const TTL_MAX: Duration = Duration::from_hours(24 * 30);
/// Tokens that are kept at once.
const TOKENS_MAX: usize = 10_000;
/// Requests remembered of one token.
const REQUESTS_MAX: usize = 8;
/// How long a token that ended is still listed.
const KEPT_AFTER_END: Duration = Duration::from_hours(24);

/// What a new token is to be.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Who may join with it.
    pub service: ServiceName,
    /// 0: any number.
    pub uses: u32,
    /// From now.
    pub ttl: Duration,
    /// Who asked for it.
    pub by: String,
}

/// Reads a lifetime; absent means the default.
pub(crate) fn ttl(asked: Option<prost_types::Duration>) -> Result<Duration, Status> {
    let Some(asked) = asked else { return Ok(TTL_DEFAULT) };
    Duration::try_from(asked)
        .ok()
        .filter(|ttl| (Duration::from_secs(1)..=TTL_MAX).contains(ttl))
        .ok_or_else(|| error::invalid("ttl", "is not between 1 s and 30 days"))
}

/// Makes a token and stores what is kept of it.
pub(crate) fn create(
    state: &State,
    writer: &mut Writer,
    wanted: &Wanted,
    root_hash: [u8; 32],
    now: SystemTime,
) -> Result<(JoinToken, pb::Token), Status> {
    let over: Vec<_> = writer
        .tokens
        .values()
        .filter_map(|row| row.info.as_ref())
        .filter(|info| expires_at(info) + KEPT_AFTER_END < now)
        .map(|info| info.id.clone())
        .collect();
    if writer.tokens.len() - over.len() >= TOKENS_MAX {
        return Err(Status::resource_exhausted(format!(
            "there are {TOKENS_MAX} tokens; wait until some end"
        )));
    }
    let token = JoinToken::new(wanted.service.clone(), root_hash)
        .map_err(|wrong| error::invalid("service", wrong.to_string()))?;
    let info = pb::Token {
        id: token.id(),
        service: wanted.service.name.clone(),
        namespace: wanted.service.namespace.clone(),
        created_at: Some(pb_time(now)),
        expires_at: Some(pb_time(now + wanted.ttl)),
        uses: wanted.uses,
        used: 0,
        revoked: false,
        created_by: wanted.by.clone(),
    };
    let row = TokenRow {
        info: Some(info.clone()),
        secret_sha256: token.secret_hash().to_vec(),
        requests_sha256: Vec::new(),
    };
    let batch = Batch { put_tokens: vec![row.clone()], delete_tokens: over, ..Default::default() };
    state.write_identities(&batch).map_err(|error| error::store(&error))?;
    for id in &batch.delete_tokens {
        writer.tokens.remove(id);
    }
    writer.tokens.insert(info.id.clone(), row);
    Ok((token, info))
}

/// All tokens, the newest first.
pub(crate) fn list(writer: &Writer) -> Vec<pb::Token> {
    let mut tokens: Vec<_> = writer.tokens.values().filter_map(|row| row.info.clone()).collect();
    tokens
        .sort_by_key(|token| std::cmp::Reverse(token.created_at.map(|at| (at.seconds, at.nanos))));
    tokens
}

/// For whom a token is, if it is there.
pub(crate) fn service_of(writer: &Writer, id: &str) -> Option<ServiceName> {
    let info = writer.tokens.get(id)?.info.as_ref()?;
    Some(ServiceName::new(&info.service, &info.namespace))
}

/// Nobody joins with it any more.
pub(crate) fn revoke(state: &State, writer: &mut Writer, id: &str) -> Result<(), Status> {
    let Some(row) = writer.tokens.get(id) else {
        return Err(Status::not_found(format!("there is no token {id:?}")));
    };
    change(state, writer, row.clone(), |info| info.revoked = true)
}

/// Whom the token attests, if it may be used now for that certificate request.
pub(crate) fn attest(
    writer: &Writer,
    token: &JoinToken,
    csr: &[u8],
    now: SystemTime,
) -> Result<ServiceName, Status> {
    let refused = |reason: &str, message: &str| {
        error::refused(Code::Unauthenticated, reason, message, &[("token", token.id())])
    };
    let row = writer.tokens.get(&token.id());
    // A wrong secret looks like a token that does not exist.
    let Some((row, info)) = row
        .filter(|row| secret_matches(token, &row.secret_sha256))
        .and_then(|row| Some((row, row.info.as_ref()?)))
    else {
        return Err(refused("TOKEN_UNKNOWN", "this control plane has not made this token"));
    };
    if info.revoked {
        return Err(refused("TOKEN_REVOKED", "the token was revoked; ask for another one"));
    }
    if expires_at(info) <= now {
        let service = format!("{}.{}", info.service, info.namespace);
        let message = format!(
            "the token has expired; `outrigger token create --service {service}` makes another one"
        );
        return Err(refused("TOKEN_EXPIRED", &message));
    }
    if info.uses > 0 && info.used >= info.uses && !is_known(row, csr) {
        let times = if info.uses == 1 { "once".to_owned() } else { format!("{} times", info.uses) };
        let message = format!(
            "the token was for joining {times}, and that was done; a sidecar that keeps its data \
             directory joins once and needs none again, others need a token with more uses \
             (--uses 0)"
        );
        return Err(refused("TOKEN_USED", &message));
    }
    let service = ServiceName::new(&info.service, &info.namespace);
    if service != *token.service() {
        return Err(refused("TOKEN_UNKNOWN", "this control plane has not made this token"));
    }
    Ok(service)
}

/// Counts the use for that certificate request, unless it was counted before.
pub(crate) fn count(
    state: &State,
    writer: &mut Writer,
    token: &JoinToken,
    csr: &[u8],
) -> Result<(), Status> {
    let Some(row) = writer.tokens.get(&token.id()) else {
        return Err(error::internal("a token went away while it was used"));
    };
    if is_known(row, csr) {
        return Ok(());
    }
    let mut row = row.clone();
    if row.requests_sha256.len() >= REQUESTS_MAX {
        row.requests_sha256.remove(0);
    }
    row.requests_sha256.push(sha256(csr).to_vec());
    change(state, writer, row, |info| info.used = info.used.saturating_add(1))
}

fn is_known(row: &TokenRow, csr: &[u8]) -> bool {
    row.requests_sha256.iter().any(|known| *known == sha256(csr))
}

fn change(
    state: &State,
    writer: &mut Writer,
    mut row: TokenRow,
    change: impl FnOnce(&mut pb::Token),
) -> Result<(), Status> {
    let Some(info) = row.info.as_mut() else { return Ok(()) };
    change(info);
    let id = info.id.clone();
    let batch = Batch { put_tokens: vec![row.clone()], ..Default::default() };
    state.write_identities(&batch).map_err(|error| error::store(&error))?;
    writer.tokens.insert(id, row);
    Ok(())
}

fn expires_at(info: &pb::Token) -> SystemTime {
    info.expires_at.and_then(|at| SystemTime::try_from(at).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime, UNIX_EPOCH},
    };

    use tonic::{Code, Status};
    use tonic_types::StatusExt as _;

    use super::{Wanted, attest, count, create, list, revoke, ttl};
    use crate::{
        clock,
        control::state::{State, Writer},
        identity::JoinToken,
        units::ServiceName,
    };

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    /// Runs a check with a store and a token of so many uses that lasts 60 s.
    async fn with_token(
        uses: u32,
        check: impl FnOnce(&State, &mut Writer, JoinToken) + Send + 'static,
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let state = State::open(&directory.path().join("mesh.redb"), "mesh.local", clock::now)
            .expect("opens");
        Arc::clone(&state)
            .write(move |state, writer| {
                let wanted = Wanted {
                    service: ServiceName::new("orders", "shop"),
                    uses,
                    ttl: Duration::from_secs(60),
                    by: "a test".to_owned(),
                };
                let (token, _) = create(state, writer, &wanted, [7; 32], at(0))?;
                check(state, writer, token);
                Ok(())
            })
            .await
            .expect("done");
    }

    fn reason(result: Result<ServiceName, Status>) -> String {
        let status = result.expect_err("refused");
        assert_eq!(status.code(), Code::Unauthenticated);
        status.get_details_error_info().expect("has it").reason
    }

    #[tokio::test]
    async fn a_token_attests_its_service_as_often_as_it_was_made_for() {
        with_token(2, |state, writer, token| {
            // The same request again is no further use.
            for csr in [b"one", b"one", b"two", b"one", b"two"] {
                let attested = attest(writer, &token, csr, at(1)).expect("accepted");
                assert_eq!(attested, ServiceName::new("orders", "shop"));
                count(state, writer, &token, csr).expect("counted");
            }
            assert_eq!(reason(attest(writer, &token, b"three", at(1))), "TOKEN_USED");
            assert_eq!(list(writer)[0].used, 2);
            assert_eq!(reason(attest(writer, &token, b"one", at(60))), "TOKEN_EXPIRED");
        })
        .await;
    }

    #[tokio::test]
    async fn a_token_without_a_number_ends_by_time_only() {
        with_token(0, |state, writer, token| {
            for csr in 0..20_u8 {
                attest(writer, &token, &[csr], at(59)).expect("accepted");
                count(state, writer, &token, &[csr]).expect("counted");
            }
            assert_eq!(reason(attest(writer, &token, b"", at(60))), "TOKEN_EXPIRED");
        })
        .await;
    }

    #[tokio::test]
    async fn revoked_forged_and_foreign_tokens_are_refused() {
        with_token(1, |state, writer, token| {
            let foreign =
                JoinToken::new(ServiceName::new("orders", "shop"), [7; 32]).expect("made");
            assert_eq!(reason(attest(writer, &foreign, b"", at(1))), "TOKEN_UNKNOWN");
            revoke(state, writer, &token.id()).expect("revoked");
            assert_eq!(reason(attest(writer, &token, b"", at(1))), "TOKEN_REVOKED");
            assert_eq!(
                revoke(state, writer, "nothing").expect_err("unknown").code(),
                Code::NotFound
            );
        })
        .await;
    }

    #[tokio::test]
    async fn ended_tokens_are_forgotten_after_a_day() {
        with_token(1, |state, writer, _| {
            let wanted = |name: &str| Wanted {
                service: ServiceName::new(name, "shop"),
                uses: 1,
                ttl: Duration::from_secs(60),
                by: String::new(),
            };
            create(state, writer, &wanted("a"), [7; 32], at(3600)).expect("made");
            assert_eq!(list(writer).len(), 2);
            create(state, writer, &wanted("b"), [7; 32], at(90_000)).expect("made");
            let services: Vec<_> = list(writer).into_iter().map(|token| token.service).collect();
            assert_eq!(services, ["b", "a"]);
        })
        .await;
    }

    #[test]
    fn lifetimes_are_bounded() {
        let duration = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        assert_eq!(ttl(None).expect("default"), Duration::from_secs(3600));
        assert_eq!(ttl(duration(1)).expect("accepted"), Duration::from_secs(1));
        for seconds in [0, -1, 30 * 86_400 + 1] {
            assert_eq!(ttl(duration(seconds)).expect_err("refused").code(), Code::InvalidArgument);
        }
    }
}
