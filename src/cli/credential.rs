//! `outrigger credential`: who may call the control plane's API, and as what.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Subcommand, ValueEnum};
use tonic::Status;

use super::{
    issued::{self, Issued, ListArgs, RevokeArgs},
    output::{self, Failure, Output},
    remote::{Connected, Remote},
    words,
};
use crate::{
    app::bootstrap,
    clock,
    identity::{csr, disk},
    resource::pb::{self, CredentialRole},
    spiffe::{Svid, certificate_pem},
    tls,
};

const CREATE_EXAMPLES: &str = "\
Examples:
  outrigger credential create ana --role admin --out ana
  outrigger credential create ci --role editor --namespaces shop,billing --ttl 720h --out ci
  outrigger credential create grafana --role viewer > grafana.pem

The key is made here and never leaves this machine but with you; the control plane keeps only the \
hash of the certificate. Nobody can show it again.";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a credential, with which somebody may call the API
    Create(CreateArgs),
    /// Show the credentials, and what each may do
    #[command(after_help = "Example:\n  outrigger credential list -o json")]
    List(ListArgs),
    /// Take credentials back: their connections end, and nobody calls with them any more
    #[command(after_help = "Example:\n  outrigger credential revoke ana")]
    Revoke(RevokeArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Admin,
    Editor,
    Viewer,
}

#[derive(Debug, clap::Args)]
#[command(after_help = CREATE_EXAMPLES)]
struct CreateArgs {
    /// Its name: letters, digits and -
    name: String,
    /// What it may do: an admin everything; an editor read everything, write resources of its
    /// namespaces and make join tokens for them; a viewer read everything
    #[arg(long, value_name = "admin|editor|viewer", env = "OUTRIGGER_ROLE")]
    #[arg(hide_possible_values = true)]
    role: Role,
    /// Where an editor may write [default: everywhere but to the Mesh]
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',', env = "OUTRIGGER_NAMESPACES")]
    namespaces: Vec<String>,
    /// How long it lasts, 1m to 8760h
    #[arg(long, value_name = "DURATION", default_value = "2160h")]
    #[arg(value_parser = words::within("1m", "8760h"), env = "OUTRIGGER_TTL")]
    ttl: Duration,
    /// Directory for root.pem, NAME.pem and NAME-key.pem [default: all of it to stdout]
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_OUT")]
    out: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

impl Role {
    fn to_pb(self) -> CredentialRole {
        match self {
            Self::Admin => CredentialRole::Admin,
            Self::Editor => CredentialRole::Editor,
            Self::Viewer => CredentialRole::Viewer,
        }
    }
}

fn role_name(role: CredentialRole) -> &'static str {
    match role {
        CredentialRole::Unspecified => "-",
        CredentialRole::Admin => "admin",
        CredentialRole::Editor => "editor",
        CredentialRole::Viewer => "viewer",
    }
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let (format, done) = match args.command {
        Command::Create(args) => (args.output.format, create(args).await),
        Command::List(args) => (args.output.format, issued::list::<pb::Credential>(&args).await),
        Command::Revoke(args) => {
            (args.output.format, issued::revoke::<pb::Credential>(&args).await)
        }
    };
    done.map_err(|failure| failure.in_format(format))
}

async fn create(args: CreateArgs) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    let request = csr::make()?;
    let ttl = prost_types::Duration::try_from(args.ttl)
        .map_err(|wrong| Failure::usage(format!("--ttl: {wrong}")))?;
    let wanted = pb::CreateCredentialRequest {
        name: args.name.clone(),
        role: args.role.to_pb().into(),
        namespaces: args.namespaces.clone(),
        ttl: Some(ttl),
        csr: request.csr,
    };
    if let Some(out) = &args.out {
        bootstrap::make_private_directory(out)?;
    }
    let answer = connected.client.admin().create_credential(wanted).await;
    let answer = answer.map_err(|status| connected.failed(&status))?.into_inner();
    let chain = answer.chain.into_iter().map(Into::into).collect();
    let svid = Svid::new(chain, request.key, tls::provider())?;
    let roots: String = answer.roots.into_iter().map(|der| certificate_pem(&der.into())).collect();
    let made = Made { svid, roots, info: answer.info.unwrap_or_default() };
    let handed_over = hand_over(&args, &connected.server, &made);
    if handed_over.is_err() {
        // Nobody has its key. What is said is why, and not whether this succeeds.
        let _gone = pb::Credential::revoke(&connected, &args.name).await;
    }
    handed_over
}

/// A credential that was just made, and that nobody else has.
struct Made {
    svid: Svid,
    /// PEM.
    roots: String,
    info: pb::Credential,
}

/// Writes it where it is wanted.
fn hand_over(args: &CreateArgs, server: &str, made: &Made) -> Result<ExitCode, Failure> {
    let Made { svid, roots, info } = made;
    let told = || {
        output::note(&format!("credential {}: {}, {} left\n", args.name, may(info), left(info)));
    };
    let Some(out) = &args.out else {
        told();
        return args.output.format.print(
            || format!("{}{}", svid.key_pem(), svid.chain_pem()),
            || {
                let mut value = json(info);
                value["keyPem"] = svid.key_pem().into();
                value["certificatePem"] = svid.chain_pem().into();
                value["rootsPem"] = roots.as_str().into();
                value
            },
        );
    };
    let files = write(out, &args.name, svid, roots)?;
    told();
    let [root, certificate, key] = files.map(|path| path.display().to_string());
    output::note(&format!(
        "outrigger context add {} --server {server} --cacert {root} --cert {certificate} --key {key}\n",
        args.name
    ));
    args.output.format.print(String::new, || {
        let mut value = json(info);
        value["files"] =
            serde_json::json!({ "root": root, "certificate": certificate, "key": key });
        value
    })
}

fn write(out: &Path, name: &str, svid: &Svid, roots: &str) -> Result<[PathBuf; 3], Failure> {
    bootstrap::make_private_directory(out)?;
    let path = |file: String| out.join(file);
    let files =
        [path("root.pem".to_owned()), path(format!("{name}.pem")), path(format!("{name}-key.pem"))];
    disk::write_public(&files[0], roots.as_bytes())?;
    disk::write_public(&files[1], svid.chain_pem().as_bytes())?;
    disk::write_private(&files[2], svid.key_pem().as_bytes())?;
    Ok(files)
}

impl Issued for pb::Credential {
    const NOUN: &str = "credential";
    const MADE_BY: &str = "outrigger credential create NAME";

    fn name(&self) -> &str {
        &self.name
    }

    fn table(all: &[Self]) -> String {
        table(all)
    }

    fn json(&self) -> serde_json::Value {
        json(self)
    }

    async fn all(connected: &Connected) -> Result<Vec<Self>, Status> {
        let answer = connected.client.admin().list_credentials(pb::ListCredentialsRequest {}).await;
        Ok(answer?.into_inner().credentials)
    }

    async fn revoke(connected: &Connected, name: &str) -> Result<(), Status> {
        let request = pb::RevokeCredentialRequest { name: name.to_owned() };
        connected.client.admin().revoke_credential(request).await.map(|_| ())
    }
}

fn may(credential: &pb::Credential) -> String {
    let role = role_name(credential.role());
    if credential.namespaces.is_empty() {
        role.to_owned()
    } else {
        format!("{role} of {}", credential.namespaces.join(","))
    }
}

fn left(credential: &pb::Credential) -> String {
    let end = words::time(credential.expires_at.as_ref());
    let left = end.and_then(|end| end.duration_since(clock::now()).ok());
    left.map_or_else(|| "expired".to_owned(), words::left)
}

fn table(all: &[pb::Credential]) -> String {
    let row = |it: &pb::Credential| {
        vec![
            it.name.clone(),
            role_name(it.role()).to_owned(),
            if it.namespaces.is_empty() { "-".to_owned() } else { it.namespaces.join(",") },
            left(it),
            words::who(&it.created_by).to_owned(),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    output::table(&["NAME", "ROLE", "NAMESPACES", "LEFT", "MADE BY"], &[], &rows)
}

fn json(it: &pb::Credential) -> serde_json::Value {
    serde_json::json!({
        "name": it.name,
        "role": role_name(it.role()),
        "namespaces": it.namespaces,
        "createdAt": words::time_json(it.created_at.as_ref()),
        "expiresAt": words::time_json(it.expires_at.as_ref()),
        "createdBy": it.created_by,
        "sha256": it.sha256,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::table;
    use crate::{
        clock,
        resource::pb::{self, CredentialRole},
    };

    #[test]
    fn the_list_says_what_each_may_do() {
        let end = clock::now() + Duration::from_hours(24 * 90 + 1);
        let credential = |name: &str, role: CredentialRole, namespaces: &[&str]| pb::Credential {
            name: name.to_owned(),
            role: role.into(),
            namespaces: namespaces.iter().map(|it| (*it).to_owned()).collect(),
            expires_at: Some(prost_types::Timestamp::from(end)),
            created_by: "spiffe://mesh.local/credential/admin".to_owned(),
            ..Default::default()
        };
        let all = [
            credential("ana", CredentialRole::Admin, &[]),
            credential("ci", CredentialRole::Editor, &["billing", "shop"]),
        ];
        let expected = "\
NAME  ROLE    NAMESPACES    LEFT  MADE BY
ana   admin   -             90d   admin
ci    editor  billing,shop  90d   admin
";
        assert_eq!(table(&all), expected);
    }
}
