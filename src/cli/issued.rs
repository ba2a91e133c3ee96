//! What join tokens and credentials have in common: each is made once, listed, and taken back.

use std::process::ExitCode;

use tonic::Status;

use super::{
    output::{self, Failure, Format, Output},
    remote::{Connected, Remote},
};

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    /// Which ones, as `list` shows them
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    pub(super) output: Output,
}

/// Something that the control plane issues.
pub(super) trait Issued: Sized {
    /// `token`
    const NOUN: &str;
    /// How one is made.
    const MADE_BY: &str;

    /// By what it is taken back.
    fn name(&self) -> &str;
    /// All of them for people.
    fn table(all: &[Self]) -> String;
    /// For programs.
    fn json(&self) -> serde_json::Value;
    /// All that there are.
    async fn all(connected: &Connected) -> Result<Vec<Self>, Status>;
    /// Takes one back.
    async fn revoke(connected: &Connected, name: &str) -> Result<(), Status>;
}

pub(super) async fn list<T: Issued>(args: &ListArgs) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    let all = T::all(&connected).await.map_err(|status| connected.failed(&status))?;
    let format = args.output.format;
    if format == Format::Name {
        output::out(&all.iter().map(|it| format!("{}\n", it.name())).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    if all.is_empty() && format == Format::Table {
        output::note(&format!("no {}s; {} makes one\n", T::NOUN, T::MADE_BY));
        return Ok(ExitCode::SUCCESS);
    }
    format.print(
        || T::table(&all),
        || {
            let list: Vec<_> = all.iter().map(T::json).collect();
            serde_json::json!({ format!("{}s", T::NOUN): list })
        },
    )
}

pub(super) async fn revoke<T: Issued>(args: &RevokeArgs) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    for name in &args.names {
        let revoked = T::revoke(&connected, name).await;
        revoked.map_err(|status| connected.failed(&status))?;
        output::note(&format!("{} {name} revoked\n", T::NOUN));
    }
    args.output.format.print(String::new, || serde_json::json!({ "revoked": args.names }))
}
