//! `outrigger dev`: a control plane and several services with their sidecars in one terminal, until
//! Ctrl-C.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{
    output::{self, Failure},
    role, words,
};
use crate::app::{
    announce::Announce,
    bootstrap,
    context::{Contexts, NamedContext},
    dev::{Config, Directory, Instance, Mesh, Options, Output, Serving, StartError},
    signals::{Wish, Wishes},
};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// How long instances may take to be ready, all at once; a slow application needs some of it.
const READY_MAX: Duration = Duration::from_secs(60);
/// From Ctrl-C to the end: drains, then applications, then the control plane.
const STOP_MAX: Duration = Duration::from_secs(15);
/// What the mesh is called among the user's contexts.
const CONTEXT: &str = "dev";

const EXAMPLE: &str = "\
Example of a dev.yaml:
  mesh: mesh.yaml                       # files or directories with resources, applied first
  services:
    - name: orders
      replicas: 2
      app: \":0\"                         # a free port, told to the command as PORT
      command: [./orders]               # runs where dev.yaml is
      upstreams: [catalog:9090]         # told as OUTRIGGER_UPSTREAM_CATALOG
      restart: OnFailure                # Never | OnFailure | Always
    - {name: catalog, app: \":0\", command: [python, catalog.py], env: {LEVEL: debug}}

While it runs, `outrigger status --context dev` and the like lead to it from other terminals.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Args {
    /// What to run
    #[arg(short, long, value_name = "FILE", default_value = "dev.yaml", env = "OUTRIGGER_FILE")]
    file: PathBuf,
    /// Keep certificates, configuration and logs here [default: a temporary directory]
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_DATA")]
    data: Option<PathBuf>,
    /// Where sidecars send spans, such as http://127.0.0.1:4317
    #[arg(long, value_name = "URL", env = "OUTRIGGER_OTLP", value_parser = words::collector)]
    otlp: Option<String>,
    /// The log level of control plane and sidecars
    #[arg(long, value_name = "LEVEL", default_value = "warn", env = "OUTRIGGER_LOG")]
    #[arg(value_parser = role::log_filter)]
    log: String,
    /// When all is ready, write all addresses as one JSON line to this file descriptor
    #[arg(long, value_name = "N", env = "OUTRIGGER_READY_FD")]
    ready_fd: Option<u32>,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let started = tokio::time::Instant::now();
    let mut wishes = Wishes::listen(false)?;
    // Dropped last: the mesh must be gone when its directory goes.
    let directory = match &args.data {
        Some(path) => Directory::kept(path)?,
        None => Directory::temporary()?,
    };
    let options = options(&args, directory.path())?;
    let mesh = tokio::select! {
        mesh = Mesh::start(&options) => mesh.map_err(refused)?,
        () = ended(&mut wishes) => return Ok(ExitCode::SUCCESS),
    };
    for warning in mesh.warnings() {
        output::note(&format!("{warning}\n"));
    }
    let _published = Published::add(mesh.context());
    let ready = async {
        let late = mesh.ready(READY_MAX).await;
        for (instance, why) in &late {
            output::note(&format!("{}: {why}\n", instance.name()));
        }
        output::out(&summary(&mesh, started.elapsed()))?;
        if late.is_empty() {
            let announce = Announce { fd: args.ready_fd, ..Announce::default() };
            announce.ready(&addresses(&mesh))?;
        }
        Ok::<(), Failure>(())
    };
    tokio::select! {
        told = ready => match told {
            Ok(()) => ended(&mut wishes).await,
            Err(failure) => {
                mesh.shutdown(STOP_MAX).await;
                return Err(failure);
            }
        },
        () = ended(&mut wishes) => {}
    }
    output::note("stopping; once more to kill\n");
    let killed = tokio::select! {
        killed = mesh.shutdown(STOP_MAX) => killed,
        // Dropping the mesh kills what is left.
        () = ended(&mut wishes) => return Err(anyhow::anyhow!("killed on request").into()),
    };
    if !killed.is_empty() {
        return Err(anyhow::anyhow!("did not end in time: {}", killed.join(", ")).into());
    }
    Ok(ExitCode::SUCCESS)
}

/// The next wish to end.
async fn ended(wishes: &mut Wishes) {
    while wishes.next().await == Wish::Reload {}
}

fn options(args: &Args, data: &Path) -> Result<Options, Failure> {
    let name = args.file.display().to_string();
    let text = bootstrap::read_text(&args.file, FILE_BYTES_MAX).with_context(|| name.clone());
    let text = text.map_err(|error| {
        Failure::new(error).with_hint("outrigger dev --help shows what such a file says")
    })?;
    let config = Config::parse(&text, &name)?;
    let directory = std::path::absolute(&args.file)?;
    let directory = directory.parent().map(Path::to_owned).unwrap_or_default();
    let mut resources = Vec::new();
    for file in &config.mesh.0 {
        // Problems name files as the user would from here.
        read_resources(&args.file.with_file_name(file), &mut resources)?;
    }
    let terminal = Some(io::stderr().is_terminal() && bootstrap::variable("NO_COLOR").is_none());
    Ok(Options {
        config,
        resources,
        directory,
        data: data.to_owned(),
        output: Output { terminal, directory: Some(data.join("logs")) },
        otlp: args.otlp.clone(),
        environment: Vec::new(),
        log: Some(args.log.clone()),
    })
}

/// A file, or the YAML files of a directory in the order of their names.
fn read_resources(path: &Path, into: &mut Vec<(String, String)>) -> Result<(), Failure> {
    let name = path.display().to_string();
    if !path.is_dir() {
        let text = bootstrap::read_text(path, FILE_BYTES_MAX).with_context(|| name.clone())?;
        into.push((name, text));
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| name.clone())?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml" || end == "yml"));
    files.sort();
    files.iter().try_for_each(|file| read_resources(file, into))
}

/// Says every problem of the configuration too.
fn refused(error: StartError) -> Failure {
    if let StartError::Problems(problems) = &error {
        for problem in problems {
            output::note(&format!("{problem}\n"));
        }
    }
    Failure::new(error)
}

/// The mesh among the user's contexts, while this value lives.
struct Published;

impl Published {
    /// Without a place for contexts there is none, which is not worth a failure.
    fn add(context: &NamedContext) -> Option<Self> {
        let mut contexts = Contexts::load(None).ok()?;
        let name = CONTEXT.to_owned();
        contexts.put(NamedContext { name, context: context.context.clone() });
        contexts.save().ok()?;
        Some(Self)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if let Ok(mut contexts) = Contexts::load(None) {
            contexts.remove(CONTEXT);
            let _kept = contexts.save();
        }
    }
}

/// What runs, and where each part of it is.
fn summary(mesh: &Mesh, took: Duration) -> String {
    let serving: Vec<_> = mesh
        .instances()
        .iter()
        .filter_map(|instance| Some((instance, instance.serving()?)))
        .collect();
    let services: std::collections::BTreeSet<_> =
        mesh.instances().iter().filter_map(Instance::service).collect();
    let rows: Vec<Vec<String>> = serving
        .iter()
        .map(|(instance, serving)| {
            let text = |address: &Option<String>| address.clone().unwrap_or_else(|| "-".to_owned());
            let service = instance.service().map(ToString::to_string).unwrap_or_default();
            let Serving { addresses, .. } = &**serving;
            vec![
                instance.name().to_owned(),
                service,
                text(&addresses.inbound),
                text(&addresses.outbound),
                text(&addresses.admin),
                addresses.app.values().cloned().collect::<Vec<_>>().join(","),
            ]
        })
        .collect();
    let all = mesh.instances().len();
    let ready = if serving.len() == all {
        format!("ready in {:.1}s", took.as_secs_f64())
    } else {
        format!("{} of {all} ready", serving.len())
    };
    let headings = ["INSTANCE", "SERVICE", "INBOUND", "OUTBOUND", "ADMIN", "APPLICATION"];
    format!(
        "\noutrigger dev: {}, {}, {}, {ready}\n\n{}\ncontrol plane {}   try: outrigger status \
         --context {CONTEXT}   Ctrl-C stops all\n\n",
        words::count(services.len(), "service"),
        words::count(all, "instance"),
        words::count(all, "sidecar"),
        output::table(&headings, &[], &rows),
        mesh.context().context.server,
    )
}

/// The same for programs.
fn addresses(mesh: &Mesh) -> Value {
    let one = |instance: &Instance| {
        let serving = instance.serving()?;
        let mut value = serving.addresses.to_json();
        value["process"] = json!(serving.process);
        value["data"] = json!(instance.data());
        value["log"] = json!(instance.log());
        Some((instance.name().to_owned(), value))
    };
    let instances: BTreeMap<String, Value> = mesh.instances().iter().filter_map(one).collect();
    let control_plane = one(mesh.control_plane()).map(|(_, value)| value);
    json!({ "control_plane": control_plane, "instances": instances })
}
