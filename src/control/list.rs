//! `List`: one page of resources at a time, in the order of their keys. A page token says after
//! which key to go on, and nothing else is kept between two calls: what is written meanwhile before
//! that key is missed, what is written after it is seen.

use std::ops::Bound;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tonic::Status;

use super::{conditions::with_status, error, filter::Filter, fleet::Fleet, key, world::World};
use crate::{
    resource::{Kind, ResourceKey, pb},
    spiffe::{hex, sha256},
};

const PAGE_DEFAULT: u32 = 500;
const PAGE_MAX: u32 = 1000;
/// Bytes after which a page takes no further resource.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Query {
    filter: Filter,
    /// Tells this query from another one, so that no page token is used for the wrong one.
    mark: String,
    size: usize,
    after: Option<ResourceKey>,
}

impl Query {
    /// Reads a request.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with the field that is wrong.
    pub(crate) fn parse(request: pb::ListRequest) -> Result<Self, Status> {
        let pb::ListRequest { kinds, namespace, selector, page_size, page_token } = request;
        let mark = hex(&sha256(format!("{kinds:?}{namespace:?}{selector:?}").as_bytes())[..4]);
        let size = match page_size {
            0 => PAGE_DEFAULT,
            size if size <= PAGE_MAX => size,
            _ => return Err(error::invalid("page_size", format!("more than {PAGE_MAX}"))),
        };
        let after = match page_token.as_str() {
            "" => None,
            token => Some(after(token, &mark).ok_or_else(|| {
                error::invalid("page_token", "is not that of the page before of this very query")
            })?),
        };
        let filter = Filter::parse(&kinds, namespace, &selector)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Ok(Self { filter, mark, size, after })
    }

    /// The page.
    pub(crate) fn page(&self, world: &World, fleet: &Fleet) -> pb::ListResponse {
        let from = self.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found =
            world.range(from).filter(|(key, resource)| self.filter.takes(key, resource)).peekable();
        let mut page = pb::ListResponse { revision: world.revision, ..pb::ListResponse::default() };
        let mut bytes = 0;
        let sessions = fleet.sessions();
        while let Some((at, resource)) = found.next() {
            let resource = with_status(world, fleet, &sessions, at, resource);
            bytes += prost::Message::encoded_len(&resource);
            page.resources.push(resource);
            let full = page.resources.len() >= self.size || bytes > PAGE_BYTES_MAX;
            if full && found.peek().is_some() {
                let token = format!("{}/{}", self.mark, key::text(at));
                page.next_page_token = URL_SAFE_NO_PAD.encode(token);
                break;
            }
        }
        page
    }
}

/// The key after which a token's page begins.
fn after(token: &str, mark: &str) -> Option<ResourceKey> {
    let token = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let mut parts = token.splitn(4, '/');
    if parts.next()? != mark {
        return None;
    }
    let kind = Kind::from_name(parts.next()?)?;
    let (namespace, name) = (parts.next()?, parts.next()?);
    Some(ResourceKey::new(kind, namespace, name))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::Query;
    use crate::{
        control::{
            fleet::Fleet,
            sample::{mesh, route, service, workload, world},
        },
        resource::{self, pb},
    };

    fn names(request: &pb::ListRequest) -> Vec<String> {
        let mut labelled = service("web/front", "");
        labelled.metadata.as_mut().expect("set").labels.insert("app".into(), "front".into());
        let world = world(
            [mesh(), service("shop/orders", ""), route("shop/r", "orders", &[]), labelled],
            [workload("shop/orders-1", "orders", "")],
        );
        let mut names = Vec::new();
        let mut request = request.clone();
        loop {
            let query = Query::parse(request.clone()).expect("accepted");
            let page = query.page(&world, &Fleet::default());
            assert!(request.page_size == 0 || page.resources.len() <= 2, "{page:?}");
            assert!(page.resources.iter().all(|it| it.status.is_some()));
            names
                .extend(page.resources.iter().filter_map(resource::key).map(|key| key.to_string()));
            if page.next_page_token.is_empty() {
                return names;
            }
            request.page_token = page.next_page_token;
        }
    }

    #[test]
    fn pages_together_are_everything_asked_for_once_and_in_order() {
        const ALL: [&str; 5] = [
            "GRPCRoute shop/r",
            "Mesh mesh",
            "Service shop/orders",
            "Service web/front",
            "Workload shop/orders-1",
        ];
        let all = pb::ListRequest::default();
        let kinds = |kinds: &[&str]| pb::ListRequest {
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            ..all.clone()
        };
        for page_size in [0, 1, 2] {
            let with = |request: pb::ListRequest| pb::ListRequest { page_size, ..request };
            assert_eq!(names(&with(all.clone())), ALL, "{page_size}");
            assert_eq!(names(&with(kinds(&["Service", "Mesh"]))), ALL[1..4]);
            let web = pb::ListRequest { namespace: "web".into(), ..all.clone() };
            assert_eq!(names(&with(web)), ALL[3..4]);
            let front = pb::ListRequest { selector: "app=front".into(), ..all.clone() };
            assert_eq!(names(&with(front)), ALL[3..4]);
        }
    }

    #[test]
    fn what_is_no_query_is_refused() {
        let with = |change: fn(&mut pb::ListRequest)| {
            let mut request = pb::ListRequest::default();
            change(&mut request);
            request
        };
        for request in [
            with(|it| it.page_size = 1001),
            with(|it| it.kinds = vec!["Nothing".into()]),
            with(|it| it.selector = "=".into()),
            with(|it| it.page_token = "!".into()),
            // Of a query for everything.
            with(|it| it.page_token = "MDAwMDAwMDAvU2VydmljZS9hL2I".into()),
        ] {
            let refused = Query::parse(request.clone()).expect_err("refused");
            assert_eq!(refused.code(), Code::InvalidArgument, "{request:?}");
        }
    }
}
