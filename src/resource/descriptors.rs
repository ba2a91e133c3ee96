//! The descriptors of the API, read when they are first needed. Read, they take megabytes: a sidecar,
//! which needs them only when its configuration is read or it says what it knows, forgets them again.

use std::sync::{Mutex, PoisonError};

use prost_reflect::{DescriptorPool, MessageDescriptor};

use super::DESCRIPTORS;

static POOL: Mutex<Option<DescriptorPool>> = Mutex::new(None);

/// The descriptor of a message, which keeps all of them as long as it lives.
pub(super) fn message(name: &str) -> MessageDescriptor {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = pool
        .get_or_insert_with(|| DescriptorPool::decode(DESCRIPTORS).expect("build.rs wrote them"));
    pool.get_message_by_name(name).expect("proto/ has it")
}

/// Gives their memory back; who needs them next reads them again, in a few milliseconds.
pub fn forget_descriptors() {
    *POOL.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
