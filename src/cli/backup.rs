//! `outrigger backup`: a copy of everything that a running control plane keeps.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use tonic::Streaming;

use super::{
    output::{self, Failure, Format, Output, printable, table},
    remote::{Connected, Remote},
};
use crate::{
    control::{self, Manifest},
    resource::pb,
};

const EXAMPLES: &str = "\
Examples:
  outrigger backup mesh.tar                     of the running control plane
  outrigger backup - | age -r KEY > mesh.age    encrypted on its way
  outrigger backup --show mesh.tar              what one has, and whether it is whole
  outrigger control-plane --data DIR --restore mesh.tar

A backup holds the mesh's CA key: whoever has it can be anyone in the mesh. It is made for its owner \
only (0600). tar reads it too.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Where to write it, or - for stdout; a file of that name is replaced when all is well
    file: PathBuf,
    /// Read this backup instead of making one: check it and list what it has
    #[arg(long, env = "OUTRIGGER_SHOW")]
    show: bool,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    backup(args).await.map_err(|failure| failure.in_format(format))
}

async fn backup(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    if args.show {
        let manifest = control::check_backup(&args.file)?;
        return show(&manifest, &args.file, format);
    }
    let connected = args.remote.connect()?;
    let answer = connected.client.admin().backup(pb::BackupRequest {}).await;
    let stream = answer.map_err(|status| connected.failed(&status))?.into_inner();
    if args.file.as_os_str() == "-" {
        copy(&connected, stream, &mut io::stdout().lock()).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let manifest = save(&connected, stream, &args.file).await?;
    show(&manifest, &args.file, format)
}

/// Takes the file's place only when all of it has come and is whole.
async fn save(
    connected: &Connected,
    stream: Streaming<pb::BackupResponse>,
    path: &Path,
) -> Result<Manifest, Failure> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let failed = |error: io::Error| Failure::say(format!("{}: {error}", path.display()));
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let message = format!("{} is no file that could be replaced", path.display());
        return Err(Failure::say(message).with_hint("outrigger backup - writes to stdout"));
    }
    // One that a crash left may be open to others.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let open = options.write(true).create_new(true).mode(0o600).open(&new);
    let mut file = open.map_err(failed)?;
    let saved = async {
        copy(connected, stream, &mut file).await?;
        file.sync_all().map_err(failed)?;
        let manifest = control::check_backup(&new)?;
        fs::rename(&new, path).map_err(failed)?;
        let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
        let directory = File::open(directory.unwrap_or_else(|| Path::new(".")));
        directory.and_then(|it| it.sync_all()).map_err(failed)?;
        Ok(manifest)
    };
    let saved = saved.await;
    if saved.is_err() {
        // It holds a key, and is of no use.
        let _gone = fs::remove_file(&new);
    }
    saved
}

async fn copy(
    connected: &Connected,
    mut stream: Streaming<pb::BackupResponse>,
    to: &mut impl io::Write,
) -> Result<(), Failure> {
    let (mut written, mut total) = (0_u64, 0);
    loop {
        let part = stream.message().await.map_err(|status| connected.failed(&status))?;
        let Some(part) = part else { break };
        to.write_all(&part.data)?;
        written += u64::try_from(part.data.len())?;
        total = part.total_bytes;
    }
    to.flush()?;
    if written != total || total == 0 {
        return Err(Failure::say(format!("only {written} of {total} bytes came")));
    }
    Ok(())
}

fn show(manifest: &Manifest, path: &Path, format: Format) -> Result<ExitCode, Failure> {
    if format == Format::Name {
        let names = manifest.files.iter().map(|it| format!("{}\n", it.name)).collect::<String>();
        output::out(&names)?;
        return Ok(ExitCode::SUCCESS);
    }
    format.print(
        || text(manifest, &path.display().to_string()),
        || serde_json::to_value(manifest).unwrap_or_default(),
    )
}

fn text(manifest: &Manifest, path: &str) -> String {
    let made = prost_types::Timestamp::from(manifest.made_at());
    let mut text = format!(
        "backup of {} at revision {}, made {made} by {}: {}\n",
        printable(&manifest.trust_domain),
        manifest.revision,
        printable(&manifest.version),
        printable(path),
    );
    let row = |listed: &control::Listed| {
        let secret = if listed.secret { "secret" } else { "" };
        vec![listed.name.clone(), listed.size.to_string(), secret.to_owned()]
    };
    let rows: Vec<_> = manifest.files.iter().map(row).collect();
    text.push_str(&table(&["FILE", "BYTES", "SECRET"], &[1], &rows));
    text.push_str("it holds the CA's key: whoever has it can be anyone in the mesh\n");
    text.push_str(&format!("  restore: outrigger control-plane --data DIR --restore {path}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::text;
    use crate::control::{Listed, Manifest};

    #[test]
    fn what_a_backup_has_is_listed_with_what_is_secret() {
        let listed = |name: &str, size, secret| Listed {
            name: name.to_owned(),
            size,
            sha256: String::new(),
            secret,
        };
        let manifest = Manifest {
            format: 1,
            version: "0.1.0".to_owned(),
            trust_domain: "mesh.local".to_owned(),
            revision: 43,
            made_at: 1_795_000_000,
            files: vec![listed("ca.pem", 600, false), listed("mesh.redb", 1_589_248, true)],
        };
        let expected = "\
backup of mesh.local at revision 43, made 2026-11-18T11:06:40Z by 0.1.0: mesh.tar
FILE         BYTES  SECRET
ca.pem         600
mesh.redb  1589248  secret
it holds the CA's key: whoever has it can be anyone in the mesh
  restore: outrigger control-plane --data DIR --restore mesh.tar
";
        assert_eq!(text(&manifest, "mesh.tar"), expected);
    }
}
