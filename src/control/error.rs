//! What the API answers when it refuses: gRPC statuses with the details of google.rpc, so that a
//! program can tell the field, the reason and when to try again without reading the message.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::store::StoreError;
use crate::telemetry::chain;

/// The domain of our `ErrorInfo` reasons.
const DOMAIN: &str = "outrigger.dev";

/// A field of the request is wrong.
pub(crate) fn invalid(field: &str, what: impl Into<String>) -> Status {
    let what = what.into();
    let details = ErrorDetails::with_bad_request_violation(field, &what);
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {what}"), details)
}

/// Refused for a reason that programs know by its name.
pub(crate) fn refused(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    facts: &[(&str, String)],
) -> Status {
    let facts: HashMap<_, _> =
        facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let details = ErrorDetails::with_error_info(reason, DOMAIN, facts);
    Status::with_error_details(code, message, details)
}

/// Refused now; the same call may succeed after the pause.
pub(crate) fn later(code: Code, reason: &str, message: &str, pause: Duration) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(pause));
    details.set_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

/// The store failed: nothing was written. What exactly failed is for the log alone.
pub(crate) fn store(error: &StoreError) -> Status {
    tracing::error!(error = %chain(error), "the store failed");
    let pause = Duration::from_secs(1);
    later(Code::Unavailable, "STORE_FAILED", "the control plane's store failed", pause)
}

/// A defect of ours.
pub(crate) fn internal(what: &str) -> Status {
    tracing::error!(what, "defect");
    Status::internal("a defect of the control plane; its log says more")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::{invalid, later, refused};

    #[test]
    fn details_say_what_the_message_says() {
        let status = invalid("page_size", "more than 1000");
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "page_size: more than 1000")
        );
        let violations = status.get_details_bad_request().expect("has it").field_violations;
        assert_eq!(violations[0].field, "page_size");

        let status = refused(Code::Aborted, "REVISION", "it moved on", &[("newest", "7".into())]);
        let info = status.get_details_error_info().expect("has it");
        assert_eq!((info.reason.as_str(), info.metadata["newest"].as_str()), ("REVISION", "7"));

        let status = later(Code::Unavailable, "BUSY", "busy", Duration::from_secs(3));
        let retry = status.get_details_retry_info().expect("has it");
        assert_eq!(retry.retry_delay, Some(Duration::from_secs(3)));
    }
}
