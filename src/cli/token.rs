//! `outrigger token`: who may join the mesh.

use std::{process::ExitCode, time::Duration};

use clap::Subcommand;
use tonic::Status;

use super::{
    issued::{self, Issued, ListArgs, RevokeArgs},
    output::{self, Failure, Output},
    remote::{Connected, Remote},
    words,
};
use crate::{clock, resource::pb, units::ServiceName};

const CREATE_EXAMPLES: &str = "\
Examples:
  outrigger token create --service orders -n shop > orders.token
  outrigger sidecar --service orders.shop --token-file orders.token --app :9090

  outrigger token create --service web --uses 0 --ttl 12h    any number of instances for 12 hours

The token is printed once and is not kept; whoever has it may join as that service.";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token with which a sidecar joins as one service
    Create(CreateArgs),
    /// Show the tokens, without their secrets
    #[command(after_help = "Example:\n  outrigger token list -o json")]
    List(ListArgs),
    /// Take tokens back: nobody joins with them any more
    #[command(after_help = "Example:\n  outrigger token revoke $(outrigger token list -o name)")]
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = CREATE_EXAMPLES)]
struct CreateArgs {
    /// Who may join with it: NAME or NAME.NAMESPACE
    #[arg(long, value_name = "SERVICE", env = "OUTRIGGER_SERVICE")]
    service: String,
    /// The service's namespace [default: the context's]
    #[arg(short, long, value_name = "NAMESPACE", env = "OUTRIGGER_NAMESPACE")]
    namespace: Option<String>,
    /// How long it may be used, 1s to 720h
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    #[arg(value_parser = words::within("1s", "720h"))]
    #[arg(env = "OUTRIGGER_TTL")]
    ttl: Duration,
    /// How often it may be used; 0: until the time is up
    #[arg(long, value_name = "NUMBER", default_value_t = 1, env = "OUTRIGGER_USES")]
    uses: u32,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let (format, done) = match args.command {
        Command::Create(args) => (args.output.format, create(args).await),
        Command::List(args) => (args.output.format, issued::list::<pb::Token>(&args).await),
        Command::Revoke(args) => (args.output.format, issued::revoke::<pb::Token>(&args).await),
    };
    done.map_err(|failure| failure.in_format(format))
}

async fn create(args: CreateArgs) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    let namespace = args.namespace.as_deref();
    let default = namespace.unwrap_or(&connected.namespace);
    let service = ServiceName::parse(&args.service, default)
        .map_err(|wrong| Failure::usage(format!("--service {:?}: {wrong}", args.service)))?;
    if let Some(other) = namespace.filter(|other| *other != service.namespace) {
        let message = format!("--service {} is not in --namespace {other}", args.service);
        return Err(Failure::usage(message));
    }
    let ttl = prost_types::Duration::try_from(args.ttl)
        .map_err(|wrong| Failure::usage(format!("--ttl: {wrong}")))?;
    let request = pb::CreateTokenRequest {
        service: service.name.clone(),
        namespace: service.namespace.clone(),
        ttl: Some(ttl),
        uses: Some(args.uses),
    };
    let answer = connected.client.admin().create_token(request).await;
    let pb::CreateTokenResponse { token, info } =
        answer.map_err(|status| connected.failed(&status))?.into_inner();
    let info = info.unwrap_or_default();
    let uses = match info.uses {
        0 => "as often as it likes".to_owned(),
        1 => "once".to_owned(),
        number => format!("{number} times"),
    };
    let left =
        left(&info).map_or_else(String::new, |left| format!(" within {}", words::left(left)));
    // The token alone goes to stdout, so that it can go to a file.
    output::note(&format!("token {}: {service} may join with it {uses}{left}\n", info.id));
    args.output.format.print(
        || format!("{token}\n"),
        || {
            let mut value = json(&info);
            value["token"] = token.clone().into();
            value
        },
    )
}

impl Issued for pb::Token {
    const NOUN: &str = "token";
    const MADE_BY: &str = "outrigger token create --service NAME";

    fn name(&self) -> &str {
        &self.id
    }

    fn table(all: &[Self]) -> String {
        table(all)
    }

    fn json(&self) -> serde_json::Value {
        json(self)
    }

    async fn all(connected: &Connected) -> Result<Vec<Self>, Status> {
        let answer = connected.client.admin().list_tokens(pb::ListTokensRequest {}).await;
        Ok(answer?.into_inner().tokens)
    }

    async fn revoke(connected: &Connected, id: &str) -> Result<(), Status> {
        let request = pb::RevokeTokenRequest { id: id.to_owned() };
        connected.client.admin().revoke_token(request).await.map(|_| ())
    }
}

fn left(token: &pb::Token) -> Option<Duration> {
    words::time(token.expires_at.as_ref())?.duration_since(clock::now()).ok()
}

/// Whether it can be used, in a word.
fn state(token: &pb::Token) -> &'static str {
    if token.revoked {
        "revoked"
    } else if left(token).is_none() {
        "expired"
    } else if token.uses > 0 && token.used >= token.uses {
        "used"
    } else {
        "usable"
    }
}

fn table(tokens: &[pb::Token]) -> String {
    let row = |token: &pb::Token| {
        let uses = match token.uses {
            0 => token.used.to_string(),
            uses => format!("{}/{uses}", token.used),
        };
        vec![
            token.id.clone(),
            format!("{}.{}", token.service, token.namespace),
            uses,
            state(token).to_owned(),
            left(token).map_or_else(|| "-".to_owned(), words::age),
            words::who(&token.created_by).to_owned(),
        ]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    output::table(&["ID", "SERVICE", "USED", "STATE", "LEFT", "MADE BY"], &[2, 4], &rows)
}

fn json(token: &pb::Token) -> serde_json::Value {
    serde_json::json!({
        "id": token.id,
        "service": token.service,
        "namespace": token.namespace,
        "createdAt": words::time_json(token.created_at.as_ref()),
        "expiresAt": words::time_json(token.expires_at.as_ref()),
        "uses": token.uses,
        "used": token.used,
        "state": state(token),
        "createdBy": token.created_by,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{state, table};
    use crate::{clock, resource::pb};

    fn token(uses: u32, used: u32, revoked: bool) -> pb::Token {
        let expires = clock::now() + Duration::from_secs(1790);
        pb::Token {
            id: "a1b2".to_owned(),
            service: "orders".to_owned(),
            namespace: "shop".to_owned(),
            expires_at: Some(prost_types::Timestamp::from(expires)),
            uses,
            used,
            revoked,
            created_by: "ana".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn a_token_is_usable_until_something_ends_it() {
        for (token, expected) in [
            (token(1, 0, false), "usable"),
            (token(0, 900, false), "usable"),
            (token(1, 1, false), "used"),
            (token(1, 0, true), "revoked"),
            (pb::Token { expires_at: None, ..token(1, 0, false) }, "expired"),
        ] {
            assert_eq!(state(&token), expected);
        }
        let expected = "\
ID    SERVICE      USED  STATE   LEFT  MADE BY
a1b2  orders.shop   0/1  usable   29m  ana
";
        assert_eq!(table(&[token(1, 0, false)]), expected);
    }
}
