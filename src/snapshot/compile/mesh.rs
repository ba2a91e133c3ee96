//! What holds for the whole mesh.

use super::{
    Context,
    read::{MeshForm, Read},
};
use crate::{
    resource::mesh,
    snapshot::{AccessLogMode, Mesh, Tracing},
};

pub(super) fn compile(read: &Read, context: &Context) -> Mesh {
    let written = written(read);
    let access_log = match written.access_log {
        mesh::AccessLog::Off => AccessLogMode::Off,
        mesh::AccessLog::Errors => AccessLogMode::Errors,
        mesh::AccessLog::All => AccessLogMode::All,
    };
    Mesh {
        trust_domain: context.trust_domain.clone(),
        authenticated_peers_allowed: written.authenticated_peers_allowed,
        egress_allowed: written.egress_allowed,
        tracing: Tracing {
            sampling: written.tracing.sampling.share(),
            per_second_max: written.tracing.rate_max.per_second(),
            otlp: written.tracing.otlp,
        },
        access_log,
    }
}

/// The `Mesh` as written, or its defaults. One that was refused may have been meant to be stricter
/// than the defaults, so it is taken as the strictest.
pub(super) fn written(read: &Read) -> mesh::Mesh {
    match &read.mesh {
        MeshForm::Good(mesh) => (**mesh).clone(),
        MeshForm::Absent => mesh::Mesh::default(),
        MeshForm::Refused => mesh::Mesh {
            authenticated_peers_allowed: false,
            egress_allowed: false,
            ..mesh::Mesh::default()
        },
    }
}
