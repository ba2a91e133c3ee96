//! Resources from the control plane, page by page.

use tonic::Status;

use crate::{
    cli::{output::Failure, remote::Connected},
    resource::{Kind, ResourceKey, pb},
};

/// Resources that one answer may have.
const PAGE: u32 = 500;
/// Pages of one list; a mesh has fewer resources than this holds.
const PAGES_MAX: usize = 1000;

/// Which resources are meant.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Filter<'a> {
    pub(in crate::cli) kinds: &'a [Kind],
    /// `None`: every namespace.
    pub(in crate::cli) namespace: Option<&'a str>,
    pub(in crate::cli) selector: &'a str,
}

impl Filter<'_> {
    /// Everything that matches. Kinds without a namespace match in any.
    pub(in crate::cli) async fn fetch(
        self,
        connected: &Connected,
    ) -> Result<Vec<pb::Resource>, Failure> {
        let mut found = Vec::new();
        for (namespaced, namespace) in [(true, self.namespace.unwrap_or_default()), (false, "")] {
            let kinds = self.kinds(namespaced);
            if kinds.is_empty() {
                continue;
            }
            let mut request = pb::ListRequest {
                kinds,
                namespace: namespace.to_owned(),
                selector: self.selector.to_owned(),
                page_size: PAGE,
                page_token: String::new(),
            };
            for _ in 0..PAGES_MAX {
                let answer = connected.client.config().list(request.clone()).await;
                let answer = answer.map_err(|status| connected.failed(&status))?.into_inner();
                found.extend(answer.resources);
                request.page_token = answer.next_page_token;
                if request.page_token.is_empty() {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// The kinds with a namespace, or those without; empty when there are none such.
    fn kinds(self, namespaced: bool) -> Vec<String> {
        let such = self.kinds.iter().filter(|kind| kind.namespaced() == namespaced);
        such.map(|kind| kind.name().to_owned()).collect()
    }
}

/// The resource of that name.
pub(in crate::cli) async fn one(
    connected: &Connected,
    key: &ResourceKey,
) -> Result<pb::Resource, Status> {
    let request = pb::GetRequest { resource: Some(key.to_pb()) };
    connected.client.config().get(request).await.map(tonic::Response::into_inner)
}
