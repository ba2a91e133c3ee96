//! Which resources a `List` or `Watch` asks for.

use super::{error, selector::Selector};
use crate::resource::{Kind, ResourceKey, pb};
use tonic::Status;

/// Kinds, namespace and labels; what is empty takes everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    kinds: Vec<&'static str>,
    namespace: String,
    selector: Selector,
}

impl Filter {
    /// Reads what a request asks for.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for an unknown kind or a malformed selector.
    pub(crate) fn parse(
        kinds: &[String],
        namespace: String,
        selector: &str,
    ) -> Result<Self, Status> {
        let kind = |name: &String| {
            Kind::from_name(name).map(Kind::name).ok_or_else(|| {
                let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                let what = format!("{name:?} is no kind; there are {}", known.join(", "));
                error::invalid("kinds", what)
            })
        };
        let kinds = kinds.iter().map(kind).collect::<Result<_, _>>()?;
        let selector =
            Selector::parse(selector).map_err(|wrong| error::invalid("selector", wrong))?;
        Ok(Self { kinds, namespace, selector })
    }

    /// Whether this resource is asked for.
    pub(crate) fn takes(&self, key: &ResourceKey, resource: &pb::Resource) -> bool {
        self.takes_key(key)
            && match &resource.metadata {
                Some(metadata) => self.selector.selects(&metadata.labels),
                None => self.selector == Selector::default(),
            }
    }

    /// Whether anything of this kind can be asked for.
    pub(crate) fn takes_kind(&self, kind: Kind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind.name())
    }

    /// Whether a resource of this name can be asked for, whatever its labels.
    pub(crate) fn takes_key(&self, key: &ResourceKey) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&key.kind))
            && (self.namespace.is_empty() || self.namespace == key.namespace)
    }
}
